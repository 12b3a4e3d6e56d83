"""PostgreSQL sync jobs as Prefect deployments."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_datasync.blocks import PostgresSource

__version__ = "0.1.0"
__all__ = ["PostgresSource"]


def __getattr__(name: str) -> Any:
    """Import the blocks, and with them Prefect (1.5 s), only when one is asked for."""
    if name in __all__:
        from prefect_datasync import blocks

        return getattr(blocks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
