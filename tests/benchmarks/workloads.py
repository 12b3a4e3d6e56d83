"""What is copied, and the backlogs that are caught up with."""

from __future__ import annotations

from dataclasses import dataclass

_FIVE = "create table w (id bigint primary key, a int, b text, c timestamptz, d numeric)"
_ROW = "g, 'some text ' || g, timestamptz '2026-01-01' + g * interval '1 s', g * 1.1"
_WIDE = ", ".join(f"c{n} text" for n in range(18))
_WIDE_ROW = ", ".join(
    f"case when g % 5 = 0 and {n} % 3 = 0 then null else repeat('v', g % 9) || {n * n} end"
    for n in range(18)
)


@dataclass(frozen=True, slots=True)
class Workload:
    """A backlog: tables, the rows before it on both sides, and its changes."""

    title: str
    create: str
    before: str
    changes: str  #: {n} in it stands for `size`, at scale 1
    size: int
    tables: tuple[str, ...] = ("w",)
    pgbench: bool = False  #: tables, rows and changes are pgbench's


CATCH_UP = {
    "w1": Workload(
        "400,000 inserts of 5 columns, 100 a transaction",
        _FIVE,
        "",
        f"do $$ begin for i in 0..{{n}}-1 loop insert into w select i * 100 + g, {_ROW}"
        " from generate_series(1, 100) g; commit; end loop; end $$",
        4000,
    ),
    "w2": Workload(
        "200,000 inserts of 20 columns with NULLs in every fifth row, 100 a transaction",
        f"create table w (id bigint primary key, a int, {_WIDE})",
        "",
        "do $$ begin for i in 0..{n}-1 loop insert into w select i * 100 + g, g,"
        f" {_WIDE_ROW} from generate_series(1, 100) g; commit; end loop; end $$",
        2000,
    ),
    "w3": Workload(
        "100,000 transactions that update one row of 500,000",
        _FIVE,
        f"insert into w select g, {_ROW} from generate_series(1, 500000) g",
        "do $$ begin for i in 1..{n} loop update w set a = a + 1, b = 'new ' || i"
        " where id = 1 + (i * 7919::bigint) % 500000; commit; end loop; end $$",
        100_000,
    ),
    "w3b": Workload(
        "20,000 transactions of pgbench's TPC-B, 500,000 accounts",
        "",
        "",
        "",
        20_000,
        ("pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"),
        pgbench=True,
    ),
    "w4": Workload(
        "1,000,000 inserts in one transaction",
        _FIVE,
        "",
        f"insert into w select g, {_ROW} from generate_series(1, {{n}}) g",
        1_000_000,
    ),
    "w5": Workload(
        "200,000 deletes by key, 100 a transaction",
        _FIVE,
        f"insert into w select g, {_ROW} from generate_series(1, 400000) g",
        "do $$ begin for i in 0..{n}-1 loop delete from w where id between i * 200 + 1"
        " and i * 200 + 100; commit; end loop; end $$",
        2000,
    ),
}
#: Every backlog ends with a row in this table.
MARK = "create table mark (id int primary key)"
MARKED = "select exists (select from public.mark)"


COPIED = {
    "accounts": "create table accounts (id bigint, branch int, balance bigint, filler char(84))",
    "wide": "create table wide (id bigint, u uuid, t text, n numeric, i int, b boolean,"
    " c timestamptz, d date, j jsonb, a text[], f float8)",
    "small": "create table small (id int, name text)",
}
#: table: statement, rows at scale 1
FILL = {
    "accounts": (
        "insert into accounts select g, g % 20, g * 3, repeat('f', 40)"
        " from generate_series(1, {n}) g",
        2_000_000,
    ),
    "wide": (
        "insert into wide select g, md5(g::text)::uuid, 'text ' || g, g * 1.25, g, g % 2 = 0,"
        " timestamptz '2026-01-01' + g * interval '1 s', date '2026-01-01' + g % 999,"
        " jsonb_build_object('k', g), array['a', g::text], g / 3.0 from generate_series(1, {n}) g",
        1_500_000,
    ),
    "small": ("insert into small select g, 'name ' || g from generate_series(1, {n}) g", 1000),
}
KEYS = (
    "alter table accounts add primary key (id)",
    "alter table wide add primary key (id)",
    "alter table small add primary key (id)",
    "create index on wide (i)",
)
