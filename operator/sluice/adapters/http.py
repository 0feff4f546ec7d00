"""Probes and metrics, answered by the event loop alone: no load of guests can starve them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sluice.errors import EngineRefused
from sluice.reasons import Reason


@asynccontextmanager
async def serving(
    address: str,
    port: int,
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    overview: Callable[[], dict[str, Any]],
) -> AsyncIterator[int]:
    """Answer /healthz, /readyz, /metrics and /status inside the block; yield the port in use.

    /status names workflows of every namespace, so it is answered on this machine alone: inside
    the pod, and through a port-forward, which ends there.

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

    async def status(request: web.Request) -> web.Response:
        if request.remote not in {"127.0.0.1", "::1"}:
            return web.Response(status=403, text="only from inside the pod, or a port-forward\n")
        return web.json_response(overview())

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
            web.get("/status", status),
        ]
    )
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
