"""Whether text arrives as text: encodings that fit, or a source that says what its bytes are."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_datasync.engine.postgres.charset import UNKNOWN, UTF8, server_encoding
from prefect_datasync.engine.postgres.check.findings import Finding, block
from prefect_datasync.engine.postgres.session import Connection, translating

_LAST_OF_SERVERS = (
    34  #: PG_ENCODING_BE_LAST; in the others a byte of a character may look like a backslash
)


def check_encodings(
    source: Connection, target: Connection, charset: str | None
) -> Iterator[Finding]:
    """What stands in the way of text.

    Args:
        charset: the encoding that the job declares its source's text to be in.
    """
    here, there = server_encoding(source), server_encoding(target)
    if here != UNKNOWN:
        if charset is not None:
            yield block(
                "ENCODING",
                f"the job's source_charset is {charset}, but the source's encoding is known: {here}",
                "remove the job's `source_charset`",
            )
        if there not in (here, UTF8):
            yield block(
                "ENCODING",
                f"the source's encoding is {here} and the target's is {there}, which cannot hold every"
                " character",
                "make the target database with ENCODING 'UTF8'",
            )
        return
    if charset is None and there != UNKNOWN:
        yield block(
            "ENCODING",
            "the source database is SQL_ASCII, so its text has no known encoding",
            "set the job's `source_charset` to the encoding that its clients wrote, e.g. UTF8 or LATIN1: a"
            " table with rows that are none will rest with its error; or convert the source to UTF8",
        )
    if charset is not None:
        with translating("check the encodings"):
            row = target.execute("select pg_char_to_encoding(%s)", (charset,)).fetchone()
        if row is None or not 0 < row[0] <= _LAST_OF_SERVERS:
            yield block(
                "ENCODING",
                f"the job's source_charset {charset} is not an encoding that a PostgreSQL database may have",
                "use a name such as UTF8, LATIN1, WIN1252 or EUC_JP",
            )
        elif there not in (UTF8, charset):
            yield block(
                "ENCODING",
                f"the target's encoding is {there}, which cannot hold every character of {charset}",
                "make the target database with ENCODING 'UTF8'",
            )
    if charset != UTF8:
        with translating("look for names beyond ASCII"):
            row = source.execute(_BEYOND_ASCII).fetchone()
        if row == (True,):
            yield block(
                "ENCODING",
                "the source database is SQL_ASCII and has names, labels, defaults or checks beyond ASCII,"
                " whose encoding is unknown",
                "rename them, or convert the source to UTF8",
            )


# Nothing of it is sent: it could not be told in UTF8.
_BEYOND_ASCII = r"""
with theirs as (
  select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'
), words (word) as (
  select nspname::text from theirs
  union all select relname::text from pg_class where relnamespace in (select oid from theirs)
  union all select a.attname::text from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace in (select oid from theirs)
  union all select typname::text from pg_type where typnamespace in (select oid from theirs)
  union all select enumlabel::text from pg_enum
  union all select pg_get_expr(adbin, adrelid) from pg_attrdef
  union all select pg_get_constraintdef(oid) from pg_constraint where connamespace in (select oid from theirs)
  union all select pg_get_expr(coalesce(indexprs, indpred), indrelid) from pg_index
    where indexprs is not null or indpred is not null
)
select exists (select from words where octet_length(word) <> octet_length(
  regexp_replace(word collate "C", '[^[:ascii:]]', '', 'g')))"""
