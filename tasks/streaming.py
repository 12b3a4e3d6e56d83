"""Following the source: a plain step, on purpose not a Prefect task.

Prefect raises `Pause` at every task boundary once a flow run is suspended, so a task could neither begin
nor end while the job drains; and a killed process would leave a task run that says Running for ever.
"""

from __future__ import annotations

from prefect_datasync.engine.postgres.instance import Instance
from prefect_datasync.tasks.reporting import Reporter


def follow(instance: Instance, reporter: Reporter) -> None:
    """Apply the source's changes until the instance is told to stop.

    Raises:
        DatasyncError: a fault that waiting does not heal.
    """
    reporter.phase_changed()
    instance.stream()
