"""A command line that is wrong, and what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefect_datasync.__main__ import main


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that is wrong, and gives what it says."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run
