"""What Prefect's server answers to a new deployment is told as everything that it answers."""

from __future__ import annotations

import httpx
import pytest
from prefect.deployments.runner import DeploymentApplyError

from prefect_datasync.deployments.creation import put_up


class Refused:
    """A deployment that the server refuses, as Prefect tells it."""

    def apply(self) -> object:
        request = httpx.Request("POST", "http://127.0.0.1:4200/api/deployments/")
        response = httpx.Response(503, request=request)
        try:
            response.raise_for_status()
        except httpx.HTTPStatusError as exc:
            raise DeploymentApplyError(f"Error while applying deployment: {exc}") from exc
        raise AssertionError


def test_a_deployment_that_the_server_refuses_is_told_as_any_answer_of_it():
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        put_up(Refused())
