"""Which built-in types mean the same in binary on every server of one major version."""

from __future__ import annotations

from prefect_datasync.engine.postgres.session import Connection

_FIRST_UNPINNED_OID = 10_000  # below: the same type with the same number on every server

# reg*: numbers that mean nothing on another server. money: scaled by lc_monetary. xml: carries an
# encoding. jsonpath, pg_*: internal forms. tsquery: an empty one is sent in binary, but not taken.
_BINARY_TYPES = f"""
select t.oid::int8, case when t.typcategory = 'A' then t.typelem::int8 else 0 end,
  coalesce(r.rngsubtype::int8, 0),
  t.typsend <> 0 and t.typreceive <> 0 and t.typtype in ('b', 'r', 'm')
    and t.typname !~ '^(reg|pg_)' and t.typname not in ('money', 'xml', 'jsonpath', 'tsquery')
from pg_type t left join pg_range r on r.rngtypid = t.oid
where t.oid < {_FIRST_UNPINNED_OID} and t.typnamespace = 'pg_catalog'::regnamespace"""


def binary_types(connection: Connection) -> set[int]:
    """The OIDs of the types whose values may travel in binary between servers of one major version."""
    types = {row[0]: row[1:] for row in connection.execute(_BINARY_TYPES)}

    def travels(oid: int) -> bool:
        if oid not in types:
            return False
        element, subtype, itself = types[oid]
        return bool(itself) and all(travels(part) for part in (element, subtype) if part)

    return {oid for oid in types if travels(oid)}
