"""PostgreSQL sync jobs as Prefect deployments."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_datasync.blocks import PostgresSource, PostgresTarget, SyncCheckpoint
    from prefect_datasync.engine.spec import Mode, SyncSpec
    from prefect_datasync.flows.sync import data_sync

__version__ = "0.1.0"
__all__ = ["Mode", "PostgresSource", "PostgresTarget", "SyncCheckpoint", "SyncSpec", "data_sync"]

_HOMES = {"Mode": "engine.spec", "SyncSpec": "engine.spec", "data_sync": "flows.sync"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the blocks and the flow bring Prefect along (1.5 s)."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'blocks')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
