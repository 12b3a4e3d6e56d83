"""A condition of SQL that a user gives, looked at before it is put between parentheses in a statement.

It cannot leave them: outside of strings and quoted names every parenthesis that it closes is one that it has
opened, and it holds neither comments nor semicolons, nor strings in forms whose end this does not see. What it
means, and whether it is allowed where it goes, is for the server to say.
"""

from __future__ import annotations

import re

LONGEST = 4000

_TOKEN = re.compile(
    r"""(?P<string>'(?:[^']|'')*')|(?P<name>"(?:[^"]|"")+")|(?P<word>[^\W\d]\w*)|(?P<bad>--|/\*|\*/|[;$\\'"\0])|(?P<other>.)""",
    re.DOTALL,
)


def checked(text: str) -> str:
    """The condition without space around it; an empty one is none.

    Raises:
        ValueError: it could end before its closing parenthesis, or cannot be read for sure.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise ValueError(f"a condition may have {LONGEST} characters")
    depth, before = 0, ""
    for token in _TOKEN.finditer(text):
        kind, found = token.lastgroup, token.group()
        if kind == "bad":
            what = "a string or name without an end" if found in "'\"" else repr(found)
            raise ValueError(f"a condition must not hold {what}")
        if kind in ("string", "name") and before.lower() in ("e", "u", "b", "x", "n", "&"):
            raise ValueError(f"a condition must not hold strings like {before}{found[0]}...")
        depth += (found == "(") - (found == ")") if kind == "other" else 0
        if depth < 0:
            break
        before = found
    if depth != 0:
        raise ValueError("the parentheses of a condition must be balanced")
    return text
