"""What a table's indexes, constraints and sequences are called at the target, when the table has another name there.

Their names are unique in a schema, not in a table. So what is named after its table is named after the new one,
and the rest keeps its name, unless somebody has it already: then the table's name is put before it.
"""

from __future__ import annotations

import hashlib

from prefect_datasync.engine.postgres.catalog import Table

LONGEST = 63  #: bytes of a name


def candidates(table: Table, name: str) -> tuple[str, ...]:
    """The names that something of a table may have at the target; the first that is free is taken."""
    if table.target == table.full_name:
        return (name,)
    new = table.target[1]
    named_after = name.startswith(f"{table.name}_")
    first = new + name[len(table.name) :] if named_after else name
    return tuple(dict.fromkeys((fitting(first), fitting(f"{new}_{name}"))))


def fitting(name: str) -> str:
    """The name, or one of its own that begins with it, when it is too long."""
    text = name.encode()
    if len(text) <= LONGEST:
        return name
    mark = hashlib.sha256(text).hexdigest()[:8]
    return f"{text[: LONGEST - 9].decode(errors='ignore')}_{mark}"
