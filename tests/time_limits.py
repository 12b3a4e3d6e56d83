"""A test that is run once more gets its time limit anew: pytest-timeout sets one for all its runs together.

After a timeout the second run would have no limit at all. Imported by a conftest, which makes hooks of it.
"""

from __future__ import annotations

import pytest

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
