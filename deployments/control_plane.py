"""The Prefect server behind our commands: asked whether it answers before anything is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL

from prefect_datasync.engine.errors import UNCHANGED, ControlError
from prefect_datasync.tasks.prefect_api import TIMEOUT_S, quick_client

RETRIES = 3
IN_PART = "The command may have been carried out in part; repeating it is safe"


@contextlib.contextmanager
def control_plane() -> Iterator[SyncPrefectClient]:
    """A client of the server, which has just answered.

    Raises:
        ControlError: PREFECT_UNREACHABLE, with nothing changed if the server was away before the block;
            PREFECT_REFUSED for an answer that is an error.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise ControlError(
            "no Prefect server is configured",
            do="start one with `prefect server start` and set PREFECT_API_URL to its address",
            code="PREFECT_UNREACHABLE",
        )
    with _translated(url, UNCHANGED):
        _ask_for_health(url)
    with _translated(url, IN_PART), quick_client(RETRIES) as client:
        yield client


def _ask_for_health(url: str) -> None:
    if url.startswith("http://"):  # a client of Prefect's own costs 0.2 s more
        answer = httpx.get(f"{url}/health", timeout=TIMEOUT_S, verify=False)
        if answer.is_server_error:
            answer.raise_for_status()
        return
    with quick_client() as client:
        client.request("GET", "/health")


@contextlib.contextmanager
def _translated(url: str, effect: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as exc:
        status = exc.response.status_code
        raise ControlError(
            f"the Prefect server at {url} answered {status} to {exc.request.url.path}",
            effect=effect,
            do="check its authentication settings" if status in (401, 403) else "see its log",
            code="PREFECT_REFUSED",
        ) from exc
    except httpx.HTTPError as exc:
        raise ControlError(
            f"the Prefect server at {url} does not answer ({type(exc).__name__})",
            effect=effect,
            do="start it with `prefect server start`, or correct PREFECT_API_URL",
            code="PREFECT_UNREACHABLE",
        ) from exc
