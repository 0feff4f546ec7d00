"""An HTTP port that strangers reach: bounded in connections, in headers, and in time.

Apart from webhooks.py, since it knows nothing of workflows: only of clients that are slow, many
or broken. Whatever they do is no line of the log.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web

from sluice.errors import EngineRefused
from sluice.reasons import Reason

_HEADERS_MAX, _HEADER_BYTES_MAX = 64, 8190
_READ_BYTES = 16 << 10  # read ahead of each connection, twice that at most
_KERNEL_BYTES = 32 << 10  # in each direction; Linux doubles it
_LINGER_S = 2.0  # for who is told 413 to hear it, while what he sends is thrown away
_END_S = 2.0
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
# aiohttp tells each malformed request with a traceback and with what was in it: a credential, say.
_silent = logging.getLogger(__name__ + ".silent")
_silent.disabled = True


class TooLarge(Exception):  # noqa: N818 - named for what it says
    """The body has more bytes than anybody may send."""


@asynccontextmanager
async def listening(
    app: web.Application,
    address: str,
    port: int,
    *,
    connections_max: int,
    idle_s: float,
    refused: Callable[[], None],
) -> AsyncIterator[int]:
    """Serve ``app`` inside the block; yield the port in use.

    ``idle_s`` is how long a connection may take to bring a request, from its beginning or from
    the answer before; ``refused`` is called with each connection too many. A handler is cancelled
    when its client goes.

    Raises:
        EngineRefused: the port cannot be had.

    """
    runner = web.AppRunner(
        app, access_log=None, logger=_silent, handler_cancellation=True, keepalive_timeout=idle_s,
        lingering_time=_LINGER_S, max_headers=_HEADERS_MAX, max_line_size=_HEADER_BYTES_MAX,
        max_field_size=_HEADER_BYTES_MAX, auto_decompress=False, shutdown_timeout=_END_S,
        read_bufsize=_READ_BYTES,
    )  # fmt: skip
    await runner.setup()
    listener = None
    try:
        assert runner.server is not None
        accept = _bounded(runner.server, connections_max, refused)
        try:
            listener = await asyncio.get_running_loop().create_server(accept, address, port)
        except OSError as e:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"cannot listen on {address}:{port}: {e.strerror}"
            ) from None
        for listening_socket in listener.sockets:
            # Each connection inherits it. The kernel's buffers count as the pod's memory too, and
            # by themselves grow to megabytes; what is read at once is no more than they hold.
            for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                listening_socket.setsockopt(socket.SOL_SOCKET, buffer, _KERNEL_BYTES)
        yield listener.sockets[0].getsockname()[1]
    finally:
        if listener:
            listener.close()
        await runner.cleanup()


def _bounded(
    server: web.Server, most: int, refused: Callable[[], None]
) -> Callable[[], asyncio.Protocol]:
    def accept() -> asyncio.Protocol:
        if len(server.connections) < most:
            return server()
        refused()
        return _Full()

    return accept


class _Full(asyncio.Protocol):
    """Tells one connection too many so, and ends it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_FULL)
        transport.close()


async def read_body(request: web.Request, most: int) -> bytes:
    """Return a body of at most ``most`` bytes; of a longer one no more is read.

    Raises:
        TooLarge: it is longer.
        web.RequestPayloadError: it is malformed.

    """
    if (request.content_length or 0) > most:
        raise TooLarge
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLarge
    return bytes(body)


async def send(request: web.Request, response: web.StreamResponse, within_s: float) -> None:
    """Send an answer; who does not take it in time is cut off, since it is held in memory."""
    transport = request.transport
    if transport is None:
        return
    transport.set_write_buffer_limits(0)  # so that `drain` returns when all is with the kernel
    try:
        async with asyncio.timeout(within_s):
            await response.prepare(request)
            await response.write_eof()
            await request.writer.drain()
    except TimeoutError:
        transport.abort()


def problem(status: HTTPStatus, message: str, **headers: str) -> web.Response:
    """Return an answer that says what was wrong."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": message}, status=status, headers=named)
