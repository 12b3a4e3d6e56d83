"""A seeded workload whose rows the target refuses for every reason there is, some of them only together.

parent, child   children come before and with their parents, go before and after them, and change theirs
lone            keys change beside a large value that is not sent; values are swapped and passed on

The source keeps every child a parent, since a parent that has to go while the target still has a child of it is no
row that could wait.
"""

from __future__ import annotations

import random

from prefect_datasync.engine.postgres.session import Server, connect

TABLES = ("child", "lone", "parent")
SCHEMA = (
    "create table parent (id int primary key, code int)",
    "create table child (id int primary key, parent int, u int, note varchar, span int4range)",
    "create table lone (id int primary key, v int, body text)",
    "alter table lone alter body set storage external",
)
#: What only the target asks for: the deferred ones at the commit, and of all sessions.
CONSTRAINTS = {
    "parent_code": "alter table parent add constraint parent_code check (code <> 3)",
    "child_u": "alter table child add constraint child_u unique (u)",
    "child_span": "alter table child add constraint child_span exclude using gist (span with &&)",
    "child_parent": "alter table child add constraint child_parent foreign key (parent) references parent"
    " deferrable initially deferred",
    "lone_v": "alter table lone add constraint lone_v unique (v) deferrable initially deferred",
}
NARROW, WIDE = (f"alter table child alter note type varchar{n}" for n in ("(4)", ""))


class RefusableLoad:
    """Transactions at the source, made one by one."""

    def __init__(self, source: Server, seed: int) -> None:
        self._source, self._random, self._next = source, random.Random(seed), 1

    def run(self, transactions: int) -> None:
        """Commit so many."""
        with connect(self._source, "application") as self._session:
            self._session.execute("set search_path = public")
            for _ in range(transactions):
                statements: list[str] = []
                for _ in range(self._random.choice((1, 1, 2, 4))):
                    statements += self._statements(statements)
                self._session.execute("; ".join(["begin", *statements, "commit"]).encode())

    def _statements(self, before: list[str]) -> list[str]:
        rnd, kind = self._random, self._random.random()
        if kind < 0.3:
            parent = self._new()
            found = [f"insert into parent values ({parent}, {rnd.randrange(8)})"]
            found += [self._child(parent) for _ in range(rnd.randrange(4))]
            rnd.shuffle(found)
            return found
        if kind < 0.36 and not before:  # by itself: other children of it may be of this transaction
            parent = self._one("parent")
            found = [
                f"delete from parent where id = {parent}",
                f"delete from child where parent = {parent}",
            ]
            rnd.shuffle(found)
            return found
        if kind < 0.42:
            return [f"update parent set code = 5 where id = {self._one('parent')}"]
        if kind < 0.7:
            return [self._change_of_child(before)]
        return self._lone()

    def _change_of_child(self, before: list[str]) -> str:
        rnd, child = self._random, self._one("child")
        changes = [
            f"update child set u = {rnd.randrange(60)} where id = {child}",
            f"update child set note = repeat('n', {rnd.randrange(7)}) where id = {child}",
            f"update child set span = {self._span()} where id = {child}",
            f"update child set id = {self._new()} where id = {child}",
            f"delete from child where id = {child}",
        ]
        if not before:
            parent = self._one("parent")
            changes.append(
                f"update child set parent = {parent} where id = {child}"
                f" and exists (select from parent where id = {parent})"
            )
        return rnd.choice(changes)

    def _lone(self) -> list[str]:
        rnd, one, other = self._random, self._one("lone"), self._one("lone")
        return rnd.choice(
            (
                [
                    f"insert into lone values ({self._new()}, {rnd.randrange(40)}, repeat('b', 3000))"
                ],
                [
                    f"insert into lone values ({self._new()}, {rnd.randrange(40)}, repeat('b', 3000))"
                ],
                [f"update lone set v = {rnd.randrange(40)} where id = {one}"],
                [f"update lone set id = {self._new()} where id = {one}"],
                [f"delete from lone where id = {one}"],
                [
                    f"update lone x set v = y.v from lone y where (x.id, y.id) in"
                    f" (({one}, {other}), ({other}, {one}))"
                ],
                ["truncate lone"] if rnd.random() < 0.05 else [],
            )
        )

    def _child(self, parent: int) -> str:
        rnd = self._random
        return (
            f"insert into child values ({self._new()}, {parent}, {rnd.randrange(200)},"
            f" repeat('n', {rnd.choice((1, 2, 3, 4, 5))}), {self._span()})"
        )

    def _span(self) -> str:
        low = self._random.randrange(400)
        return f"int4range({low}, {low + 2})"

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _one(self, table: str) -> int:
        """The key of a row that was there before the transaction, or of none."""
        ids = self._session.execute(f"select id from {table} order by id".encode()).fetchall()
        return int(str(self._random.choice(ids)[0])) if ids else 0
