"""Tables are added to a job at work and removed from it, exactly, while the others go on."""

from __future__ import annotations

import time

from attempts import KEY, execute, running
from table_life import SPEC, following, until

from prefect_datasync.engine.postgres.job_rows import ledger
from prefect_datasync.engine.postgres.job_rows.chosen import (
    Chosen,
    read_text,
    with_table,
    without_table,
    write,
)
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.session import connect
from prefect_datasync.engine.postgres.tables import fingerprint
from prefect_datasync.engine.switches import Policy

A, ODD = ("public", "a"), ("public", "odd[1]*")


def test_a_table_is_removed_and_added_while_the_other_goes_on(two_tables, monkeypatch):
    source, target = two_tables
    execute(
        source,
        'create table "odd[1]*" (id int primary key, x int)',
        'insert into "odd[1]*" select g, g from generate_series(1, 50) g',
    )
    spec = SPEC.model_copy(update={"exclude": ("public.odd*",), "on_new_table": Policy.IGNORE})
    with connect(source, "look") as at_source, connect(target, "look") as look:

        def relid(name: str) -> int:
            return at_source.execute(
                "select %s::regclass::oid::int8", (f'public."{name}"',)
            ).fetchone()[0]

        def count(name: str) -> int:
            return look.execute(f'select count(*) from public."{name}"'.encode()).fetchone()[0]

        def published() -> set[str]:
            rows = at_source.execute(
                "select tablename from pg_publication_tables where pubname ~ %s", (KEY[:3],)
            )
            return {name for (name,) in rows}

        def arrives(number: int) -> None:
            execute(source, f"insert into b values ({number}, 1)")
            arrived = f"select 1 from public.b where id = {number}"
            attempt.until(lambda: look.execute(arrived).fetchall())

        with running(source, target, spec) as attempt:
            following(attempt)
            arrives(1000)
            records = attempt.kpis.instance_records
            old = Chosen.of(None, spec)
            chosen = without_table(old, spec, A, relid("a"))
            # as it is when the stream still holds changes from before the removal
            execute(source, "insert into a select g, 1 from generate_series(2000, 2009) g")
            write(target, KEY, chosen, A, removing=True)
            end = time.monotonic() + 60
            while not any("removed from the job" in said for said in attempt.said):
                execute(source, "update a set x = x + 1 where id < 10")
                assert time.monotonic() < end
            arrives(1001)
            assert [row.name for row in ledger.read_tables(look, KEY)] == ["b"]
            assert published() == {"b"}
            kept = count("a")
            assert kept in (500, 510)
            execute(source, "delete from a where id <= 100")
            arrives(1002)
            assert count("a") == kept
            assert attempt.kpis.instance_records >= records

        with running(source, target, chosen.applied(spec)) as attempt:
            arrives(1003)
            chosen = with_table(
                Chosen.of(read_text(look, KEY), spec), spec, A, relid("a"), empties=True
            )
            assert chosen.removed == ()
            write(target, KEY, chosen, A, removing=False)
            until(attempt, "a", Phase.COPIED)
            execute(source, "update a set x = 7")
            arrives(1004)
            assert published() == {"a", "b"}
            attempt.spec = chosen.applied(spec)
            assert attempt.verify().equal
            recorded = look.execute("select publications from prefect_datasync.job").fetchone()[0]
            fingerprint.check(at_source, recorded)


def test_names_are_selected_as_they_are_and_a_pattern_that_excludes_is_named():
    spec = SPEC.model_copy(update={"tables": ("public.b",), "exclude": ()})
    more = with_table(Chosen.of(None, spec), spec, ODD, 7)
    assert more.applied(spec).selects(*ODD)
    assert not more.applied(spec).selects("public", "odd1x")
    assert Chosen.of(more.text, spec) == more
    less = without_table(more, spec, ODD, 7)
    assert not less.applied(spec).selects(*ODD)
    assert less.removed == (7,)
    everything = without_table(Chosen.of(None, SPEC), SPEC, A, 8)
    assert not everything.applied(SPEC).selects(*A)
    assert everything.applied(SPEC).selects("public", "b")
    assert with_table(everything, SPEC, A, 8).applied(SPEC).selects(*A)
