"""A door between the operator and the API server that can be shut, cut and made to say no."""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

_HOP = {"Host", "Transfer-Encoding", "Content-Length", "Connection", "Content-Encoding"}


@dataclass(slots=True)
class Fault:
    """Answers ``count`` requests that ``matches(method, path)`` takes with ``status``."""

    matches: Callable[[str, str], bool]
    status: int
    count: int
    headers: dict[str, str]
    answered: int = 0

    def end(self) -> None:
        """Pass on what it would have refused."""
        self.count = 0


class Hold:
    """Keeps requests that ``matches(method, path)`` takes waiting until it is released."""

    def __init__(
        self, matches: Callable[[str, str], bool], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.matches, self._loop = matches, loop
        self._released = asyncio.Event()
        self.held = 0

    def release(self) -> None:
        self._loop.call_soon_threadsafe(self._released.set)

    async def wait(self) -> None:
        self.held += 1
        await self._released.wait()


class Proxy:
    """Speaks plain HTTP on one side and TLS to a control plane on the other.

    ``requests`` lists what came through, as (method, path with query), in order.
    """

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        self._config = json.loads(kubeconfig.read_text())
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._faults: list[Fault] = []
        self._holds: list[Hold] = []
        self._port = 0
        self._streams: set[asyncio.Task[Any]] = set()
        self.requests: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def kubeconfig(self) -> Path:
        """The given one, with this door as its server."""
        config = json.loads(json.dumps(self._config))
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self._port}"}
        path = self._directory / f"proxy-{self._port}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def fail(
        self,
        matches: Callable[[str, str], bool],
        status: int,
        count: int,
        headers: dict[str, str] | None = None,
    ) -> Fault:
        """Answer the next ``count`` matching requests with ``status``, passing none of them on."""
        fault = Fault(matches, status, count, headers or {})
        self._faults.append(fault)
        return fault

    def hold(self, matches: Callable[[str, str], bool]) -> Hold:
        """Keep every matching request waiting, as a slow API server would, until ``release``."""
        hold = Hold(matches, self._loop)
        self._holds.append(hold)
        return hold

    def shut(self) -> None:
        """Break what is open and refuse every connection until ``open``."""
        self._call(self._shut())

    def open(self) -> None:
        """Listen again, on the same port."""
        self._call(self._listen())

    def cut(self) -> int:
        """Break every stream that is open, a watch above all; return how many there were."""
        streams = list(self._streams)
        for task in streams:
            self._loop.call_soon_threadsafe(task.cancel)
        return len(streams)

    async def _start(self) -> None:
        cluster = self._config["clusters"][0]["cluster"]
        trusted = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=trusted)
        self._upstream = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        self._server = urlsplit(cluster["server"])
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()
        self._port = self._runner.addresses[0][1]

    async def _listen(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await self._site.start()

    async def _shut(self) -> None:
        await self._site.stop()
        server = self._runner.server
        assert server is not None
        for connection in list(server.connections):
            if connection.transport:
                connection.transport.abort()

    async def _stop(self) -> None:
        self.cut()
        await self._runner.cleanup()
        await self._upstream.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        path = request.path_qs
        self.requests.append((request.method, path))
        for fault in self._faults:
            if fault.answered < fault.count and fault.matches(request.method, path):
                fault.answered += 1
                return _refusal(fault)
        for hold in self._holds:
            if hold.matches(request.method, path):
                await hold.wait()
        url = f"{self._server.scheme}://{self._server.netloc}{path}"
        headers = {k: v for k, v in request.headers.items() if k.title() not in _HOP}
        try:
            async with self._upstream.request(
                request.method, url, headers=headers, data=await request.read() or None
            ) as answer:
                return await self._stream(request, answer)
        except aiohttp.ClientConnectionError as e:
            return web.Response(status=502, text=str(e))

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        kept = {k: v for k, v in answer.headers.items() if k.title() not in _HOP}
        response = web.StreamResponse(status=answer.status, headers=kept)
        response.headers.pop("Content-Length", None)
        if encoding := answer.headers.get("Content-Encoding"):
            response.headers["Content-Encoding"] = encoding
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            async for piece in answer.content.iter_any():
                await response.write(piece)
        except (asyncio.CancelledError, aiohttp.ClientError):  # cut here, or the server ended
            if request.transport:
                request.transport.abort()
            return response
        finally:
            self._streams.discard(task)
        await response.write_eof()
        return response

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


def _refusal(fault: Fault) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": fault.status, "message": "by the test"}
    return web.json_response(body, status=fault.status, headers=fault.headers)
