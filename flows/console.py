"""A flow outlives its worker: the console on which it logs must not end it when nobody reads any more.

A worker reads its flows' output through pipes. When it is killed, the next line that a flow logs finds the
pipe broken, and rich, which Prefect logs with, then ends the program: the flow would be Crashed at its next
sentence, and a thread of ours would end without a word.
"""

from __future__ import annotations

import contextlib
import logging
import os
from functools import partial

from rich.console import Console


def outlive_reader() -> None:
    """Have every console that is logged on fall silent, once its reader is gone."""
    named = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    for logger in [logging.root, *named]:
        for handler in logger.handlers:
            console = getattr(handler, "console", None)
            if isinstance(console, Console):
                console.on_broken_pipe = partial(fall_silent, console)  # type: ignore[method-assign]


def fall_silent(console: Console) -> None:
    """Send what is still written to where nobody reads."""
    console.quiet = True
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, console.file.fileno())
        os.close(nowhere)
