"""Results in one key of a ConfigMap that is the workflow's own.

The operator may write every ConfigMap where the admin has granted this, its tenants may not: so
one that exists and is not owned by the workflow is left alone, whatever its author asks for.
"""

import base64
import http
from typing import Any

from sluice.adapters.kubernetes.api import APPLY, METADATA, Api, ApiError
from sluice.metrics import Metrics
from sluice.settings import Settings
from sluice.sinks import Undelivered
from sluice.snapshot import Run
from sluice.workflow import API_VERSION, GROUP, KIND, Workflow

_MANAGER = "sluice-sink"


class ConfigMapSink:
    """A ``sinks.Door``. Asks for the rights to get, create and patch ConfigMaps."""

    def __init__(self, api: Api, settings: Settings, metrics: Metrics) -> None:
        self._api, self._settings = api, settings
        self._count = metrics.api_writes.labels("sink")

    async def put(self, workflow: Workflow, run: Run) -> None:
        sink = workflow.spec.sink
        assert sink is not None
        assert sink.config_map is not None
        name, key = sink.config_map.name, sink.config_map.key
        self._check_size(name, run)
        try:
            uid = await self._owned(workflow, name)
            body = _applied(name, uid, key, run)
            query = {"fieldManager": _MANAGER, "force": "true"}
            await self._write(
                "PATCH", f"{_path(workflow)}/{name}", body, query=query, content_type=APPLY
            )
        except ApiError as e:
            raise _undelivered(name, e) from None

    def _check_size(self, name: str, run: Run) -> None:
        size, most = len(run.outcome.result), self._settings.sink_config_map_bytes_max
        if size > most:
            raise Undelivered(
                f"ConfigMap {name}: the result has {size:,} bytes, a ConfigMap takes {most:,} "
                "(sink_config_map_bytes_max); lower spec.limits.response, or use an HTTP sink"
            )

    async def _owned(self, workflow: Workflow, name: str) -> str:
        """Return the uid of the ConfigMap, which is the workflow's own; create it if need be."""
        try:
            path = f"{_path(workflow)}/{name}"
            found = await self._api.ask("GET", path, accept=METADATA, attempts=1)
        except ApiError as e:
            if e.status != http.HTTPStatus.NOT_FOUND:
                raise
            # Empty: what server-side apply is to change later must be apply's from the beginning.
            found = await self._write("POST", _path(workflow), _empty(workflow, name))
        metadata = found["metadata"]
        owners = {owner["uid"] for owner in metadata.get("ownerReferences") or ()}
        if workflow.uid not in owners:
            raise Undelivered(
                f"ConfigMap {name} is there and not this workflow's own; it is not written: "
                "delete it, or name another in spec.sink.configMap"
            )
        return str(metadata["uid"])

    async def _write(self, method: str, path: str, body: dict[str, Any], **how: Any) -> Any:
        self._count.inc()
        return await self._api.ask(method, path, body=body, attempts=1, **how)


def _path(workflow: Workflow) -> str:
    return f"/api/v1/namespaces/{workflow.key.namespace}/configmaps"


def _empty(workflow: Workflow, name: str) -> dict[str, Any]:
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": workflow.key.name,
        "uid": workflow.uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "sluice"},
            "ownerReferences": [owner],
        },
    }


def _applied(name: str, uid: str, key: str, run: Run) -> dict[str, Any]:
    # The uid makes it an error to write on another ConfigMap that took the name meanwhile.
    told = {f"{GROUP}/execution": run.id, f"{GROUP}/outcome": str(run.outcome.kind)}
    metadata = {"name": name, "uid": uid, "annotations": told}
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    try:
        return body | {"data": {key: run.outcome.result.decode()}}
    except UnicodeDecodeError:
        return body | {"binaryData": {key: base64.b64encode(run.outcome.result).decode()}}


def _undelivered(name: str, error: ApiError) -> Undelivered:
    what = f"ConfigMap {name}: {error.message}"
    if error.status == http.HTTPStatus.FORBIDDEN:
        what = (
            f"{what}. The operator may not write ConfigMaps: an admin grants it with the "
            "ClusterRole sluice-operator-sink"
        )
    # A conflict: it was made, or made anew, while we looked.
    passing = error.passing or error.status == http.HTTPStatus.CONFLICT
    return Undelivered(what, passing=passing, retry_after_s=error.retry_after_s)
