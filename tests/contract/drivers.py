"""The drivers that the contract is held against: one line each.

A driver opens a stream of a source's changes and an applier of a target's, over databases that it is
handed. What the contract says of streams and appliers is in `engine.ports`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prefect_datasync.engine.ports import Applier, ChangeStream
from prefect_datasync.engine.postgres import slot
from prefect_datasync.engine.postgres.catalog import read_tables
from prefect_datasync.engine.postgres.changes.apply import PostgresApplier
from prefect_datasync.engine.postgres.changes.feed import Feed
from prefect_datasync.engine.postgres.changes.pull import Pull
from prefect_datasync.engine.postgres.changes.walsender import Walsender
from prefect_datasync.engine.postgres.job_rows.hold import Hold
from prefect_datasync.engine.postgres.lsn import format_lsn
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.postgres.tables import publication
from prefect_datasync.engine.postgres.tables.target_table import read_target_tables
from prefect_datasync.engine.snapshot import CopyRule
from prefect_datasync.engine.spec import Keyless

KEY = "contract-00000000"
APPLICATION = "datasync contract"


@dataclass(frozen=True)
class Prepared:
    """A source that records changes from `position` on, for a job that was just made."""

    position: int
    publications: tuple[str, ...]


def prepare(source: Server) -> Prepared:
    """Publish every table and make the slot."""
    with connect(source, APPLICATION) as connection:
        plan = publication.plan(KEY, read_tables(connection, _all), Keyless.INSERT_ONLY)
        publication.create(connection, plan)
    snapshot = slot.create_slot(
        source,
        APPLICATION,
        slot.slot_name(KEY, 1),
        temporary=False,
        timeout_s=20,
        stop=lambda: None,
        say=print,
    )
    snapshot.close()
    return Prepared(snapshot.lsn, tuple(p.name for p in plan))


StreamOpener = Callable[[Server, Prepared, int, bool], ChangeStream]


def _pull(source: Server, prepared: Prepared, start: int, binary: bool) -> ChangeStream:
    pull = Pull(source, APPLICATION, slot.slot_name(KEY, 1), prepared.publications, binary)
    pull.acknowledge(start)
    return pull


def _walsender(source: Server, prepared: Prepared, start: int, binary: bool) -> ChangeStream:
    name = slot.slot_name(KEY, 1)
    return Walsender(source, APPLICATION, name, prepared.publications, start, binary)


def _feed(source: Server, prepared: Prepared, start: int, binary: bool) -> ChangeStream:
    name, publications = slot.slot_name(KEY, 1), prepared.publications
    return Feed(
        lambda: Pull(source, APPLICATION, name, publications, binary),
        lambda at: Walsender(source, APPLICATION, name, publications, at, binary),
        start,
    )


STREAMS: dict[str, StreamOpener] = {
    "postgres-pull": _pull,
    "postgres-walsender": _walsender,
    "postgres-feed": _feed,
}


@contextlib.contextmanager
def applier(
    source: Server, target: Server, position: int, binary: bool
) -> Iterator[tuple[Applier, Hold]]:
    """An applier of a job whose row stands at *position*, and the hold that owns the job."""
    hold = Hold(target, KEY, "contract")
    hold.take()
    hold.set("phase = 'streaming', pos = %s", format_lsn(position))
    with connect(source, APPLICATION) as look:
        tables = {t.relid: t for t in read_tables(look, _all)}
    found = read_target_tables(hold.connection, [t.full_name for t in tables.values()])
    connection = connect(target, APPLICATION)
    try:
        yield (
            PostgresApplier(
                connection,
                KEY,
                hold.epoch,
                position,
                tables=tables,
                targets={relid: found[t.full_name] for relid, t in tables.items()},
                copied={relid: CopyRule(0, 0) for relid in tables},
                binary=binary,
            ),
            hold,
        )
    finally:
        connection.close()
        hold.close()


def _all(schema: str, name: str) -> bool:
    return True
