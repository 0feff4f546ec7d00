"""The port at which http triggers are called. What a stranger sees is the same for everything.

One answer, after one time, says that there is no such workflow, no such trigger, or that the
credentials are not the trigger's. Whoever is let in is told what was wrong.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from sluice.adapters.listening import TooLarge, listening, problem, read_body, send
from sluice.errors import EngineRefused, SluiceError
from sluice.event import Event
from sluice.executions.acceptance import Accepted, Find, Fire
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.spec import HttpSpec
from sluice.told import as_json
from sluice.triggers.credentials import Guard, SecretReader, Shown
from sluice.triggers.http import BadRequest, Bucket, event_of, wait_s
from sluice.triggers.signers import EvmAuth, event_of_signed, signed
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)
_WORKFLOW = "/v1/namespaces/{namespace}/workflows/{name}"
_TRIGGER = _WORKFLOW + "/triggers/{trigger}"
_EXECUTION = "/executions/{id}"
# A refusal comes at a multiple of this after the request: what it took to come to it does not
# show, who guesses guesses slowly, and a flood of what is refused costs little.
_REFUSED_AFTER_S = 0.2
_RETRY_S = 5  # that is asked for where nobody knows how long it takes
_UNSURE_S = 5.0
_TOLD_EVERY_S = 60.0
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(eq=False, slots=True)
class _Hook:
    """One trigger that is open; ``starts`` and ``looks`` are its rate, for each of the two."""

    key: WorkflowKey
    trigger: str
    spec: HttpSpec
    guard: Guard
    fire: Fire
    find: Find
    starts: Bucket
    looks: Bucket
    told_at: float = -math.inf


class Webhooks:
    """An ``HttpDoor``. While ``starting``, what is not there yet is told to come again.

    A sender who is told 401 at each start of the operator may well never come again.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, starting: Callable[[], bool] = lambda: False
    ) -> None:
        self._settings, self._metrics, self._starting = settings, metrics, starting
        self._hooks: dict[WorkflowKey, dict[str, list[_Hook]]] = {}
        self._strangers = Guard()
        self._waits = self._held = 0
        self._unsure_until = -math.inf
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._fires: set[asyncio.Future[Accepted]] = set()

    @contextmanager
    def open(
        self,
        key: WorkflowKey,
        trigger: str,
        spec: HttpSpec,
        secret: SecretReader | None,
        fire: Fire,
        find: Find,
    ) -> Iterator[None]:
        """Let callers in; raises WorkflowInvalid where a key of the spec is none."""
        now = asyncio.get_running_loop().time()
        starts, looks = Bucket(spec.rate, now), Bucket(spec.rate, now)
        guard = Guard(spec.auth, secret, f"trigger {trigger}: http.auth")
        hook = _Hook(key, trigger, spec, guard, fire, find, starts, looks)
        # Two revisions are open at once while one takes the other's place.
        hooks = self._hooks.setdefault(key, {})
        hooks.setdefault(trigger, []).append(hook)
        try:
            yield
        finally:
            hooks[trigger].remove(hook)
            if not hooks[trigger]:
                del hooks[trigger]
            if not hooks:
                self._hooks.pop(key, None)

    @asynccontextmanager
    async def serving(self, address: str, port: int) -> AsyncIterator[int]:
        """Answer inside the block; yield the port in use. At its end nobody is kept waiting.

        Raises:
            EngineRefused: the port cannot be had.

        """
        app = web.Application(middlewares=[self._answer])
        for path in (_WORKFLOW, _TRIGGER):
            app.router.add_post(path, self._start)
            app.router.add_get(path + _EXECUTION, self._look)
            app.router.add_route("OPTIONS", path, _options("POST, OPTIONS"))
            app.router.add_route("OPTIONS", path + _EXECUTION, _options("GET, HEAD, OPTIONS"))
        bounds = self._settings
        async with listening(
            app, address, port,
            connections_max=bounds.http_connections_max, idle_s=bounds.http_read_s_max,
            refused=self._metrics.webhook_requests.labels("503").inc,
        ) as bound:  # fmt: skip
            try:
                yield bound
            finally:
                self._closing.set_result(None)

    # A request from its first byte to its answer

    @web.middleware
    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        begun = asyncio.get_running_loop().time()
        try:
            response = await handler(request)
        except BadRequest as e:
            response = problem(e.status, e.message)
        except web.HTTPException as e:  # of the routes: no such path, no such method
            response = problem(HTTPStatus(e.status), e.reason)
            if "Allow" in e.headers:
                response.headers["Allow"] = e.headers["Allow"]
        except Exception:
            log.exception("a request failed inside the operator")
            response = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the operator's log says how")
        if response.status >= HTTPStatus.BAD_REQUEST:
            await asyncio.sleep(begun + _REFUSED_AFTER_S - asyncio.get_running_loop().time())
        response.headers["Server"] = "sluice"
        response.headers["Cache-Control"] = "no-store"
        self._metrics.webhook_requests.labels(str(response.status)).inc()
        await send(request, response, self._settings.http_read_s_max)
        return response

    async def _start(self, request: web.Request) -> web.Response:
        most = self._settings.event_bytes_max
        size = most if request.content_length is None else min(request.content_length, most)
        if self._held + size > self._settings.http_bodies_bytes_max:
            return _unavailable("too much is being sent at once")
        self._held += size
        try:
            taken = await self._take(request)
        finally:
            self._held -= size
        # Whoever waits from here on holds neither body nor event.
        return taken if isinstance(taken, web.Response) else await self._told(request, *taken)

    async def _take(self, request: web.Request) -> tuple[_Hook, Accepted, float] | web.Response:
        """Return what became of an event, and for how long its caller waits for the end."""
        body = await self._body(request)
        if isinstance(body, web.Response):
            return body
        hook = await self._let_in(request, body)
        if isinstance(hook, web.Response):
            return hook
        if len(body) > hook.spec.body_bytes:
            return problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has more than {hook.spec.body_bytes:,} bytes (spec.triggers' http.body)",
            )
        if pause := hook.starts.take(asyncio.get_running_loop().time()):
            return _too_many("more requests than the trigger's rate", pause)
        wait = wait_s(request.query.get("wait"), self._settings.http_wait_s_max)
        event = event_of(hook.trigger, request.headers, body)
        if isinstance(hook.spec.auth, EvmAuth):
            token = Shown(request.headers, body).token
            event = event_of_signed(event, body, signed(token, body, hook.spec.auth.addresses))
        try:
            return hook, await self._fire(hook, event), wait
        except EngineRefused as e:
            return _refused(e)

    async def _fire(self, hook: _Hook, event: Event) -> Accepted:
        """Hand an event in; a client that goes does not take it with it half-way."""
        fire = asyncio.ensure_future(hook.fire(event))
        self._fires.add(fire)
        fire.add_done_callback(self._fires.discard)
        fire.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(fire)

    async def _body(self, request: web.Request) -> bytes | web.Response:
        # Up to what the operator takes, whatever is asked for and by whom: only then a stranger
        # cannot tell by when the answer comes.
        most, within_s = self._settings.event_bytes_max, self._settings.http_read_s_max
        try:
            async with asyncio.timeout(within_s):
                return await read_body(request, most)
        except TooLarge:
            response = problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {most:,} bytes"
            )
        except TimeoutError:
            response = problem(
                HTTPStatus.REQUEST_TIMEOUT, f"the body was not there after {within_s:g} s"
            )
        except web.RequestPayloadError:
            raise BadRequest("the body is not encoded as its headers say") from None
        response.force_close()
        return response

    async def _let_in(self, request: web.Request, signed: bytes) -> _Hook | web.Response:
        """Return the trigger that is asked for, or the one refusal."""
        loop = asyncio.get_running_loop()
        begun, hook = loop.time(), self._hook(request)
        try:
            guard = hook.guard if hook else self._strangers
            why = await guard.problem(Shown(request.headers, signed))
            if hook and not why:
                return hook
        except SluiceError as e:
            why = f"{e.reason}: {e.message}"
            if e.reason is Reason.SOURCE_UNAVAILABLE:  # it passes, and then who is refused may come
                self._unsure_until = loop.time() + _UNSURE_S
        if hook:
            self._log(hook, why)
        steps = 1 + (loop.time() - begun) // _REFUSED_AFTER_S
        await asyncio.sleep(begun + steps * _REFUSED_AFTER_S - loop.time())
        if self._closing.done() or self._starting() or loop.time() < self._unsure_until:
            return _unavailable("not everything is there yet")
        return problem(
            HTTPStatus.UNAUTHORIZED,
            "there is no such trigger, or these are not its credentials",
            WWW_Authenticate="Bearer",
        )

    def _hook(self, request: web.Request) -> _Hook | None:
        at = request.match_info
        hooks = self._hooks.get(WorkflowKey(at["namespace"], at["name"]), {})
        if "trigger" in at:
            found = hooks.get(at["trigger"])
        else:
            found = next(iter(hooks.values())) if len(hooks) == 1 else None
        return found[-1] if found else None

    def _log(self, hook: _Hook, why: str) -> None:
        now = asyncio.get_running_loop().time()
        if now < hook.told_at + _TOLD_EVERY_S:
            return
        hook.told_at = now
        log.warning(
            "a request to trigger %s was refused: %s", hook.trigger, why,
            extra={"namespace": hook.key.namespace, "workflow": hook.key.name},
        )  # fmt: skip

    # Executions

    async def _told(
        self, request: web.Request, hook: _Hook, accepted: Accepted, wait: float
    ) -> web.Response:
        told: dict[str, object] = {"id": accepted.id}
        if accepted.duplicate:
            found = await hook.find(accepted.id)
            if found and found.trigger != hook.trigger:
                return problem(
                    HTTPStatus.CONFLICT, "the id is that of an execution of another trigger"
                )
            if isinstance(found, Run):
                return web.json_response(as_json(found))
            # What is not found was over so long ago that only its id is left.
            told |= as_json(found) if found else {"state": "Finished"}
        if accepted.finished and await self._over(accepted.finished, wait):
            return web.json_response(as_json(accepted.finished.result()))
        path = request.rel_url.raw_path.rstrip("/")
        location = f"{path}/executions/{accepted.id}"
        return web.json_response(told, status=HTTPStatus.ACCEPTED, headers={"Location": location})

    async def _over(self, finished: asyncio.Future[Run], wait: float) -> bool:
        """Wait for the end as long as wanted; not at all where many wait already."""
        if wait and self._waits < self._settings.http_waits_max:
            self._waits += 1
            ends: set[asyncio.Future[Any]] = {finished, self._closing}
            try:
                await asyncio.wait(ends, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._waits -= 1
        return finished.done() and not finished.cancelled()

    async def _look(self, request: web.Request) -> web.Response:
        # There is no body to sign, and a signature of nothing would be good for everything.
        hook = await self._let_in(request, request.raw_path.partition("?")[0].encode())
        if isinstance(hook, web.Response):
            return hook
        if pause := hook.looks.take(asyncio.get_running_loop().time()):
            return _too_many("more requests than the trigger's rate", pause)
        found = await hook.find(request.match_info["id"])
        # What other triggers have started is not for this one's callers.
        if found is None or found.trigger != hook.trigger:
            return problem(HTTPStatus.NOT_FOUND, "the trigger has no such execution, or no more")
        return web.json_response(as_json(found))


def _options(allow: str) -> _Handler:
    async def options(_: web.Request) -> web.Response:
        return web.Response(status=HTTPStatus.NO_CONTENT, headers={"Allow": allow})

    return options


def _refused(error: EngineRefused) -> web.Response:
    if error.reason is Reason.QUEUE_FULL:
        return _too_many(error.message, _RETRY_S)
    return _unavailable(error.message)


def _too_many(message: str, pause_s: float) -> web.Response:
    after = str(math.ceil(pause_s))
    return problem(HTTPStatus.TOO_MANY_REQUESTS, message, Retry_After=after)


def _unavailable(message: str) -> web.Response:
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, message, Retry_After=str(_RETRY_S))
