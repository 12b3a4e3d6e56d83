"""The only time limit of a test is pytest-timeout's, and a test that is run once more gets it anew.

pytest-timeout sets one limit for all runs of a test, so that after a timeout the second would have none at
all. Hypothesis' limit of 200 ms for one example measures nothing but how busy the machine is. Imported by a
conftest, which makes hooks of it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
LIMIT = pytest.StashKey[object]()


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> None:
    """Keep the limit; pytest-timeout's own hook sets it."""
    item.stash[LIMIT] = settings


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if getattr(item, "execution_count", 1) > 1 and LIMIT in item.stash:
        hook = item.config.pluginmanager.hook
        hook.pytest_timeout_cancel_timer(item=item)
        hook.pytest_timeout_set_timer(item=item, settings=item.stash[LIMIT])
