"""The client library's connection, with one way to ask and one way to fail.

The generated methods are left aside: they copy every answer into models, and most of ours are
payloads, metadata alone (a header they do not know), or server-side apply.
"""

import copy
import http
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import stamina
from kubernetes.aio import client, config

from sluice.errors import SourceUnavailable
from sluice.reasons import Reason

_JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
# With a charset the client leaves the body as it is given: what it would make of it is no YAML.
APPLY = "application/apply-patch+yaml; charset=utf-8"
MERGE = "application/merge-patch+json"
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")
_TIMEOUT_S = 30.0
# What may wait to be read of each stream, in each of the layers that buffer it. The defaults are
# for a few: when a hundred see one large object at once, they would hold it a hundred times.
_STREAM_BUFFER_BYTES = 16 << 10
# Not less than a packet on loopback, nor, by far, than a record of TLS, which must be had whole.
_SOCKET_BUFFER_BYTES = 64 << 10
# What may pass by itself: too many requests, and a server that is on its way up or down.
_PASSING = frozenset({0, 429, 500, 502, 503, 504})
# Who is to wait longer than this waits outside, where it holds up nobody.
_RETRY_AFTER_S_MAX = 10.0


class ApiError(Exception):
    """The API server said no, or nothing (status 0)."""

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after_s = status, message, retry_after_s

    @property
    def passing(self) -> bool:
        return self.status in _PASSING

    def unavailable(self, what: str) -> SourceUnavailable:
        """Return this as what it means for one who needed the answer."""
        if self.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            return SourceUnavailable(Reason.SOURCE_FORBIDDEN, f"{what}: {self.message}")
        said = f"answered {self.status}: " if self.status else "cannot be reached: "
        return SourceUnavailable(
            Reason.SOURCE_UNAVAILABLE, f"{what}: the API server {said}{self.message}"
        )


@dataclass(frozen=True, slots=True)
class Account:
    """What kopf needs to connect as we do."""

    server: str
    insecure: bool
    ca_path: str | None
    ca_data: str | bytes | None
    certificate_path: str | None
    private_key_path: str | None
    authorization: str | None


class Api:
    """One connection pool; ``aclose`` it."""

    def __init__(self, configuration: client.Configuration) -> None:
        self._client = client.ApiClient(configuration)
        self._streams: client.ApiClient | None = None

    @classmethod
    async def connect(cls) -> "Api":
        """Return a connection by KUBECONFIG, else by the pod's service account, else ~/.kube.

        Raises:
            SourceUnavailable: there is no configuration, or it cannot be used.

        """
        stamina.instrumentation.set_on_retry_hooks([])  # the last failure is told, by who asked
        configuration = client.Configuration()
        configuration.connection_pool_maxsize = 16
        try:
            if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                await config.load_kube_config(client_configuration=configuration)
        except (config.ConfigException, OSError, ValueError) as e:
            raise SourceUnavailable(
                Reason.SOURCE_UNAVAILABLE,
                f"no cluster is configured: {e}; set KUBECONFIG, or run inside a pod",
            ) from None
        return cls(configuration)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._client.configuration.host)

    async def account(self) -> Account:
        """Return the credentials as they are now: a token in a pod is renewed by the kubelet."""
        c = self._client.configuration
        auth = (await c.auth_settings()).get("BearerToken")
        return Account(
            c.host,
            not c.verify_ssl,
            c.ssl_ca_cert,
            c.ca_cert_data,
            c.cert_file,
            c.key_file,
            auth["value"] if auth else None,
        )

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        content_type: str = _JSON,
        accept: str = _JSON,
        attempts: int = 4,
    ) -> Any:
        """Return the decoded answer; raises ApiError, after what may pass was tried again."""
        async for attempt in stamina.retry_context(on=_pause, attempts=attempts, timeout=60):
            with attempt:
                return await self._once(method, path, query, body, content_type, accept)
        raise AssertionError("the last attempt raises")

    @asynccontextmanager
    async def stream(
        self, path: str, query: dict[str, str], *, silence_s_max: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open a watch and yield what comes; raises ApiError where it is refused or breaks."""
        if self._streams is None:
            self._streams = client.ApiClient(_for_streams(self._client.configuration))
        # Not compressed: what is told must not wait for more to be packed with it.
        headers = {"Accept": _JSON, "Accept-Encoding": "identity"}
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_TIMEOUT_S, sock_read=silence_s_max
        )
        try:
            request = await self._streams.param_serialize(
                "GET", path, query_params=list(query.items()), header_params=headers,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            answer = await self._streams.call_api(*request, _request_timeout=timeout)
            async with answer.response:
                if answer.response.status >= http.HTTPStatus.BAD_REQUEST:
                    _judged(answer.response, await answer.read())
                _narrow(answer.response)
                yield answer.response.content
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise ApiError(0, str(e) or type(e).__name__) from None

    async def _once(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: dict[str, Any] | None,
        content_type: str,
        accept: str,
    ) -> Any:
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=_yaml(body) if content_type == APPLY else body,
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(*request, _request_timeout=_TIMEOUT_S)
            async with answer.response:
                return _judged(answer.response, await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as e:
            raise ApiError(0, str(e) or type(e).__name__) from None

    async def aclose(self) -> None:
        await self._client.close()
        if self._streams is not None:
            await self._streams.close()


def _yaml(body: Any) -> str:
    """Return JSON that is YAML as well, whatever its texts hold.

    A patch that is applied is read by a YAML parser, to which a surrogate pair, JSON's escape for
    what lies beyond U+FFFF, is two invalid characters; and some others must not stand there raw.
    """
    return _NOT_PLAIN.sub(_escaped, json.dumps(body, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def pause_s(failures: int, longest_s: float) -> float:
    """Return how long to wait after so many failures in a row, however many they are."""
    return min(2.0 ** min(failures, 16), longest_s)  # 2.0 ** 1024 is an error, in a long outage


def current_namespace() -> str:
    """Return the namespace that kubectl would take."""
    try:
        _, active = config.list_kube_config_contexts()
    except config.ConfigException:
        return "default"
    return str(active["context"].get("namespace") or "default")


def _for_streams(configuration: client.Configuration) -> client.Configuration:
    # A pool of their own: a stream keeps its connection, and requests must not wait for one.
    streams = copy.deepcopy(configuration)
    streams.connection_pool_maxsize = 0  # no bound here: who opens them bounds them
    streams.client_session_kwargs = {"read_bufsize": _STREAM_BUFFER_BYTES}
    return streams


def _narrow(response: aiohttp.ClientResponse) -> None:
    transport = response.connection.transport if response.connection else None
    if transport is None:
        return  # it has ended already
    # The kernel's share is the pod's memory too; it grows to megabytes for who reads slowly.
    found = transport.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    if transport.get_extra_info("sslcontext"):
        high, low = _SOCKET_BUFFER_BYTES, _SOCKET_BUFFER_BYTES // 2
        transport.set_read_buffer_limits(high, low)  # type: ignore[attr-defined]


def _judged(response: aiohttp.ClientResponse, data: bytes) -> Any:
    if response.status < http.HTTPStatus.BAD_REQUEST:
        return json.loads(data) if data else None
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data[:200].decode(errors="replace") or str(response.reason)
    after = response.headers.get("Retry-After", "")
    raise ApiError(response.status, message, float(after) if after.isdigit() else None)


def _pause(error: Exception) -> bool | float:
    if not isinstance(error, ApiError) or not error.passing:
        return False
    after_s = error.retry_after_s or 0
    return after_s <= _RETRY_AFTER_S_MAX and (after_s or True)
