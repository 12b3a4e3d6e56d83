"""The fingerprint of a job's publications: how they were when it was recorded, and whether somebody has changed them.

It is one text with the OIDs and definitions of the publications, and a hash of how each table is published.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prefect_datasync.engine.errors import StateError
from prefect_datasync.engine.postgres.session import Connection, translating


def names(recorded: str | None) -> tuple[str, ...]:
    """The names of the publications whose fingerprint was recorded."""
    return tuple(each.split(":")[0] for each in recorded.split(";")) if recorded else ()


def read(connection: Connection, names: Sequence[str]) -> str:
    """The fingerprint of publications as they are now."""
    with translating("read the publications"):
        rows = connection.execute(_FINGERPRINT, (list(names),)).fetchall()
    return ";".join(":".join(map(str, row)) for row in rows)


def without(recorded: str | None, relids: Collection[int]) -> str | None:
    """The fingerprint of publications that may lack some tables."""
    if recorded is None:
        return None
    return _text(
        {
            head: {relid: how for relid, how in tables.items() if relid not in relids}
            for head, tables in _parts(recorded).items()
        }
    )


def renewed(recorded: str | None, now: str, relids: Collection[int]) -> str | None:
    """The fingerprint with some tables as they are published *now*."""
    if recorded is None:
        return None
    found, kept = _parts(now), _parts(without(recorded, relids) or "")
    for head in kept.keys() & found.keys():
        kept[head] |= {relid: how for relid, how in found[head].items() if relid in relids}
    return _text(kept)


def check(
    connection: Connection, recorded: str | None, resting: Collection[int] = frozenset()
) -> None:
    """Refuse to go on with publications that somebody changed: changes in between were not sent.

    Tables that were added do no harm, and neither do those that were dropped at the source.

    Args:
        resting: relations that do not follow.

    Raises:
        StateError: code PUBLICATION_CHANGED.
    """
    if recorded is None:
        return
    now = _parts(read(connection, names(recorded)))
    lost: set[int] = set()
    same = True
    for head, tables in _parts(recorded).items():
        here = now.get(head)
        same = same and here is not None
        lost |= {relid for relid, how in tables.items() if (here or {}).get(relid) != how}
    lost -= set(resting)
    if lost and same:
        with translating("look for dropped tables"):
            same = not connection.execute(
                "select 1 from pg_class where oid = any(%s::oid[]) limit 1", (sorted(lost),)
            ).fetchall()
    if not same:
        raise StateError(
            f"the definition of publication {' or '.join(names(recorded))} is not the one the job"
            " began with",
            effect="The job stopped; changes of tables that were taken out are not in the target",
            do="leave the job's publications alone, and run `datasync restart JOB --compare`",
            code="PUBLICATION_CHANGED",
        )


_FINGERPRINT = """
select p.pubname, p.oid, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       coalesce((select string_agg(r.prrelid::text || '=' || left(md5(to_jsonb(r)::text), 12), ',' order by r.prrelid)
                 from pg_publication_rel r where r.prpubid = p.oid), '')
from pg_publication p where p.pubname = any(%s) order by 1
"""


def _parts(recorded: str) -> dict[str, dict[int, str]]:
    """By publication, without its tables: how each relation is published."""
    found: dict[str, dict[int, str]] = {}
    for each in recorded.split(";"):
        head, _, tables = each.rpartition(":")
        pairs = (part.split("=") for part in tables.split(",") if "=" in part)
        found[head] = {int(relid): how for relid, how in pairs}
    return found


def _text(parts: dict[str, dict[int, str]]) -> str:
    return ";".join(
        f"{head}:{','.join(f'{relid}={how}' for relid, how in sorted(tables.items()))}"
        for head, tables in parts.items()
    )
