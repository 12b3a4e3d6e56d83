"""Who runs a server, told by its roles and settings, and how each problem is cured there.

A managed server gives nobody a superuser, so whoever is one is on a server of their own, even if it was
restored from a dump with a provider's roles in it. `CURES` is the whole knowledge of providers; what a row
lacks is cured as on a server of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Provider(StrEnum):
    """Who runs a server."""

    SELF_MANAGED = "self-managed"
    RDS = "rds"
    AURORA = "aurora"
    CLOUD_SQL = "cloud-sql"
    AZURE = "azure"
    SUPABASE = "supabase"
    NEON = "neon"

    @property
    def company(self) -> str:
        """Its name for people."""
        return _TITLES[self]


_TITLES = {
    Provider.SELF_MANAGED: "a server of your own",
    Provider.RDS: "Amazon RDS",
    Provider.AURORA: "Amazon Aurora",
    Provider.CLOUD_SQL: "Google Cloud SQL",
    Provider.AZURE: "Azure Database for PostgreSQL",
    Provider.SUPABASE: "Supabase",
    Provider.NEON: "Neon",
}

#: The role that each provider makes in every server.
MARKS = {
    "rds_superuser": Provider.RDS,
    "cloudsqlsuperuser": Provider.CLOUD_SQL,
    "azure_pg_admin": Provider.AZURE,
    "supabase_admin": Provider.SUPABASE,
    "neon_superuser": Provider.NEON,
}
#: Settings that only a provider's server knows.
SETTINGS = {
    "rds.logical_replication": Provider.RDS,
    "cloudsql.logical_decoding": Provider.CLOUD_SQL,
    "azure.extensions": Provider.AZURE,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server shows of who runs it."""

    superuser: bool  #: the connection's role is one
    roles: frozenset[str]  #: those of `MARKS` that exist
    settings: frozenset[str]  #: those of `SETTINGS` that have a value
    aurora: bool  #: it has Aurora's function `aurora_version`


def detect(facts: Facts) -> Provider:
    """Who runs the server, as far as it shows."""
    if facts.superuser:
        return Provider.SELF_MANAGED
    found = [by for name, by in SETTINGS.items() if name in facts.settings]
    found += [by for name, by in MARKS.items() if name in facts.roles]
    provider = found[0] if found else Provider.SELF_MANAGED
    return Provider.AURORA if provider is Provider.RDS and facts.aurora else provider


class Problem(StrEnum):
    """What is cured differently from provider to provider."""

    WAL_LEVEL = "wal_level is not logical"
    REPLICATION = "the role {role} may not replicate"
    RESTART_SETTING = "{setting} is too small, and heeded at a restart"
    RELOAD_SETTING = "{setting} is not fit, and heeded at once"
    BYPASS_RLS = "row-level security hides rows from {role}"
    REPLICA_ROLE = "{role} may not set session_replication_role"
    REPLICA_ROLE_BEFORE_15 = "the same, where no right can be granted for it"


@dataclass(frozen=True, slots=True)
class Cure:
    """What cures a problem: in words, and the statements, if SQL can do it."""

    do: str
    sql: tuple[str, ...] = ()


_GROUP = "in the DB parameter group of the instance set {setting} = {value}"
_CLUSTER = "in the DB cluster parameter group set {setting} = {value}"
_FLAG = "add the flag {setting} = {value} to the instance"
_PARAMETER = "set the server parameter {setting} to {value}"
_SUPABASE = Cure("supabase --experimental postgres-config update --config {setting}={value}")
_ALTER = "ALTER SYSTEM SET {setting} = {value}"
_REPLICATION = "ALTER ROLE {role} REPLICATION"
_RDS_REPLICATION = Cure("grant it", ("GRANT rds_replication TO {role}",))
_REPLICATION_LETS = Cure(
    "allow replication, which lets it SET session_replication_role", (_REPLICATION,)
)
_RDS_SUPERUSER = Cure("make it a member of rds_superuser", ("GRANT rds_superuser TO {role}",))

CURES: Mapping[Problem, Mapping[Provider, Cure]] = {
    Problem.WAL_LEVEL: {
        Provider.SELF_MANAGED: Cure(
            "set it, then restart the source's server", ("ALTER SYSTEM SET wal_level = 'logical'",)
        ),
        Provider.RDS: Cure(
            "in the DB parameter group of the instance set rds.logical_replication = 1, then reboot the"
            " instance"
        ),
        Provider.AURORA: Cure(
            "in the DB cluster parameter group set rds.logical_replication = 1, then reboot the writer"
            " instance"
        ),
        Provider.CLOUD_SQL: Cure(
            "add the flag cloudsql.logical_decoding = on to the instance, which restarts it"
        ),
        Provider.AZURE: Cure(
            "set the server parameter wal_level to logical, then restart the server"
        ),
        Provider.SUPABASE: Cure(
            "hosted projects have it: on a Supabase of your own set it as supabase_admin, then restart the"
            " server",
            ("ALTER SYSTEM SET wal_level = 'logical'",),
        ),
        Provider.NEON: Cure(
            "enable logical replication in the project's settings; it restarts all computes and cannot be"
            " taken back"
        ),
    },
    Problem.REPLICATION: {
        Provider.SELF_MANAGED: Cure("allow it", (_REPLICATION,)),
        Provider.RDS: _RDS_REPLICATION,
        Provider.AURORA: _RDS_REPLICATION,
        Provider.CLOUD_SQL: Cure("allow it, as a member of cloudsqlsuperuser", (_REPLICATION,)),
        Provider.AZURE: Cure("allow it, as the server's administrator", (_REPLICATION,)),
        Provider.SUPABASE: Cure("allow it, as postgres", (_REPLICATION,)),
        Provider.NEON: Cure("allow it, as a member of neon_superuser", (_REPLICATION,)),
    },
    Problem.RESTART_SETTING: {
        Provider.SELF_MANAGED: Cure("raise it, then restart the source's server", (_ALTER,)),
        Provider.RDS: Cure(_GROUP + ", then reboot the instance"),
        Provider.AURORA: Cure(_CLUSTER + ", then reboot the writer instance"),
        Provider.CLOUD_SQL: Cure(_FLAG + ", which restarts it"),
        Provider.AZURE: Cure(_PARAMETER + ", then restart the server"),
        Provider.SUPABASE: _SUPABASE,
        Provider.NEON: Cure(
            "remove replication slots that nobody needs: Neon fixes {setting} itself"
        ),
    },
    Problem.RELOAD_SETTING: {
        Provider.SELF_MANAGED: Cure("set it", (_ALTER, "SELECT pg_reload_conf()")),
        Provider.RDS: Cure(_GROUP),
        Provider.AURORA: Cure(_CLUSTER),
        Provider.CLOUD_SQL: Cure(_FLAG),
        Provider.AZURE: Cure(_PARAMETER),
        Provider.SUPABASE: _SUPABASE,
    },
    Problem.BYPASS_RLS: {
        Provider.SELF_MANAGED: Cure("let the role see all rows", ("ALTER ROLE {role} BYPASSRLS",)),
    },
    Problem.REPLICA_ROLE: {
        Provider.SELF_MANAGED: Cure(
            "grant it", ("GRANT SET ON PARAMETER session_replication_role TO {role}",)
        ),
        Provider.CLOUD_SQL: _REPLICATION_LETS,
        Provider.AZURE: _REPLICATION_LETS,
    },
    Problem.REPLICA_ROLE_BEFORE_15: {
        Provider.SELF_MANAGED: Cure(
            "drop them at the target, or use a superuser: before PostgreSQL 15 there is no grant"
        ),
        Provider.RDS: _RDS_SUPERUSER,
        Provider.AURORA: _RDS_SUPERUSER,
        Provider.CLOUD_SQL: _REPLICATION_LETS,
        Provider.AZURE: _REPLICATION_LETS,
    },
}


def cure(provider: Provider, problem: Problem, **facts: object) -> Cure:
    """What cures the problem on a server of the provider; names in *facts* are quoted."""
    known = CURES[problem]
    found = known.get(provider, known[Provider.SELF_MANAGED])
    return Cure(found.do.format(**facts), tuple(each.format(**facts) for each in found.sql))
