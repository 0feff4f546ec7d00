"""``http-actions@1.0.0-alpha``: a workflow's plain HTTP requests, and a cache of their answers.

The cache is there so that one of a workflow's executions may use what another has just fetched, or
so that a request is not sent twice. It is never shared between workflows.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from google.protobuf.any_pb2 import Any as Packed

from sluice.capabilities import Budget, CallContext, pack, unknown_method, unpack
from sluice.capabilities.sending import Answered, Sending, Wanted
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.http_client_pb2 import CacheSettings, HeaderValues, Request, Response
from sluice.settings import Settings

_ENTRY_BYTES = 512  # what an entry costs beside its answer


class Http:
    """``clock`` counts seconds and never goes back."""

    id = "http-actions@1.0.0-alpha"

    def __init__(
        self, sending: Sending, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.budget = Budget("HTTPAction", settings.cre_http_calls_max)
        self._sending, self._settings = sending, settings
        self._cache = _Cache(settings, clock)

    async def call(self, method: str, payload: Packed, context: CallContext) -> Packed:
        if method != "SendRequest":
            raise unknown_method(method, ["SendRequest"])
        request = unpack(payload, Request)
        if request.mtls:
            raise CapabilityError(Code.UNIMPLEMENTED, "mtls: is not supported; leave it out")
        age_s = self._age_s(request.cache_settings)
        key = _key(context, request)
        kept = self._cache.get(key, age_s) if age_s else None
        if kept is not None:
            return pack(Response.FromString(kept))
        response = _response(await self._sending.send(_wanted(request), context.spec))
        if request.cache_settings.store and _lasts(response.status_code):
            self._cache.put(key, response.SerializeToString())
        return pack(response)

    def _age_s(self, cache: CacheSettings) -> float:
        age_s, most = cache.max_age.seconds + cache.max_age.nanos / 1e9, self._settings
        if age_s < 0:
            raise CapabilityError(Code.INVALID_ARGUMENT, "cache_settings.max_age: is negative")
        if age_s > most.cre_http_cache_s_max:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED,
                f"cache_settings.max_age: {age_s:g} s, but an answer is kept for at most "
                f"{most.cre_http_cache_s_max:g} s",
            )
        return age_s


def _wanted(request: Request) -> Wanted:
    """Read both forms of headers; a name that is in both counts as the newer form has it."""
    newer = [(name, v) for name, many in request.multi_headers.items() for v in many.values]
    names = {name.lower() for name in request.multi_headers}
    older = [(name, v) for name, v in request.headers.items() if name.lower() not in names]
    return Wanted(
        method=request.method, url=request.url, headers=tuple(newer + older), body=request.body,
        timeout=request.timeout,
    )  # fmt: skip


def _response(answered: Answered) -> Response:
    return Response(
        status_code=answered.status,
        headers={name: ", ".join(values) for name, values in answered.headers.items()},
        body=answered.body,
        multi_headers={n: HeaderValues(values=v) for n, v in answered.headers.items()},
    )


def _lasts(status: int) -> bool:
    """Say whether an answer may be kept: a server's own failure is asked for again."""
    return 200 <= status < 300 or 400 <= status < 500


def _key(context: CallContext, request: Request) -> bytes:
    """Return what tells requests apart: all that is sent, and for whom."""
    sent = Request()
    sent.CopyFrom(request)
    sent.ClearField("cache_settings")
    sent.ClearField("timeout")
    digest = hashlib.sha256(f"{context.key}\0".encode())
    digest.update(sent.SerializeToString(deterministic=True))
    return digest.digest()


class _Cache:
    """Answers by what was asked, the least recently used first; bounded in bytes and in age."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._age_s_max = settings.cre_http_cache_s_max
        self._free = self._most = settings.cre_http_cache_bytes_max
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    def get(self, key: bytes, age_s: float) -> bytes | None:
        at, answer = self._kept.get(key, (0.0, None))
        if answer is None or self._clock() - at > age_s:
            return None
        self._kept.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: bytes) -> None:
        self._drop(key)
        now = self._clock()
        for old in [k for k, (at, _) in self._kept.items() if now - at > self._age_s_max]:
            self._drop(old)
        size = len(answer) + _ENTRY_BYTES
        if size > self._most:
            return
        while size > self._free:
            self._drop(next(iter(self._kept)))
        self._kept[key] = now, answer
        self._free -= size

    def _drop(self, key: bytes) -> None:
        at_and_answer = self._kept.pop(key, None)
        if at_and_answer:
            self._free += len(at_and_answer[1]) + _ENTRY_BYTES
