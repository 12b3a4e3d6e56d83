"""Tables that rest while the others go on, and what lets one rest: its own fault, its shape, or a wish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from prefect_datasync.engine.errors import CheckFailed, DataError, SchemaChanged
from prefect_datasync.engine.postgres.attempt import Attempt
from prefect_datasync.engine.postgres.catalog import Name, Table
from prefect_datasync.engine.postgres.definitions.marks import newer
from prefect_datasync.engine.postgres.job_rows import chosen, ledger
from prefect_datasync.engine.postgres.job_rows.chosen import Chosen
from prefect_datasync.engine.postgres.job_rows.known import read_known
from prefect_datasync.engine.postgres.job_rows.ledger import Phase, TableRow, Wish
from prefect_datasync.engine.postgres.session import Connection, connect, translating
from prefect_datasync.engine.postgres.tables import (
    fingerprint,
    new_and_gone,
    publication,
    publishing,
)
from prefect_datasync.engine.postgres.tables.emptying import not_ours
from prefect_datasync.engine.postgres.tables.new_and_gone import Differences
from prefect_datasync.engine.postgres.tables.published import listed, narrows
from prefect_datasync.engine.postgres.tables.renaming import renamed_at_source, unplaced
from prefect_datasync.engine.postgres.tables.resting import may_copy_again
from prefect_datasync.engine.postgres.tables.synced import synced_tables
from prefect_datasync.engine.spec import ExistingRows
from prefect_datasync.engine.switches import Policy, Switches

_NEW = "it is new at the source"
_KEYLESS = (
    "it has no usable key at the source; the job publishes no such tables yet: restart the job"
)


class Parking:
    """The tables of one attempt's stream."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._rows: tuple[TableRow, ...] = ()
        self._vanished: frozenset[int] = frozenset()  # of which the stream still has changes
        self._switches: dict[int, Switches] = {}  # as of the last look at the source
        self.chosen: str | None = None  #: what was said of the job's tables, as written
        self._chosen = Chosen.of(None, attempt.spec)
        self.spec = attempt.spec  #: with the tables that are chosen by now

    @property
    def following(self) -> tuple[TableRow, ...]:
        """Those whose changes are applied."""
        return tuple(r for r in self._rows if r.phase not in (Phase.PARKED, Phase.ASIDE))

    @property
    def rows(self) -> tuple[TableRow, ...]:
        """All of them."""
        return self._rows

    @property
    def passed_over(self) -> frozenset[int]:
        """Relations whose changes are not applied; one that was renamed follows under its new name."""
        following = {r.relid for r in self.following}
        resting = frozenset(r.relid for r in self._rows) | frozenset(self._chosen.removed)
        return (resting | self._vanished) - following

    @property
    def parked(self) -> tuple[TableRow, ...]:
        """Those that rest; from any thread."""
        return tuple(row for row in self._rows if row.phase is Phase.PARKED)

    def read(self) -> tuple[TableRow, ...]:
        """Read the ledger; what somebody wished to rest does so from now on."""
        hold = self._attempt.hold
        self.chosen = chosen.read_text(hold.connection, hold.key)
        self._chosen = Chosen.of(self.chosen, self._attempt.spec)
        self.spec = self._chosen.applied(self._attempt.spec)
        known = {row.relid: row.mark for row in self._rows}
        self._rows = tuple(
            replace(row, mark=newer(row.mark, known.get(row.relid)))
            for row in ledger.read_tables(hold.connection, hold.key)
        )
        wished = [row for row in self._rows if row.wish and row.phase is Phase.COPIED]
        for row in wished:
            self._rest(
                {row.full_name: "parked on request"},
                {row.full_name: row.relid},
                Wish.COPY if row.wish is Wish.COPY else None,
            )
        return self._rows

    def differ(self, source: Connection, tables: Iterable[Table]) -> bool:
        """Whether the source has tables that the ledger does not know, lacks some that follow, or publishes
        some otherwise than they need it."""
        all_of_them = tuple(tables)
        found = self._differences(source, all_of_them)
        met = found.come or found.rest or found.refused or found.gone
        return bool(met) or self._astray(source, all_of_them).any

    def meet(self, source: Connection, tables: Sequence[Table]) -> None:
        """Publish tables that came later than the job, and have them copied; note those that are gone.

        Raises:
            DataError: NEW_TABLE or TABLE_DROPPED, as the job's switches say.
        """
        attempt = self._attempt
        self._switches |= {t.relid: t.switches for t in tables}
        found = self._differences(source, tables)
        if found.refused:
            raise found.refusal()
        for row in found.replaced:
            self._take_away(source, row, replaced=True)
        if new := [*found.come, *found.rest]:
            relids = {t.full_name: t.relid for t in new}
            entered = {t.full_name: t for t in new}
            planned = publication.plan(attempt.key, tables, attempt.spec.keyless, narrows(source))
            left = publication.extend(source, planned, publishing.named_by(tables, relids))
            recorded = fingerprint.names(attempt.hold.row.publications)
            attempt.hold.set("publications = %s", fingerprint.read(source, recorded))
            cannot = {t.full_name for t in left}
            come = [t.full_name for t in found.come if t.full_name not in cannot]
            rest = [t.full_name for t in found.rest if t.full_name not in cannot]
            self._rest(dict.fromkeys(come, _NEW), relids, Wish.COPY, entered)
            self._rest(dict.fromkeys(rest, _NEW), relids, None, entered)
            self._rest(dict.fromkeys(cannot, _KEYLESS), relids, None, entered)
            attempt.say(
                f"new at the source: {', '.join(sorted('.'.join(name) for name in relids))}"
            )
        for row in found.gone:
            self._take_away(source, row)
        self._publish(source, tables)

    def _take_away(self, source: Connection, row: TableRow, *, replaced: bool = False) -> None:
        said = self._switches.get(row.relid)
        phase, why = new_and_gone.take_away(source, self._attempt, row, said, self._rows)
        self._rest({row.full_name: why}, {row.full_name: row.relid}, None, phase=phase)
        self._attempt.say(new_and_gone.gone_sentence(row, why, replaced=replaced))

    def publish_as_they_are(self, source: Connection, tables: Sequence[Table]) -> None:
        """Publish the columns that resting tables have now: a copy of them begins with these."""
        attempt, resting = self._attempt, self.passed_over
        if not any(listed(t) and t.relid in resting for t in tables):
            return
        planned = publication.plan(attempt.key, tables, attempt.spec.keyless, narrows(source))
        publication.relist(source, planned, resting)
        recorded = fingerprint.names(attempt.hold.row.publications)
        now = fingerprint.read(source, recorded)
        if now != attempt.hold.row.publications:
            attempt.hold.set("publications = %s", now)

    def _astray(self, source: Connection, tables: Iterable[Table]) -> publishing.Astray:
        names = fingerprint.names(self._attempt.hold.row.publications)
        known = {row.relid for row in self._rows}
        ours = [t for t in tables if t.relid in known]
        follow = {row.relid for row in self.following}
        return publishing.astray(source, names, ours, follow, self._attempt.spec.keyless)

    def _publish(self, source: Connection, tables: Sequence[Table]) -> None:
        """Let tables rest that are not published as they need it, then publish them so.

        Raises:
            SchemaChanged: code NOT_PUBLISHED, when the job shall fail then.
        """
        attempt, spec = self._attempt, self._attempt.spec
        found = self._astray(source, tables)
        if not found.any:
            return
        why = found.unseen | found.harmed
        by_name = {t.full_name: t for t in tables}
        relids = {name: t.relid for name, t in by_name.items()}
        planned = publication.plan(attempt.key, tables, spec.keyless, narrows(source))
        published = fingerprint.names(attempt.hold.row.publications)
        policies = {name: by_name[name].switches.on_rewrite for name in why}
        # At rest first: whatever breaks off after this, what was not sent is not taken for applied.
        for name, reason in found.unseen.items():
            again = policies[name] is Policy.APPLY and may_copy_again(spec)
            again = again and not by_name[name].switches.keeps
            self._rest({name: reason}, relids, Wish.COPY if again else None)
        self._withdraw(source, tables, found.harmed)
        left = publication.extend(source, planned, publishing.named_by(tables, found.unseen))
        attempt.hold.set("publications = %s", fingerprint.read(source, published))
        self._rest({t.full_name: _KEYLESS for t in left}, relids, None)
        if Policy.FAIL in policies.values():
            raise publishing.not_published(why).under(Policy.FAIL)
        self._say_parked(why)

    def withdraw_nameless(self, source: Connection, tables: Sequence[Table]) -> None:
        """Only let tables that have lost their key rest, and publish no updates of them any more."""
        found = self._astray(source, tables)
        self._withdraw(source, tables, found.harmed)
        self._say_parked(found.harmed)

    def _withdraw(
        self, source: Connection, tables: Sequence[Table], harmed: dict[Name, str]
    ) -> None:
        if not harmed:
            return
        attempt, hold = self._attempt, self._attempt.hold
        planned = publication.plan(attempt.key, tables, attempt.spec.keyless, narrows(source))
        published = fingerprint.names(hold.row.publications)
        gone = publishing.named_by(tables, harmed)
        # by the relation: a table may have another name by now, which the job has not followed yet
        lost = {t.relid: harmed[t.full_name] for t in tables if t.full_name in harmed}
        rows = [row for row in self._rows if row.relid in lost]
        why = {row.full_name: lost[row.relid] for row in rows}
        self._rest(why, {row.full_name: row.relid for row in rows}, None)
        hold.set("publications = %s", fingerprint.without(hold.row.publications, gone))
        publishing.withdraw(source, published, planned, tables, harmed)

    def _say_parked(self, why: Mapping[Name, str]) -> None:
        for name, reason in sorted(why.items()):
            dotted = ".".join(name)
            self._attempt.say(f"TABLE_PARKED: {dotted} rests, the other tables go on: {reason}.")

    def leave(self, source: Connection) -> None:
        """Let go of tables that were removed from the job; the target keeps their rows."""
        hold = self._attempt.hold
        removed = frozenset(self._chosen.removed)
        rows = [r for r in self._rows if r.relid in removed and r.fault != ledger.REMOVED]
        if not rows:
            return
        # first what is expected to be published: a publication with more than that does no harm
        recorded = fingerprint.without(hold.row.publications, removed)
        hold.set("publications = %s", recorded)
        try:
            publishing.let_go(source, fingerprint.names(recorded), removed)
        except CheckFailed as exc:
            self._attempt.say(f"{exc} The changes of the removed tables are passed over.")
        # Rows of merged tables cannot be told from the others': one that comes back must not come beside its own.
        others = {r.target for r in self._rows if r.fills and r.relid not in removed}
        stay = {r.full_name: r.relid for r in rows if r.filled and r.target in others}
        gone = [r.full_name for r in rows if r.full_name not in stay]
        ledger.forget(hold.connection, hold.key, hold.epoch, gone)
        self._rest(dict.fromkeys(stay, ledger.REMOVED), stay, None, phase=Phase.ASIDE)
        names = ", ".join(sorted(".".join(row.full_name) for row in rows))
        self._attempt.say(f"removed from the job, kept at the target: {names}")

    def remember(self, marks: Mapping[Name, str]) -> None:
        """Go on with other marks; they are in the ledger already, or need not be."""
        self._rows = tuple(
            replace(row, mark=marks.get(row.full_name, row.mark)) for row in self._rows
        )

    def _differences(self, source: Connection, tables: Sequence[Table]) -> Differences:
        """Tables that are new, also under the name of an earlier one, and those that are gone."""
        if ledger.is_again(self._attempt.key):  # its tables are the job's, which looks after them
            return Differences()
        # those that are copied again are called by their earlier names until they are handed over
        later = renamed_at_source(self._rows, tables, self.spec, source.info.dbname)
        return new_and_gone.differences(
            [t for t in tables if t.relid not in later],
            [row for row in self._rows if row.relid not in later],
            {row.full_name for row in self.following},
            self._chosen.added,
            may_copy=may_copy_again(self._attempt.spec),
        )

    def take(self, fault: DataError) -> None:
        """Let the tables of a fault rest; one that is the job's no more is passed over.

        Raises:
            DataError: the fault, when a table cannot be named or fails the job.
        """
        attempt = self._attempt
        named: dict[Name, int] = {
            row.full_name: row.relid for row in self.following if row.relid in fault.relids
        }
        policies: dict[Name, Policy] = {}
        entered: dict[Name, Table] = {}
        if len(named) < len(fault.relids):  # one that came later than the job
            with (
                connect(attempt.source, attempt.application("check")) as source,
                translating("look for a new table"),
            ):
                remembered = read_known(attempt.hold.connection, attempt.key)
                tables = synced_tables(source, self.spec, remembered)
            known = {row.relid for row in self._rows} | {t.relid for t in tables}
            if vanished := frozenset(fault.relids) - known:
                self._vanished |= vanished
                return
            new = [t for t in tables if t.relid in fault.relids and t.full_name not in named]
            if new_and_gone.made_anew(new, tables, self.following):
                return  # the next session begins with that
            named |= {t.full_name: t.relid for t in new}
            policies = {t.full_name: t.switches.on_new_table for t in new}
            entered = {t.full_name: t for t in tables}
        if not named or Policy.FAIL in policies.values():
            raise fault
        for name, relid in named.items():
            self._take(fault, name, relid, policies.get(name), entered)

    def _take(
        self,
        fault: DataError,
        name: Name,
        relid: int,
        new: Policy | None,
        entered: Mapping[Name, Table],
    ) -> None:
        """Let one table rest; *new* is what the switches say to it, if it came later than the job."""
        attempt, dotted = self._attempt, ".".join(name)
        if new is Policy.IGNORE:
            self._rest({name: _NEW}, {name: relid}, None, entered, phase=Phase.ASIDE)
            attempt.say(f"new at the source, and not followed as the job's switches say: {dotted}")
            return
        switches = self._switches.get(relid)
        again = (
            isinstance(fault, SchemaChanged)
            and Policy.APPLY in (new or fault.policy,)
            and may_copy_again(attempt.spec)
            and not (switches is not None and switches.keeps)
        )
        self._rest({name: str(fault)}, {name: relid}, Wish.COPY if again else None, entered)
        then = "it is copied again" if again else f"`datasync table copy JOB {dotted}` copies it"
        if switches is not None and switches.keeps:
            then += " and loses the rows that only the target has"
        attempt.say(f"{fault} TABLE_PARKED: {dotted} rests, the other tables go on; {then}.")

    def _rest(
        self,
        faults: dict[Name, str],
        relids: dict[Name, int],
        wish: Wish | None,
        entered: Mapping[Name, Table] | None = None,
        *,
        phase: Phase = Phase.PARKED,
    ) -> None:
        hold = self._attempt.hold
        spec = self._attempt.spec
        # what was said of a table that was added is for its first copy
        emptied = set(self._chosen.emptied) - {row.full_name for row in self._rows}
        emptied |= {row.full_name for row in self._rows if row.empties}
        targets = {name: table.target for name, table in (entered or {}).items()}
        entering = [t for name, t in (entered or {}).items() if name in faults]
        if rivals := new_and_gone.rivals(entering, self._rows):
            off = {t.full_name: unplaced(t) for t in entering}
            ledger.park(hold.connection, hold.key, hold.epoch, rivals, relids=relids, tables=off)
            faults = {name: why for name, why in faults.items() if name not in rivals}
        if wish is Wish.COPY and spec.existing_rows is not ExistingRows.TRUNCATE:
            goes_to = {name: targets.get(name, name) for name in faults if name not in emptied}
            theirs = new_and_gone.occupied(hold.connection, goes_to, self._rows)
            if theirs:
                self._rest({n: str(not_ours([n])) for n in theirs}, relids, None, entered)
            faults = {name: why for name, why in faults.items() if name not in theirs}
        ledger.park(
            hold.connection, hold.key, hold.epoch, faults,
            relids=relids, tables=entered or {}, wish=wish, phase=phase,
            empties=emptied - new_and_gone.coming(faults, relids, targets, self._rows),
        )  # fmt: skip
        self._rows = ledger.read_tables(hold.connection, hold.key)
