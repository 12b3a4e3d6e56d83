"""One attempt of the engine for the benchmarks: python attempt.py JSON; prints what it used as JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from prefect_datasync.engine.postgres.instance import open_instance
from prefect_datasync.engine.postgres.session import Server, connect
from prefect_datasync.engine.spec import SyncSpec


def main() -> None:
    """Copy, and then follow the source until a query at the target says that it is enough."""
    asked = json.loads(sys.argv[1])
    source, target = Server(**asked["source"]), Server(**asked["target"])
    spec = SyncSpec(mode=asked["mode"], tables=("public.*",))
    look = connect(target, "benchmark") if asked["goal"] else None
    began = time.perf_counter()
    looked = wall = 0.0
    there = False

    def stop() -> str | None:
        nonlocal looked, there, wall
        if look is not None and not there and time.perf_counter() - looked > 0.02:
            looked = time.perf_counter()
            there = look.execute(asked["goal"]).fetchone() == (True,)
            if there:
                wall = time.perf_counter() - began
        return "there" if there else None

    with open_instance(
        asked["key"], "bench", source, target, spec, stop=stop, say=lambda sentence: None
    ) as instance:
        while instance.needs_copy:
            units = instance.prepare()
            with ThreadPoolExecutor(spec.copy_workers) as pool:
                list(pool.map(instance.copy, units))
            instance.finish_copy()
        if instance.needs_stream and look is not None:
            instance.stream(lambda kpis: None)
    wall = wall or time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "wall": wall,
                "cpu": used.ru_utime + used.ru_stime,
                "peak_mb": used.ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
