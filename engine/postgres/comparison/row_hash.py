"""A row's hash as SQL, equal on both sides iff the row's values are.

Each column is hashed by itself, with its number as the seed, and the hashes are combined by XOR. Integers,
timestamps, numerics, uuids, bytea and strings are hashed as they are, which costs a third of their text; everything
else as text under pinned settings, since binary forms do not exist for all types and equality is not identity for
some (1.0 and 1.00, citext, -0). xml is hashed as the server writes it for others: a cast to text would show the
encoding that a value declares, which never leaves the server. Columns go by name, so their order may differ.

PostgreSQL's own hash of 8 bytes, of which bigint and timestamps are, first folds them into 4: 1 and 2^32 have
the same. So a bigint seeds its hash with itself, and of timestamps all bytes are hashed, those of a row at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from prefect_datasync.engine.postgres.catalog import Column, Table, quote

_BIGINT = 20
_INTEGERS = (21, 23)
_STRINGS = (25, 1043)
_XML = 142
_EXACT = (17, 2950)  # bytea and uuid: equal values are equal byte for byte
_SENT = {1114: "timestamp_send", 1184: "timestamptz_send", 1700: "numeric_send"}


def row_hash(table: Table, other: Table, text: str) -> str:
    """The hash of all written columns of *table*, for it and for the *other* side's table alike.

    Args:
        text: see `charset.same_bytes`.
    """
    return _combined(table.stored_columns, other, text)


def rest_hash(table: Table, other: Table, text: str) -> str:
    """The hash of what does not name a row: XOR with that of the key it is a hash of the row."""
    names = key_columns(table)
    rest = [column for column in table.stored_columns if column.name not in names]
    return _combined(rest, other, text, first=len(table.stored_columns) + 1)


def key_columns(table: Table) -> tuple[str, ...]:
    """What names a row; empty when only the whole row does."""
    names = table.primary_key or table.key
    stored = {column.name for column in table.stored_columns}
    return names if stored.issuperset(names) else ()


def key_hash(table: Table, other: Table, text: str) -> str:
    """The hash of what names a row."""
    names = key_columns(table)
    if not names:
        return row_hash(table, other, text)
    return _combined([c for c in table.columns if c.name in names], other, text)


def _combined(columns: Sequence[Column], other: Table, text: str, *, first: int = 1) -> str:
    theirs = {column.name: column.type_oid for column in other.columns}
    sent: list[str] = []
    parts: list[str] = []
    for number, column in enumerate(columns, first):
        same_type = theirs.get(column.name) == column.type_oid
        if same_type and column.type_oid in _SENT:
            sent.append(f"{_SENT[column.type_oid]}({quote(column.name)})")
        else:
            parts.append(_column_hash(column, number, same_type, text))
    if sent:
        # Hashed once more: that of an array is a weighted sum, in which values that change rows would cancel.
        seed = f"hash_array_extended(array[{', '.join(sent)}], 0)"
        parts.append(f"hashint8extended({first - 1}, {seed})")
    while len(parts) > 1:  # as a tree: a chain of 1,600 would overflow the server's stack
        parts = ["(" + " # ".join(parts[at : at + 2]) + ")" for at in range(0, len(parts), 2)]
    return parts[0] if parts else "0::bigint"


def _column_hash(column: Column, number: int, same_type: bool, recoded: str) -> str:
    name = quote(column.name)
    if same_type and column.type_oid == _BIGINT:
        return f"coalesce(hashint8extended({name}, {name} # {number}), {number})"
    if same_type and column.type_oid in _INTEGERS:
        return f"coalesce(hashint8extended({name}::bigint, {number}), {number})"
    if same_type and column.type_oid in _EXACT:
        return f"hash_array_extended(array[{name}], {number})"
    if same_type and column.type_oid in _STRINGS:
        text = name
    elif column.type_oid == _XML:
        text = f"xml_out({name})::text"
    else:
        text = f"{name}::text"
    if recoded != "{}":
        return f"hash_array_extended(array[{recoded.format(text)}], {number})"
    return f'coalesce(hashtextextended({text} collate "C", {number}), {number})'
