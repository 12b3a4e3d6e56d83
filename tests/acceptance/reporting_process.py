"""A process that reports a job to Prefect, each sample in a minute of its own; ends at the end of its input.

Arguments: the job, the moment of the first sample. Prints the number of each sample that was asked for.
"""

import itertools
import sys
from uuid import uuid4

from prefect_datasync.engine.metrics import Kpis
from prefect_datasync.engine.sample import Sample
from prefect_datasync.engine.trend import MINUTE_S
from prefect_datasync.tasks.reporting import open_reporter

job, began = sys.argv[1], float(sys.argv[2])
steps = itertools.count()


def ask() -> Sample:
    """Ten records more than the one before."""
    step = next(steps)
    print(step, flush=True)
    kpis = Kpis(100, 5, 10 * step, 100 * step, 1.0, 10.0, "healthy")
    return Sample(began + step * MINUTE_S, kpis, lag_bytes=0, retained_bytes=0)


with open_reporter(job, uuid4(), [], lambda _: None) as reporter:
    reporter.begin(ask, lambda: None)
    sys.stdin.read()
