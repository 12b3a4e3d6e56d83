"""Adding tables to a job and removing them, while its other tables go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, source_server, target_server
from prefect_datasync.deployments.jobs_as_code.plan import BEGUN
from prefect_datasync.deployments.states import job_now
from prefect_datasync.deployments.tables import name_of
from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.postgres import instance
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, read_table, read_tables
from prefect_datasync.engine.postgres.check.findings import block_message
from prefect_datasync.engine.postgres.job_rows import chosen, ledger
from prefect_datasync.engine.postgres.job_rows.chosen import Chosen
from prefect_datasync.engine.postgres.job_rows.ledger import Phase
from prefect_datasync.engine.postgres.job_rows.state_schema import has_schema
from prefect_datasync.engine.postgres.session import Server, connect, translating
from prefect_datasync.engine.postgres.tables.mapped import read_job_tables
from prefect_datasync.engine.postgres.tables.resting import may_copy_again
from prefect_datasync.engine.spec import ExistingRows, SyncSpec


def add(job: str, table: str, *, truncate: bool = False) -> SyncSpec:
    """Select one table more; a job at work publishes, makes, copies and follows it, the others go on.

    A partitioned table comes with its partitions. One that is merged with others is put beside their rows.

    Args:
        truncate: the target's table may be emptied.

    Returns:
        The spec as it is now; the deployment has it, and the instance's later attempts.

    Raises:
        ConfigError: NO_SUCH_TABLE, or SELECTED_ALREADY. CheckFailed: a server is not fit for it.
        ActionRefused: NOT_EMPTY; the copy is not finished, or the job does not own its target's rows.
    """
    name = name_of(table)
    with control_plane() as client:
        found = read_job(client, job)
        source, target = source_server(found), target_server(found)
        if not may_copy_again(found.spec):
            raise ActionRefused(
                f"job {job} does not copy tables that it owns (mode {found.spec.mode},"
                f" existing_rows {found.spec.existing_rows})",
                do="change its spec by `datasync job apply --restart`",
            )
        family = _look(source, found, name)
        there = family.get(name)
        if there is None:
            raise _no_such_table(name)
        old = _chosen(target, found)
        if _selected(found.spec, there) and there.relid not in old.removed:
            raise ConfigError(f"job {job} selects {table[:140]} already", code="SELECTED_ALREADY")
        parts = _parts(family, name)
        new = chosen.with_table(old, found.spec, name, there.relid, parts, empties=truncate)
        spec = new.applied(found.spec)
        if refused := block_message(
            instance.check(found.key, source, target, spec, starting=False)
        ):
            raise refused
        if not truncate and found.spec.existing_rows is not ExistingRows.TRUNCATE:
            _refuse_rows(source, target, found, spec, {name, *parts})
        chosen.write(target, found.key, new, name, parts, removing=False)
        _store(client, found, spec)
    return spec


def remove(job: str, table: str) -> SyncSpec:
    """Select one table less; a job at work follows it no longer. The target's table stays as it is then.

    A partitioned table goes with its partitions. The rows of one that is merged with others stay among theirs until
    these are copied again. One that was dropped or renamed at the source is forgotten by the name that the job knows.

    Raises:
        ConfigError: NO_SUCH_TABLE, or nothing would be left.
        ActionRefused: it is selected as a part of a partitioned table, or is being copied; or the job has not
            noticed yet that it was renamed.
    """
    name = name_of(table)
    with control_plane() as client:
        found = read_job(client, job)
        source, target = source_server(found), target_server(found)
        family = _look(source, found, name)
        there = family.get(name)
        if not (_selected(found.spec, there) if there else found.spec.selects(*name)):
            raise ConfigError(f"job {job} does not select {table[:140]}", code="NO_SUCH_TABLE")
        if there is None:
            return _remove_gone(client, found, source, target, name)
        if whole := next((n for n in there.above if found.spec.selects(*n)), None):
            raise ActionRefused(
                f"{table[:140]} is a partition of {'.'.join(whole)[:140]}, which the job selects, and PostgreSQL"
                " publishes, with all of its partitions",
                do=f"`datasync table remove {job} {'.'.join(whole)[:140]}`, or detach the partition at the source",
            )
        parts = _parts(family, name)
        new = chosen.without_table(_chosen(target, found), found.spec, name, there.relid, parts)
        spec = new.applied(found.spec)
        chosen.write(target, found.key, new, name, parts, removing=True)
        _store(client, found, spec)
    return spec


def _remove_gone(
    client: SyncPrefectClient, job: Job, source: Server, target: Server, name: Name
) -> SyncSpec:
    """The same for a table that the source has no more under this name."""
    with connect(target, f"datasync {job.key} look") as connection:
        rows = ledger.read_tables(connection, job.key) if has_schema(connection) else ()
    row = next((row for row in rows if row.full_name == name), None)
    if row is None:
        raise _no_such_table(name)
    old = _chosen(target, job)
    new = chosen.without_table(old, job.spec, name, None)
    spec = new.applied(job.spec)
    with connect(source, f"datasync {job.key} look") as connection:
        there = {t.relid for t in read_job_tables(connection, spec)}
    there |= {other.relid for other in rows if other.full_name != name}
    renamed = row.relid in there  # its relation is followed by another name, and must stay so
    if renamed and row.phase not in (Phase.PARKED, Phase.ASIDE):
        raise ActionRefused(
            f"{'.'.join(name)[:140]} was renamed, which job {job.name} has not noticed yet",
            do="repeat it a minute after the job has been running",
        )
    if not renamed:
        new = chosen.without_table(old, job.spec, name, row.relid)
    chosen.write(target, job.key, new, name, removing=True, forget=renamed)
    _store(client, job, spec)
    return spec


def _look(source: Server, job: Job, name: Name) -> dict[Name, Table]:
    """The source's table and its partitions, by their names; nothing if it is not there."""
    with connect(source, f"datasync {job.key} look") as connection:
        return {t.full_name: t for t in read_tables(connection, lambda *each: each == name)}


def _parts(family: Mapping[Name, Table], name: Name) -> dict[Name, int]:
    return {each: table.relid for each, table in family.items() if each != name}


def _selected(spec: SyncSpec, table: Table) -> bool:
    """By its own name, or as a partition."""
    return any(spec.selects(*name) for name in (table.full_name, *table.above))


def _no_such_table(name: Name) -> ConfigError:
    return ConfigError(
        f"the source has no table {'.'.join(name)[:140]} that can be synced",
        do="correct the name; upper and lower case differ",
        code="NO_SUCH_TABLE",
    )


def _chosen(target: Server, job: Job) -> Chosen:
    """What is selected by now: by the job's row if its tables were changed before, else by its spec."""
    with connect(target, f"datasync {job.key} look") as connection:
        text = chosen.read_text(connection, job.key) if has_schema(connection) else None
    return Chosen.of(text, job.spec)


def _refuse_rows(
    source: Server, target: Server, job: Job, spec: SyncSpec, names: Collection[Name]
) -> None:
    """Refuse tables of the target that hold rows which are not the job's: a copy would empty them."""
    with connect(source, f"datasync {job.key} look") as connection:
        tables = [t for t in read_job_tables(connection, spec) if t.full_name in names]
    with connect(target, f"datasync {job.key} look") as connection:
        rows = ledger.read_tables(connection, job.key) if has_schema(connection) else ()
        merged = {row.target for row in rows if row.filled and row.full_name not in names}
        for table in tables:
            at = table.target
            if at in merged or (table.kind == "p" and len(tables) > 1):  # its partitions tell
                continue
            if read_table(connection, at) is None:
                continue
            with translating(f"look into {'.'.join(at)}"):
                row = connection.execute(
                    f"select exists (select from {qualified(*at)})".encode()
                ).fetchone()
            if row == (True,):
                raise ActionRefused(
                    f"the target's table {'.'.join(at)[:140]} holds rows",
                    do="empty it, or give --truncate",
                    code="NOT_EMPTY",
                )


def _store(client: SyncPrefectClient, job: Job, spec: SyncSpec) -> None:
    """For later attempts, and for later instances."""
    deployment = client.read_deployment(UUID(job.deployment_id))
    values = {"spec": spec.model_dump(mode="json")}
    client.update_deployment(
        deployment.id, DeploymentUpdate(parameters=(deployment.parameters or {}) | values)
    )
    run, state = job_now(client, job)
    if run is not None and state in BEGUN:
        client.update_flow_run(run.id, parameters=run.parameters | values)
