"""Ask running streams to stand at an exact position, by their jobs' rows; see `engine.holding`.

A stream heeds what is asked within half a second and says so in its row. Whoever asks holds a lock meanwhile
(`alone`), and the stream goes on as soon as that lock is gone: one that asks and dies stops nobody. For one that
dies unnoticed, behind a connection that stays open, it goes on at a time that is set with the request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import LiteralString

import psycopg

from prefect_datasync.engine.errors import CopyStopped, TransientError
from prefect_datasync.engine.postgres.catalog import OUR_SCHEMA
from prefect_datasync.engine.postgres.job_rows.ledger import main_key
from prefect_datasync.engine.postgres.lsn import Lsn, format_lsn
from prefect_datasync.engine.postgres.session import Connection, translating

HOLD_S = 10  #: for how long a stream stands when nobody asks any more
WAIT_S = 60.0  #: for how long a stream is waited for
RENEW_S = 3.0
LOOK_S = 0.05
BUSY_MS = 1000  #: for how long a row that is locked is waited for at once


#: Whether somebody holds the lock of this name: whoever asked the stream to stand is still there.
ATTENDED = """exists (select from pg_locks where locktype = 'advisory' and granted and objsubid = 1
  and database = (select oid from pg_database where datname = current_database())
  and (classid::bigint << 32 | objid::bigint) = hashtextextended(%s, 0))"""


def lock_name(key: str) -> str:
    """What the lock's number is made of; a small job stands together with its job."""
    return f"{OUR_SCHEMA}:stand:{main_key(key)}"


def alone(control: Connection, key: str, stop: Callable[[], object | None]) -> None:
    """Keep others from holding the same stream, for the life of the connection.

    Raises:
        TransientError: code NOT_HELD. CopyStopped: *stop* answered.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        row = control.execute(
            "select pg_try_advisory_lock(hashtextextended(%s, 0))", (lock_name(key),)
        ).fetchone()
        if row == (True,):
            return
        if stop() is not None:
            raise CopyStopped("what the stream was to be held for was asked to stop")
        if time.monotonic() > deadline:
            raise not_held(key)
        time.sleep(0.1)


def stand(
    control: Connection,
    keys: Sequence[str],
    lsn: Lsn,
    stop: Callable[[], object | None],
    *,
    hold_s: float = HOLD_S,
) -> None:
    """Every stream has applied what was committed before *lsn*, and applies nothing from there on.

    A position is exact only for streams that stand already: ask for 0 first.

    Args:
        hold_s: for how long they stand when nobody asks any more.

    Raises:
        TransientError: code NOT_HELD, a stream did not come to a halt in time; none is held any more.
    """
    text = format_lsn(lsn)
    with translating("hold the stream"):
        asked = time.monotonic()
        deadline = asked + WAIT_S
        while not _write(
            control,
            "update prefect_datasync.job set hold_lsn = %s, held_lsn = null,"
            " hold_until = now() + %s * interval '1 second' where job = any(%s)",
            (text, hold_s, list(keys)),
        ):
            if time.monotonic() > deadline or stop() is not None:
                raise not_held(keys[0])
        while True:
            if time.monotonic() - asked > RENEW_S:
                asked = time.monotonic()
                _write(
                    control,
                    "update prefect_datasync.job set hold_until = now() + %s * interval '1 second'"
                    " where job = any(%s)",
                    (hold_s, list(keys)),
                )
            row = control.execute(
                "select count(*) from prefect_datasync.job where job = any(%s) and held_lsn = %s",
                (list(keys), text),
            ).fetchone()
            if row == (len(keys),):
                return
            if time.monotonic() > deadline or stop() is not None:
                break
            time.sleep(LOOK_S)
    release(control, keys)
    raise not_held(keys[0])


def not_held(key: str) -> TransientError:
    """The error of a stream that did not come to a halt."""
    return TransientError(
        f"the stream of job {key} did not come to a halt within {WAIT_S:.0f} s",
        effect="Nothing was compared or changed",
        do="look at `datasync status`; try again when the job has caught up",
        code="NOT_HELD",
    )


def release(control: Connection, keys: Sequence[str]) -> None:
    """Let the streams go on; one that is busy does so by itself, when the lock of `alone` is gone."""
    with translating("let the stream go on"):
        _write(
            control,
            "update prefect_datasync.job set hold_lsn = null, held_lsn = null, hold_until = null"
            " where job = any(%s)",
            (list(keys),),
        )


def _write(control: Connection, sql: LiteralString, values: Sequence[object]) -> bool:
    """Whether the jobs' rows could be written: a stream has its own locked while it applies, however long."""
    try:
        with control.transaction():
            control.execute(f"set local lock_timeout = {BUSY_MS}".encode())
            control.execute(sql, values)
    except psycopg.errors.LockNotAvailable:
        return False
    return True
