"""What a source tells: the changes of committed transactions, in commit order.

A `Row` holds one entry per column, already in the form in which the target's COPY takes it, so that no
value is ever converted: `None` stands for a value that was not sent (unchanged TOAST), everything else,
NULL included, is opaque bytes. Equal bytes mean equal values; nothing more is assumed.

Rows come by the million: changes are named tuples, which are made three times as fast as frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

DDL_PREFIX = "datasync.ddl"  #: of messages that announce a change of a table's shape

Row: TypeAlias = Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column as the stream describes it."""

    name: str
    key: bool  #: part of the replica identity; under FULL every column is
    type_oid: int
    typmod: int


@dataclass(frozen=True, slots=True)
class Relation:
    """The shape of a table from here on in the stream."""

    relid: int
    schema: str
    name: str
    identity: str  #: `d` default, `i` index, `f` full, `n` nothing
    columns: tuple[RelationColumn, ...]


class Begin(NamedTuple):
    """A transaction starts; its changes follow."""

    commit_lsn: int
    commit_time_us: int  #: microseconds since 2000-01-01 UTC, by the source's clock
    xid: int


class Commit(NamedTuple):
    """The transaction is complete."""

    commit_lsn: int
    end_lsn: int  #: the position after the transaction: what is recorded and acknowledged
    commit_time_us: int


class Insert(NamedTuple):
    """A new row."""

    relid: int
    row: Row
    size: int  #: bytes as received


class Incomplete(NamedTuple):
    """A row that came into a row filter by an update; some values of `row`, unchanged TOAST, are None."""

    relid: int
    row: Row
    size: int


class Inserts(NamedTuple):
    """New rows of one table that came one after the other, all in the same transaction."""

    relid: int
    rows: list[Row]
    size: int  #: bytes as received


class Update(NamedTuple):
    """A changed row. `old` holds the previous key (other columns NULL) or, under FULL, the previous row."""

    relid: int
    old: Row | None
    row: Row
    size: int
    unsent: bool  #: some values of `row` are None


class Delete(NamedTuple):
    """A removed row: its key or, under FULL, the row."""

    relid: int
    old: Row
    size: int


class Truncate(NamedTuple):
    """Tables emptied by one statement."""

    relids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class LogicalMessage(NamedTuple):
    """What somebody wrote into the source's log beside the rows, in a transaction or outside of any."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class Heartbeat(NamedTuple):
    """Nothing is on its way: the source has no changes for us before this position."""

    position: int
    reply_wanted: bool


class Idle(NamedTuple):
    """Nothing has arrived for a moment: the time to apply what is pending."""


IDLE = Idle()

Change: TypeAlias = (
    Begin
    | Commit
    | Insert
    | Inserts
    | Incomplete
    | Update
    | Delete
    | Truncate
    | Relation
    | LogicalMessage
    | Heartbeat
    | Idle
)
