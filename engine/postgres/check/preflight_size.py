"""What a copy needs: room at the target, and WAL that the source keeps for as long as it takes.

PostgreSQL tells nobody how much of a disk is free. So the need is told, for people to compare; only the source's own
limit for slots is known, and compared here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.check.findings import Finding, Side, info, warn
from prefect_datasync.engine.postgres.check.providers import Problem, Provider, cure
from prefect_datasync.engine.postgres.session import Connection, translating
from prefect_datasync.engine.quantities import size, span
from prefect_datasync.engine.spec import SyncSpec

COPIED_PER_S = 20e6  #: bytes, over an ordinary network and with the making of indexes
LONG_S = 60.0  #: a shorter copy leaves no WAL to speak of
AMPLE = 2  #: times what is expected: loads have peaks
_MB = 1024 * 1024


def check_size(
    source: Connection,
    target: Connection | None,
    spec: SyncSpec,
    tables: Sequence[Table],
    provider: Provider,
) -> Iterator[Finding]:
    """What a copy of the tables needs, as far as the servers know."""
    with translating("estimate the size of the copy"):
        found = source.execute(_SIZES, ([t.relid for t in tables if t.kind == "r"],)).fetchone()
        rows, indexes = map(int, found or (0, 0))
        if not rows + indexes or not spec.mode.copies:
            return
        need = (
            f"the copy needs about {size(rows + indexes)} at the target ({size(rows)} of rows,"
            f" {size(indexes)} of indexes)"
        )
        if target is not None:
            most = target.execute("select current_setting('max_wal_size')").fetchone()
            need += f", and WAL of about max_wal_size ({most[0] if most else '-'}) beside it"
        took = (rows + indexes) / COPIED_PER_S
        kept = wal_per_s(source) * took if spec.mode.streams else 0.0
        limit = _limit(source)
    if kept and took >= LONG_S:
        need += (
            f"; it takes about {span(took)} at {size(COPIED_PER_S)}/s, and the source keeps about"
            f" {size(kept)} of WAL meanwhile"
        )
    yield info("COPY_SIZE", need, "make sure that the disks have the room")
    if kept and limit is not None and limit < kept:
        ample = round(AMPLE * kept / _MB)
        raised = cure(
            provider, Problem.RELOAD_SETTING, setting="max_slot_wal_keep_size", value=ample
        )
        yield warn(
            "WAL_LIMIT_SHORT",
            f"at its average the source writes {size(kept)} of WAL while {size(rows + indexes)} are copied, and"
            f" keeps no more than max_slot_wal_keep_size ({size(limit)}): the copy would be lost before it ends",
            f"{raised.do} (MB), if its disk has the room; or copy the largest tables by jobs of their own",
            raised.sql,
            Side.SOURCE,
        )


def wal_per_s(source: Connection) -> float:
    """How much WAL the source writes on average since its statistics began; 0 where it does not know."""
    if source.info.server_version < 140000:
        return 0.0
    found = source.execute(_WAL_RATE).fetchone()
    return float(found[0] or 0) if found else 0.0


def _limit(source: Connection) -> int | None:
    found = source.execute(
        "select pg_size_bytes(nullif(current_setting('max_slot_wal_keep_size', true), '-1'))"
    ).fetchone()
    return None if found is None or found[0] is None else int(found[0])


_SIZES = """
select coalesce(sum(pg_table_size(c.oid)), 0), coalesce(sum(pg_indexes_size(c.oid)), 0)
from pg_class c where c.oid = any(%s::oid[])"""

_WAL_RATE = """
select wal_bytes / nullif(extract(epoch from now() - stats_reset), 0) from pg_stat_wal"""
