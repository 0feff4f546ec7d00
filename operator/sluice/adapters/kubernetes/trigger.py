"""A run on request, asked for as any user could: by an annotation with a new value."""

import asyncio
import http
from datetime import UTC, datetime
from typing import Any

from sluice.adapters.kubernetes.api import MERGE, Api, ApiError
from sluice.errors import SluiceError, WorkflowInvalid
from sluice.reasons import Reason
from sluice.workflow import GROUP, PLURAL, RUN_AT, RUN_DATA, VERSION, WorkflowKey

_LOOK_S = 0.25


async def request(api: Api, key: WorkflowKey, data: str | None) -> str:
    """Ask for one run and return the token that the status will name when it is over.

    Raises:
        SluiceError: there is no such workflow, or the cluster does not answer or allow it.

    """
    token = datetime.now(UTC).isoformat()
    annotations = {RUN_AT: token, RUN_DATA: data}  # None takes an earlier run's data away
    await _ask(api, "PATCH", key, {"metadata": {"annotations": annotations}})
    return token


async def wait(api: Api, key: WorkflowKey, token: str) -> dict[str, Any] | None:
    """Return the execution that ``token`` asked for once it is over; None: it was refused."""
    while True:
        status = (await _ask(api, "GET", key)).get("status") or {}
        if status.get("lastHandledRunAt") == token:
            runs = status.get("executions", ())
            return next((run for run in runs if run["id"] == token), None)
        await asyncio.sleep(_LOOK_S)


async def _ask(
    api: Api, method: str, key: WorkflowKey, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    path = f"/apis/{GROUP}/{VERSION}/namespaces/{key.namespace}/{PLURAL}/{key.name}"
    try:
        answer: dict[str, Any] = await api.ask(method, path, body=body, content_type=MERGE)
    except ApiError as e:
        if e.status == http.HTTPStatus.NOT_FOUND:
            raise WorkflowInvalid(Reason.INVALID_SPEC, f"there is no workflow {key}") from None
        raise _told(e, key) from None
    return answer


def _told(error: ApiError, key: WorkflowKey) -> SluiceError:
    if error.status in {http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.UNPROCESSABLE_ENTITY}:
        return WorkflowInvalid(Reason.INVALID_SPEC, error.message)
    return error.unavailable(f"workflow {key}")
