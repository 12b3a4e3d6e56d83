"""Encodings of text: between two databases the target converts, and a comparison looks at the same bytes.

A database in SQL_ASCII holds bytes whose encoding it does not know. They leave it as they are, and a job says
in `source_charset` what they are, so the target takes them for that and refuses what is none.
"""

from __future__ import annotations

from prefect_datasync.engine.postgres.catalog import literal
from prefect_datasync.engine.postgres.session import Connection

UNKNOWN = "SQL_ASCII"
UTF8 = "UTF8"


def server_encoding(connection: Connection) -> str:
    """The encoding of the connection's database, by PostgreSQL's name."""
    return connection.info.parameter_status("server_encoding") or UTF8


def give_raw(source: Connection) -> None:
    """Let rows leave a database of unknown encoding byte for byte; others go on giving UTF8."""
    if server_encoding(source) == UNKNOWN:
        source.execute("set client_encoding = 'SQL_ASCII'")


def take_as(target: Connection, charset: str | None) -> None:
    """Let the target take rows for text in *charset*; without one, for what `give_raw` gives."""
    if charset is not None:
        target.execute(f"set client_encoding = {literal(charset)}".encode())
    elif server_encoding(target) == UNKNOWN:
        target.execute("set client_encoding = 'SQL_ASCII'")


def speak_utf8(*connections: Connection) -> None:
    """Take `give_raw` and `take_as` back."""
    for connection in connections:
        connection.execute("set client_encoding = 'UTF8'")


def same_bytes(source: Connection, target: Connection, charset: str | None) -> str:
    """What makes equal text of both databases equal bytes, as SQL with `{}` for the text; `{}` alone: nothing."""
    mine, theirs = server_encoding(source), server_encoding(target)
    if mine == theirs or (mine == UNKNOWN and charset == theirs):
        return "{}"
    if mine != UNKNOWN:
        return "convert_to({}, 'UTF8')"
    here = f"case getdatabaseencoding() when 'SQL_ASCII' then {literal(charset or UTF8)} else getdatabaseencoding() end"
    return f"convert(convert_to({{}}, 'SQL_ASCII'), {here}, 'UTF8')"
