"""Reads from a server who runs it; see `providers`."""

from __future__ import annotations

from prefect_datasync.engine.postgres.check.findings import Finding, info
from prefect_datasync.engine.postgres.check.providers import (
    MARKS,
    SETTINGS,
    Facts,
    Provider,
    detect,
)
from prefect_datasync.engine.postgres.session import Connection


def read_provider(connection: Connection) -> Provider:
    """Who runs the server, from what any role may see."""
    row = connection.execute(_FACTS, (list(MARKS), list(SETTINGS))).fetchone()
    assert row is not None
    superuser, roles, settings, aurora = row
    return detect(Facts(superuser, frozenset(roles), frozenset(settings), aurora))


def told(side: str, provider: Provider) -> list[Finding]:
    """What a user should know of it: nothing of a server of one's own."""
    if provider is Provider.SELF_MANAGED:
        return []
    return [
        info(
            "PROVIDER",
            f"the {side} is taken for {provider.company}, and what cures it is written for that",
            "nothing; if it is another, give --provider or --target-provider",
        )
    ]


_FACTS = """
select (select rolsuper from pg_roles where rolname = current_user),
  array(select rolname::text from pg_roles where rolname = any(%s)),
  array(select s from unnest(%s::text[]) s where current_setting(s, true) <> ''),
  exists (select from pg_proc where proname = 'aurora_version')"""
