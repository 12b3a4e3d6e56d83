"""Rows of a job that an earlier version wrote: the next attempt upgrades them, whoever only looks says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.postgres.session import translated


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """As `translating`, for what is read of the job's rows.

    Raises:
        StateError: STATE_OLDER, a column or a table is missing that this version needs.
    """
    try:
        yield
    except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as exc:
        raise StateError(
            "the rows of the target's schema prefect_datasync are of an earlier version",
            effect="They were not read, and nothing was changed",
            do="start, resume or retry the job with a worker of this version, which upgrades them",
            code="STATE_OLDER",
        ) from exc
    except psycopg.Error as exc:
        raise translated(exc, where) from exc
