"""Whether the server itself answers, with the settings that a job needs, and lets it replicate.

A pooler in between hands one session to many clients, or drops the settings with which it is opened; values
would then come in another form, or rows be found by foreign operators. Whether a role may replicate is
tried: `pg_hba.conf` and managed servers have their own say, beside the role's attributes.
"""

from __future__ import annotations

from collections.abc import Iterator

from prefect_datasync.engine.errors import CheckFailed, ConnectFailed, TransientError
from prefect_datasync.engine.postgres.catalog import quote
from prefect_datasync.engine.postgres.check.findings import Finding, Side, block, warn
from prefect_datasync.engine.postgres.session import Connection, Server, connect, translating

#: Of the pinned settings those that every server shows in the form in which they are given.
_SHOWN = {
    "search_path": "pg_catalog",
    "row_security": "off",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "statement_timeout": "0",
}


def check_way(connection: Connection, side: str) -> Iterator[Finding]:
    """What shows that something stands between us and the server."""
    cure = f"connect the {side}'s block to the server itself: its direct host and port, not the pooler's"
    with translating(f"look at the way to the {side}"):
        row = connection.execute(_SETTINGS, (list(_SHOWN),)).fetchone()
    assert row is not None
    values, pid = row
    lost = [name for name, value in zip(_SHOWN, values, strict=True) if value != _SHOWN[name]]
    if lost:
        yield block(
            "POOLER",
            f"the settings of the connection do not reach the {side} ({', '.join(lost)}): a pooler is in"
            " between",
            cure,
        )
    elif pid != connection.info.backend_pid:
        yield warn(
            "PROXY",
            f"a pooler or proxy answers for the {side}: a job needs sessions of its own, for hours",
            cure,
        )


def check_replication(source: Server, application: str, found: list[Finding]) -> list[Finding]:
    """The findings with what a replication connection, which is opened here, says of the right to have one."""
    try:
        connect(source, application, replication=True).close()
    except ConnectFailed as exc:
        return [
            *found,
            block(
                "REPLICATION_REFUSED",
                f"the source lets the role in, but not for replication: {exc.what}",
                f"allow it in pg_hba.conf (`host {source.dbname} {source.user} ...`: the database's own"
                " entry, not `replication`), or connect to the server itself if a pooler refused",
            ),
        ]
    except CheckFailed as exc:  # whatever attributes and grants say
        if "REPLICATION_MISSING" in {each.code for each in found}:
            return found
        right = f"ALTER ROLE {quote(source.user)} REPLICATION"
        return [
            *found,
            block("REPLICATION_MISSING", exc.what, "allow it", [right], Side.SOURCE),
        ]
    except TransientError:
        return found  # a lack of walsenders has a finding of its own
    return [each for each in found if each.code != "REPLICATION_MISSING"]


_SETTINGS = "select array(select current_setting(s) from unnest(%s::text[]) s), pg_backend_pid()"
