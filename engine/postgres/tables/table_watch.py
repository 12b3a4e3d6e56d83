"""Looks at what the source publishes and how its tables are: at the beginning of a session, now and then, soon
after the stream has hinted at a change that it does not show, and where a DBA's event trigger announces one.

An announcement is met between the transactions before it and its own. So a table whose rows were rewritten
rests as it was just before, and one that follows in place does so before any row of the new shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from prefect_datasync.engine.changes import Relation
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Table
from prefect_datasync.engine.postgres.definitions import ddl_trigger
from prefect_datasync.engine.postgres.definitions.shapes import Shapes
from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.session import Connection, connect
from prefect_datasync.engine.postgres.severing import within
from prefect_datasync.engine.postgres.tables import fingerprint
from prefect_datasync.engine.postgres.tables.parking import Parking
from prefect_datasync.engine.postgres.tables.renaming import Renaming
from prefect_datasync.engine.postgres.tables.resting import TablesChanged, may_copy_again
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.postgres.visible import Visible

PUBLICATION_S = 60.0  #: how often the source is looked at
SOON_S = 2.0  #: how often when the stream hints at a change
CHECK_S = 60.0  #: a source that takes longer to look at is taken for lost


class TableWatch:
    """One attempt's looks; from one thread.

    Args:
        reached: everything that the source committed before it is at the target.
    """

    def __init__(self, attempt: Attempt, parking: Parking, reached: Callable[[], int]) -> None:
        self._attempt, self._parking = attempt, parking
        self.shapes = Shapes(attempt, parking, reached)
        self._renaming = Renaming(attempt)
        self._looked = time.monotonic()
        self._hinted = False
        self._seen = Visible()  # what the last look could see
        self.messages = False  #: the source announces its DDL

    def announced(self, xid: int) -> None:
        """A transaction has changed a table's shape: look at once, unless it was seen already.

        Raises:
            StateError: PUBLICATION_CHANGED. TablesChanged: a session has to begin anew.
        """
        until = time.monotonic() + SOON_S
        while not self._seen.shows(xid):
            self._look()
            if time.monotonic() > until:  # it is in the log, and waits for a standby to be seen
                self._hinted = True
                return

    def renamed(self, relation: Relation) -> bool:
        """Whether the source describes a table that follows by another name than the job's rows have."""
        name = (relation.schema, relation.name)
        return any(
            row.relid == relation.relid and row.full_name != name for row in self._parking.following
        )

    def hint(self) -> None:
        """The source has described a table again, though it looks as before."""
        self._hinted = True

    def begin(self, source: Connection) -> dict[int, Table]:
        """Let the target follow what has changed, before a session; the source's tables by relation.

        Raises:
            StateError: PUBLICATION_CHANGED. SchemaChanged: TABLE_REWRITTEN. DataError: as the switches say.
        """
        self._seen.read(source)
        self.messages = ddl_trigger.installed(source) is ddl_trigger.Installed.YES
        self._parking.read()
        self._check(source)
        found = self._tables(source)
        self._parking.leave(source)
        found = self._follow_names(source, found)
        self._parking.meet(source, found)
        if self.shapes.follow(source, found):
            found = self._tables(source)
        self._parking.publish_as_they_are(source, found)
        self.shapes.refuse_unpublished(source, found)
        self._looked, self._hinted = time.monotonic(), False
        return {t.relid: t for t in found}

    def _follow_names(self, source: Connection, found: tuple[Table, ...]) -> tuple[Table, ...]:
        """Let the target follow renamed tables; the source's tables after that."""
        parking, renaming = self._parking, self._renaming
        may_copy = may_copy_again(self._attempt.spec)
        while renaming.follow(source, parking.rows, found, parking.spec, may_copy=may_copy):
            parking.read()
            found = self._tables(source)
        if not ledger.is_again(self._attempt.key):
            renaming.settle(parking.rows, found, parking.spec)
            parking.read()
        return found

    def _tables(self, source: Connection) -> tuple[Table, ...]:
        hold = self._attempt.hold
        return synced_tables(source, self._parking.spec, read_known(hold.connection, hold.key))

    def look(self) -> None:
        """Look at the source if it is time to.

        Raises:
            StateError: PUBLICATION_CHANGED. TablesChanged: a session has to begin anew.
        """
        if self.shapes.overdue:
            raise TablesChanged("the stream has come to where labels were renamed")
        since = time.monotonic() - self._looked
        if since >= (SOON_S if self._hinted else PUBLICATION_S):
            self._look()
            self._hinted = False

    def _look(self) -> None:
        attempt = self._attempt
        with (
            connect(attempt.source, attempt.application("check")) as source,
            within(CHECK_S, source),
        ):
            self._seen.read(source)
            self._check(source)
            if (ddl_trigger.installed(source) is ddl_trigger.Installed.YES) is not self.messages:
                raise TablesChanged("the event trigger at the source was installed, or removed")
            tables, parking = self._tables(source), self._parking
            renamed = self._renaming.due(source, parking.rows, tables, parking.spec)
            if renamed or parking.differ(source, tables):
                raise TablesChanged("tables are new, gone or published otherwise at the source")
            self.shapes.look(source)
        self._looked = time.monotonic()

    def _check(self, source: Connection) -> None:
        recorded = self._attempt.hold.row.publications
        fingerprint.check(source, recorded, self._parking.passed_over)
