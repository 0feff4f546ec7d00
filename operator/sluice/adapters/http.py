"""Probes and metrics, answered by the event loop alone: no load of guests can starve them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sluice.errors import EngineRefused
from sluice.executions.acceptance import Pending
from sluice.reasons import Reason
from sluice.snapshot import Run
from sluice.told import as_json, with_log
from sluice.workflow import WorkflowKey

_EXECUTIONS = "/v1/namespaces/{namespace}/workflows/{name}/executions"
_LISTED, _LISTED_MAX = 20, 1000
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Records(Protocol):
    """What is remembered of the executions of each workflow."""

    async def recent(self, key: WorkflowKey, limit: int) -> Sequence[Run | Pending] | None:
        """Return the newest first, what waits and runs included; None: no such workflow.

        Results may be cut, and logs be left out.
        """
        ...

    async def find(self, key: WorkflowKey, id_: str) -> Run | Pending | None:
        """Return one execution as a whole."""
        ...


@asynccontextmanager
async def serving(
    address: str,
    port: int,
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    overview: Callable[[], dict[str, Any]],
    records: Records | None = None,
) -> AsyncIterator[int]:
    """Answer probes, /metrics, /status and the admin's API inside the block; yield the port in use.

    /status and the API tell of workflows of every namespace, so they are answered on this machine
    alone: inside the pod, and through a port-forward, which ends there.

    Raises:
        EngineRefused: the port cannot be had.

    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # that it is answered at all is the answer

    async def readyz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the workflows have not been listed yet\n")

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def status(_: web.Request) -> web.Response:
        return web.json_response(overview())

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/status", _inside(status)),
        ]
    )
    if records:
        app.add_routes(_admin(records))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address, port)
        try:
            await site.start()
        except OSError as e:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"cannot listen on {address}:{port}: {e.strerror}"
            ) from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _inside(handler: _Handler) -> _Handler:
    """Answer what comes from inside the pod alone."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.remote not in {"127.0.0.1", "::1"}:
            return web.Response(status=403, text="only from inside the pod, or a port-forward\n")
        return await handler(request)

    return answer


def _admin(records: Records) -> list[web.RouteDef]:
    """Return the routes of ``sluice executions`` and ``sluice logs``."""

    async def listed(request: web.Request) -> web.Response:
        limit = request.query.get("limit", str(_LISTED))
        if not limit.isdecimal() or not 1 <= int(limit[:9]) <= _LISTED_MAX:
            return web.Response(status=400, text=f"limit: write 1 to {_LISTED_MAX}\n")
        key = _key(request)
        found = await records.recent(key, int(limit))
        if found is None:
            return web.Response(status=404, text=f"there is no workflow {key}\n")
        return web.json_response({"executions": [as_json(one) for one in found]})

    async def one(request: web.Request) -> web.Response:
        key, id_ = _key(request), request.match_info["id"]
        found = await records.find(key, id_)
        if found is None:
            text = f"{key} has no execution {id_}, or it is forgotten\n"
            return web.Response(status=404, text=text)
        return web.json_response(with_log(found))

    return [web.get(_EXECUTIONS, _inside(listed)), web.get(_EXECUTIONS + "/{id}", _inside(one))]


def _key(request: web.Request) -> WorkflowKey:
    return WorkflowKey(request.match_info["namespace"], request.match_info["name"])
