"""All that a reader of a Prefect server can see, as its API answers over HTTP, secrets not asked for."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

PAGE = 200
LISTS = ("artifacts", "block_documents", "deployments", "flow_runs", "logs", "task_runs")


def everything_told(api: str, runs: list[str]) -> dict[str, str]:
    """The raw answers by what was asked for; of *runs* also all their states."""
    told = {each: "\n".join(_pages(f"{api}/{each}/filter")) for each in LISTS}
    told["events"] = "\n".join(_events(api))
    for run in runs:
        told[f"states of {run}"] = _ask(f"{api}/flow_run_states/?flow_run_id={run}")
    return told


def secrets_in(api: str) -> str:
    """The blocks with their secrets, as only a flow asks for them."""
    return "\n".join(_pages(f"{api}/block_documents/filter", include_secrets=True))


def _pages(url: str, **more: Any) -> list[str]:
    pages: list[str] = []
    while not pages or len(json.loads(pages[-1])) == PAGE:
        asked: dict[str, Any] = {"limit": PAGE, "offset": PAGE * len(pages), **more}
        if "block_documents" in url:
            asked = {"include_secrets": False} | asked
        pages.append(_ask(url, asked))
    return pages


def _events(api: str) -> list[str]:
    pages = [_ask(f"{api}/events/filter", {"limit": 50})]
    while further := json.loads(pages[-1])["next_page"]:
        pages.append(_ask(further))
    return pages


def _ask(url: str, body: dict[str, Any] | None = None) -> str:
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())
