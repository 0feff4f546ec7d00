"""The one door for requests that a workflow makes this process send.

Each address is judged where the socket for it is made, so what is judged is what is connected to:
a name that resolves to another address by then gains nothing. A proxy of the environment is not
used: it would connect where we cannot see. Redirects are answers, not followed.
"""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from sluice.destinations import Address, Destinations
from sluice.metrics import Metrics
from sluice.settings import Settings

# Threads of our own: names that resolve slowly must not keep the process's others busy.
_RESOLVERS = 4
_PROTECTED_AGE_S_MAX = 60.0


class EgressError(Exception):
    """A request that got no answer; ``message`` has the host, and nothing else of the URL."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EgressRefused(EgressError):  # noqa: N818 - named for what they say, as errors.py's are
    """It may not be sent. Trying again changes nothing."""


class EgressFailed(EgressError):  # noqa: N818
    """It was sent, or tried, in vain."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is at most what was asked for; ``cut`` says whether there was more."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cut: bool


class Names(AbstractResolver):
    """The system's resolver, in a few threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, proto, _, address in found
        ]  # fmt: skip

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Egress:
    """Sends what ``Destinations`` allow; ``aclose`` it.

    ``api_server`` is the host that nobody is to reach through us, by whatever name.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        api_server: str | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._rules, self._metrics = Destinations.of(settings), metrics
        self._resolver = resolver or Names()
        self._api_server, self._protected = api_server, frozenset[Address]()
        self._protected_until, self._looking = 0.0, asyncio.Lock()
        # Two pools, for whom the admin allows by name and for all others: who is judged where the
        # socket is made is known by its address only.
        self._sessions = {
            trusted: self._session(settings.egress_requests_max, trusted=trusted)
            for trusted in (False, True)
        }

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
        answer_bytes_max: int,
    ) -> Answer:
        """Send one request and return the answer, whatever its status is; raises EgressError."""
        try:
            target = self._target(url)
            await self._protect()
            answer = await self._send(method, target, headers, body, timeout_s, answer_bytes_max)
        except EgressRefused:
            self._metrics.egress_requests.labels("refused").inc()
            raise
        except EgressFailed:
            self._metrics.egress_requests.labels("failed").inc()
            raise
        self._metrics.egress_requests.labels("answered").inc()
        return answer

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        await self._resolver.close()

    def _session(self, connections: int, *, trusted: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=connections,
            resolver=self._resolver,
            socket_factory=partial(self._socket, trusted),
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),  # one tenant's cookies are not another's
            auto_decompress=False,  # what is bounded is what came
            headers={"User-Agent": "sluice", "Accept-Encoding": "identity"},
            skip_auto_headers=("Content-Type",),  # what has no body has no type
        )

    def _socket(self, trusted: bool, info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        why = self._rules.refusal(str(address[0]), trusted=trusted, protected=self._protected)
        if why:
            raise PermissionError(errno.EACCES, why)
        return socket.socket(family, kind, proto)

    def _target(self, url: str) -> URL:
        try:
            target = URL(url)
        except ValueError as e:
            raise EgressRefused(f"not a URL: {e}") from None
        if target.scheme not in {"http", "https"} or not target.raw_host:
            raise EgressRefused("not a URL of http or https with a host")
        if target.raw_user is not None or target.raw_password is not None:
            raise EgressRefused(f"{target.raw_host}: the URL holds credentials; leave them out")
        if self._rules.refuses_host(target.raw_host):
            raise EgressRefused(f"{target.raw_host} is denied (egress_deny)")
        return target

    async def _protect(self) -> None:
        """Look up the API server's addresses, now and then: they may be a load balancer's."""
        if self._api_server is None:
            return
        loop = asyncio.get_running_loop()
        async with self._looking:  # nothing is sent before the first answer is there
            if loop.time() < self._protected_until:
                return
            try:
                found = await self._resolver.resolve(self._api_server)
            except OSError as e:
                if not self._protected:  # or we would not know what to keep from them
                    raise EgressFailed(f"the API server's name cannot be resolved: {e}") from None
                return
            self._protected = frozenset(ipaddress.ip_address(r["host"]) for r in found)
            self._protected_until = loop.time() + _PROTECTED_AGE_S_MAX

    async def _send(
        self,
        method: str,
        target: URL,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
        answer_bytes_max: int,
    ) -> Answer:
        host = str(target.raw_host)
        session = self._sessions[self._rules.trusts(host)]
        try:
            async with session.request(
                method, target, headers=headers, data=body or None, allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:  # fmt: skip
                return await _read(answer, answer_bytes_max)
        except aiohttp.ClientConnectorCertificateError as e:
            raise EgressFailed(f"{host}: its certificate: {e.certificate_error}") from None
        except aiohttp.ClientConnectorError as e:
            what = f"{host}: {e.os_error.strerror or e.os_error}"
            if e.os_error.errno == errno.EACCES:
                raise EgressRefused(what) from None
            raise EgressFailed(what) from None
        except aiohttp.InvalidURL:
            raise EgressRefused(f"{host} is no host") from None
        except TimeoutError:
            raise EgressFailed(f"{host}: no answer in {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise EgressFailed(f"{host}: {type(e).__name__}") from None  # others quote the URL


async def _read(answer: aiohttp.ClientResponse, bytes_max: int) -> Answer:
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > bytes_max:
            answer.close()  # the rest is not wanted, and the connection is of no use any more
            break
    return Answer(answer.status, answer.headers, bytes(body[:bytes_max]), len(body) > bytes_max)
