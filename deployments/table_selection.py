"""Adding tables to a job and removing them, while its other tables go on."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate

from prefect_datasync.deployments.control_plane import control_plane
from prefect_datasync.deployments.definitions import Job, read_job, source_server, target_server
from prefect_datasync.deployments.job_plan import BEGUN
from prefect_datasync.deployments.observation import job_now
from prefect_datasync.deployments.tables import name_of
from prefect_datasync.engine.errors import ActionRefused, ConfigError
from prefect_datasync.engine.postgres import instance
from prefect_datasync.engine.postgres.catalog import Name, Table, qualified, read_table
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
        there = _read(source, found, name)
        old = _chosen(target, found)
        if found.spec.selects(*name) and there.relid not in old.removed:
            raise ConfigError(f"job {job} selects {table[:140]} already", code="SELECTED_ALREADY")
        new = chosen.with_table(old, found.spec, name, there.relid, empties=truncate)
        spec = new.applied(found.spec)
        if refused := block_message(
            instance.check(found.key, source, target, spec, starting=False)
        ):
            raise refused
        goes_to = _alone(source, found, spec, name)
        if not truncate and found.spec.existing_rows is not ExistingRows.TRUNCATE:
            _refuse_rows(target, found, goes_to)
        chosen.write(target, found.key, new, name, removing=False)
        _store(client, found, spec)
    return spec


def remove(job: str, table: str) -> SyncSpec:
    """Select one table less; a job at work follows it no longer. The target's table stays as it is then.

    One that was dropped or renamed at the source is forgotten by the name that the job knows.

    Raises:
        ConfigError: NO_SUCH_TABLE, or nothing would be left.
        ActionRefused: it is a part of a partitioned table, or is being copied; or the job has not noticed yet
            that it was renamed.
    """
    name = name_of(table)
    with control_plane() as client:
        found = read_job(client, job)
        source, target = source_server(found), target_server(found)
        if not found.spec.selects(*name):
            raise ConfigError(f"job {job} does not select {table[:140]}", code="NO_SUCH_TABLE")
        there = _look(source, found, name)
        if there is None:
            return _remove_gone(client, found, source, target, name)
        if there.kind == "p" or there.parent is not None:
            raise ActionRefused(
                f"{table[:140]} is partitioned, or a partition, and these are published together",
                do="change the job's `tables` by `datasync job apply --restart`",
            )
        _alone(source, found, found.spec, name)
        new = chosen.without_table(_chosen(target, found), found.spec, name, there.relid)
        spec = new.applied(found.spec)
        chosen.write(target, found.key, new, name, removing=True)
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


def _read(source: Server, job: Job, name: Name) -> Table:
    found = _look(source, job, name)
    if found is None:
        raise _no_such_table(name)
    return found


def _look(source: Server, job: Job, name: Name) -> Table | None:
    with connect(source, f"datasync {job.key} look") as connection:
        return read_table(connection, name)


def _no_such_table(name: Name) -> ConfigError:
    return ConfigError(
        f"the source has no table {'.'.join(name)[:140]} that can be synced",
        do="correct the name; upper and lower case differ",
        code="NO_SUCH_TABLE",
    )


def _alone(source: Server, job: Job, spec: SyncSpec, name: Name) -> Name:
    """The table's name at the target, where it must be the only one."""
    with connect(source, f"datasync {job.key} look") as connection:
        (found,) = [t for t in read_job_tables(connection, spec) if t.full_name == name]
    if found.shards:
        raise ActionRefused(
            f"{'.'.join(name)[:140]} is merged with other tables at the target",
            do="change the job's `tables` by `datasync job apply --restart`",
        )
    return found.target


def _chosen(target: Server, job: Job) -> Chosen:
    """What is selected by now: by the job's row if its tables were changed before, else by its spec."""
    with connect(target, f"datasync {job.key} look") as connection:
        text = chosen.read_text(connection, job.key) if has_schema(connection) else None
    return Chosen.of(text, job.spec)


def _refuse_rows(target: Server, job: Job, name: Name) -> None:
    with connect(target, f"datasync {job.key} look") as connection:
        if read_table(connection, name) is None:
            return
        with translating(f"look into {'.'.join(name)}"):
            row = connection.execute(
                f"select exists (select from {qualified(*name)})".encode()
            ).fetchone()
    if row == (True,):
        raise ActionRefused(
            f"the target's table {'.'.join(name)[:140]} holds rows",
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
