"""The process of a flow run of ours: Prefect's engine, in a session of its own.

A signal that goes to all of the worker's session, such as Ctrl-C on its terminal, is for the worker alone,
which then ends its flows in its own way.
"""

import contextlib
import os
import runpy

if __name__ == "__main__":
    with contextlib.suppress(PermissionError):  # it leads one already
        os.setsid()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
