"""A seeded random workload, and what must be true of any copy of it.

bank    a constant sum: a snapshot that shows another one has half a transaction
log     no key at all, neither here nor at the target: a row twice or lost cannot hide
doc     versions that only grow, keys that change, large values that are not sent when unchanged
tag     a second unique column whose values rows swap within a transaction
mood    emptied now and then

The ids in `log` of transactions that were committed are also written down outside of both databases.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import psycopg

from prefect_datasync.engine.postgres.session import Server

TABLES = ("bank", "log", "doc", "tag", "mood")
ACCOUNTS = 50
SUM = ACCOUNTS * 1000
SCHEMA = """
create table bank (id int primary key, amount bigint not null);
create table log (id bigint not null, at int not null, what text);
create table doc (id bigint primary key, version int not null, body text, note text);
alter table doc alter body set storage external;
create table tag (id int primary key, label text not null unique, body text);
alter table tag alter body set storage external;
create table mood (id int, word text, primary key (word, id));
insert into bank select g, 1000 from generate_series(1, 50) g;
insert into doc select g, 0, repeat('d', 3000) || g, 'n' from generate_series(1, 1500) g;
insert into tag select g, 'l' || g, repeat('t', 3000) || g from generate_series(1, 40) g;
"""


class RandomLoad:
    """Transactions one after the other until it is stopped; survives restarts of the server."""

    def __init__(self, source: Server, seed: int) -> None:
        self.committed: set[int] = set()  #: ids in `log` whose commit was answered
        self.unknown: set[int] = set()  #: ids whose commit was under way when the connection broke
        self._source, self._random = source, random.Random(seed)
        self._next = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failed: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the transaction under way; raises what the workload failed with."""
        self._end.set()
        self._thread.join(60)
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                with (
                    contextlib.suppress(psycopg.OperationalError),
                    connect(self._source) as session,
                ):
                    while not self._end.is_set():
                        self._transaction(session)
        except BaseException as exc:  # noqa: BLE001 - raised again by `stop`
            self._failed = exc

    def _transaction(self, session: psycopg.Connection[tuple[object, ...]]) -> None:
        ids: list[int] = []
        session.execute("begin")
        for _ in range(self._random.choice((1, 1, 1, 2, 5, 30))):
            self._statement(session, ids)
        if self._random.random() < 0.1:
            session.execute("savepoint s")
            lost: list[int] = []
            for _ in range(3):
                self._statement(session, lost)
            session.execute("rollback to s")
        if self._random.random() < 0.1:
            session.execute("rollback")
            return
        self.unknown.update(ids)
        session.execute("commit")
        self.unknown.difference_update(ids)
        self.committed.update(ids)

    def _statement(self, session: psycopg.Connection[tuple[object, ...]], ids: list[int]) -> None:
        rnd, kind = self._random, self._random.random()
        if kind < 0.3:
            count = rnd.choice((1, 2, 40))
            first, self._next = self._next, self._next + count
            ids.extend(range(first, first + count))
            session.execute(
                "insert into log select g, %s, 'w' || g from generate_series(%s::bigint, %s::bigint) g",
                (rnd.randrange(1000), first, first + count - 1),
            )
        elif kind < 0.5:
            one, other = rnd.sample(range(1, ACCOUNTS + 1), 2)
            session.execute("update bank set amount = amount - 7 where id = %s", (one,))
            session.execute("update bank set amount = amount + 7 where id = %s", (other,))
        elif kind < 0.7:
            session.execute(
                "update doc set version = version + 1 where id %% 50 = %s", (rnd.randrange(50),)
            )
        elif kind < 0.78:
            session.execute(
                "update doc set id = (select max(id) + 1 from doc), version = version + 1"
                " where id = (select id from doc order by random() limit 1)"
            )
        elif kind < 0.84:
            session.execute("delete from doc where id in (select min(id) from doc)")
            session.execute(
                "insert into doc select coalesce(max(id), 0) + 1, 0, repeat('e', %s), null from doc",
                (rnd.choice((10, 3000)),),
            )
        elif kind < 0.93:
            one, other = rnd.sample(range(1, 41), 2)
            (left,) = session.execute("select label from tag where id = %s", (one,)).fetchone() or (
                "",
            )
            (right,) = session.execute(
                "select label from tag where id = %s", (other,)
            ).fetchone() or ("",)
            session.execute("update tag set label = 'in between' where id = %s", (one,))
            session.execute("update tag set label = %s where id = %s", (left, other))
            session.execute("update tag set label = %s where id = %s", (right, one))
        elif kind < 0.98:
            session.execute(
                "insert into mood values (%s, %s) on conflict do nothing",
                (rnd.randrange(100), rnd.choice(("a\tb", "c\\d", "é\n", "'"))),
            )
        else:
            session.execute("truncate mood")


def connect(server: Server) -> psycopg.Connection[tuple[object, ...]]:
    """A plain connection of an application."""
    return psycopg.connect(
        host=",".join(host for host, _ in server.places),
        port=",".join(str(port) for _, port in server.places),
        target_session_attrs="read-write",
        dbname=server.dbname,
        user=server.user,
        password=server.password,
        autocommit=True,
        connect_timeout=5,
    )


def logged(server: Server) -> list[int]:
    """All ids in `log`, repeated ones repeatedly."""
    with connect(server) as session:
        return [int(str(row[0])) for row in session.execute("select id from log order by id")]


@contextlib.contextmanager
def watching(target: Server) -> Iterator[list[str]]:
    """Looks at the target all the time; gives what was wrong: the bank's sum, or a version that went back."""
    wrong: list[str] = []
    end = threading.Event()

    def look() -> None:
        versions: dict[int, int] = {}
        while not end.is_set():
            with contextlib.suppress(psycopg.Error), connect(target) as session:
                while not end.wait(0.05):
                    row = session.execute("select sum(amount), count(*) from bank").fetchone()
                    if row and row[1] == ACCOUNTS and row[0] != SUM:
                        wrong.append(f"sum {row[0]}")
                    for id_, version in session.execute("select id, version from doc"):
                        number, seen = int(str(id_)), int(str(version))
                        if versions.get(number, 0) > seen:
                            wrong.append(f"doc {number} from version {versions[number]} to {seen}")
                        versions[number] = seen

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield wrong
    finally:
        end.set()
        thread.join(30)
