"""HTTP requests of a workflow, judged before they are sent and bounded in each direction.

Apart from http.py because confidential.py sends them too. Which addresses may be reached is not
decided here: the guard of outgoing requests judges each where it connects. Redirects are answers.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from multidict import CIMultiDict
from yarl import URL

from sluice.cre.errors import CapabilityError, Code
from sluice.settings import Settings
from sluice.spec import CreSpec

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# RFC 9110: a token, and a value without what would end its line.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\0\r\n]*")
# They belong to the connection, which is ours; and another Host would be a way round allowHosts.
_OURS = frozenset(
    {
        "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
        "expect", "keep-alive", "proxy-authorization", "proxy-connection",
    }
)  # fmt: skip


class Unsent(Exception):  # noqa: N818 - named for what it says
    """No answer came; ``refused``: it may not be sent. Nothing of the URL but its host is told."""

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.message, self.refused = message, refused


class Answer(Protocol):
    """``body`` is at most what was asked for; ``cut`` says whether there was more."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def cut(self) -> bool: ...


class Door(Protocol):
    """The guard of outgoing requests."""

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
        """Send one request; raises Unsent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request as the guest wants it."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout: Duration


@dataclass(frozen=True, slots=True)
class Answered:
    """``headers`` has each name once, as Go writes it, with its values in order."""

    status: int
    headers: dict[str, list[str]]
    body: bytes


class Sending:
    """Sends what the spec and the bounds allow."""

    def __init__(self, door: Door, settings: Settings) -> None:
        self._door, self._settings = door, settings

    async def send(self, wanted: Wanted, spec: CreSpec) -> Answered:
        """Send one request; raises CapabilityError."""
        method = wanted.method.upper() or "GET"
        if method not in _METHODS:
            raise _invalid(f"method: write one of {', '.join(_METHODS)}")
        host = _host(wanted.url)
        _check_host(host, spec)
        self._check_size(wanted)
        timeout_s = self._timeout_s(wanted.timeout)
        most = self._settings.cre_http_response_bytes_max
        try:
            async with asyncio.timeout(timeout_s):  # from here on, with looking its name up
                answer = await self._door.request(
                    method, wanted.url, headers=_headers(wanted.headers), body=wanted.body,
                    timeout_s=timeout_s + 1, answer_bytes_max=most,
                )  # fmt: skip
        except TimeoutError:
            raise CapabilityError(
                Code.DEADLINE_EXCEEDED, f"{host}: no answer in {timeout_s:g} s"
            ) from None
        except Unsent as e:
            code = Code.PERMISSION_DENIED if e.refused else Code.UNAVAILABLE
            raise CapabilityError(code, e.message) from None
        if answer.cut:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED, f"the response's body has more than {most:,} bytes"
            )
        return Answered(answer.status, _by_name(answer.headers), answer.body)

    def _check_size(self, wanted: Wanted) -> None:
        most = self._settings.cre_http_request_bytes_max
        head = len(wanted.url) + sum(len(name) + len(value) for name, value in wanted.headers)
        for what, size in (("body", len(wanted.body)), ("URL and headers", head)):
            if size > most:
                raise CapabilityError(
                    Code.LIMIT_EXCEEDED,
                    f"the request's {what}: {size:,} bytes, but at most {most:,} are sent",
                )

    def _timeout_s(self, given: Duration) -> float:
        seconds, most = given.seconds + given.nanos / 1e9, self._settings.cre_http_s_max
        if seconds < 0:
            raise _invalid("timeout: is negative")
        if seconds > most:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED, f"timeout: {seconds:g} s, but at most {most:g} s are given"
            )
        return seconds or most


def _invalid(message: str) -> CapabilityError:
    return CapabilityError(Code.INVALID_ARGUMENT, message)


def _host(url: str) -> str:
    """Return the host of a URL in the form of allowHosts; raises CapabilityError."""
    try:
        target = URL(url)
    except ValueError:
        target = URL()
    host = (target.raw_host or "").rstrip(".")
    if target.scheme not in {"http", "https"} or not host:
        raise _invalid("url: is not a URL of http or https with a host")
    return f"[{host}]" if ":" in host else host


def _check_host(host: str, spec: CreSpec) -> None:
    allowed = spec.http.allow_hosts if spec.http else None
    if allowed is None:
        return
    if not any(host.endswith(h) if h[0] == "." else host == h for h in allowed):
        raise CapabilityError(
            Code.PERMISSION_DENIED,
            f'host "{host}" is not in the workflow\'s spec.cre.http.allowHosts',
        )


def _headers(given: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    headers = CIMultiDict[str]()
    for name, value in given:
        # Values are not repeated: a secret may stand in them.
        if not _NAME.fullmatch(name):
            raise _invalid("headers: a name is none; write letters, digits and -")
        if not _VALUE.fullmatch(value):
            raise _invalid(f"headers: the value of {name} holds a line break or a NUL byte")
        if name.lower() not in _OURS:
            headers.add(name, value)
    return headers


def _by_name(headers: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers.items():
        plain = "-".join(part.capitalize() for part in _text(name).split("-"))
        found.setdefault(plain, []).append(_text(value))
    return found


def _text(given: str) -> str:
    """Return a text that a message can hold: what was no UTF-8 is ? in it."""
    return given.encode(errors="replace").decode()
