"""The watches of kubernetes triggers: from a list, or from where a cursor says, for ever.

What is known at every moment: the version up to which changes were told, and for each object its
name and version, never its body. Both are in the cursor, which is stored with each event in one
transaction. So after a restart the watch goes on where it was; and where the API server has
forgotten that version (410 Gone, after minutes) a list shows what differs, deletions too.

What is at least once and what is not: every change that a watch tells is accepted before the next
is read, and one told twice has the same id. What changes repeatedly in a gap is told once, and
what is created and deleted within it is not told. Of a trigger that matches more objects than
``watched_objects_max`` deletions within a gap are not told either.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from sluice.adapters.kubernetes.api import Api, ApiError, pause_s
from sluice.adapters.kubernetes.objects import Objects
from sluice.adapters.kubernetes.resources import Resources
from sluice.errors import EngineRefused, SluiceError
from sluice.executions.acceptance import Fire
from sluice.metrics import Metrics, move
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Verdict
from sluice.spec import Change, KubernetesSpec
from sluice.triggers.kubernetes import (
    Broken,
    Expired,
    Mark,
    Seen,
    Standing,
    Told,
    differences,
    namespace_to_watch,
    read,
    scope_of,
    tell,
    tell_by_name,
)
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)
_PAUSE_S_MAX = 10.0
_REFUSED_PAUSE_S_MAX = 5.0
_AGAIN_S_MAX = 0.5  # after a watch that ended as it should: a proxy may end each at once


class Keep(Protocol):
    """Stores a cursor where there is no event to store it with."""

    async def __call__(self, key: WorkflowKey, uid: str, trigger: str, cursor: str, /) -> None: ...


@dataclass(frozen=True, slots=True)
class _Subject:
    """Which trigger of which workflow this is about."""

    key: WorkflowKey
    uid: str
    trigger: str
    spec: KubernetesSpec

    @property
    def extra(self) -> dict[str, str]:
        key = self.key
        return {"namespace": key.namespace, "workflow": key.name, "trigger": self.trigger}


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all watches of a process have in common."""

    settings: Settings
    metrics: Metrics
    keep: Keep
    told: Callable[[WorkflowKey, Verdict], None]


class Watches:
    """A ``triggers.WatchDoor``. ``told`` hears of a right that was lost after a watch was armed."""

    def __init__(
        self,
        api: Api,
        settings: Settings,
        metrics: Metrics,
        keep: Keep,
        told: Callable[[WorkflowKey, Verdict], None],
    ) -> None:
        self._api, self._settings = api, settings
        self._shared = _Shared(settings, metrics, keep, told)
        self._resources = Resources(api)
        self._large = asyncio.Lock()
        # By trigger: while a revision takes over, its triggers are watched twice and count once.
        self._open: Counter[tuple[WorkflowKey, str]] = Counter()

    @asynccontextmanager
    async def watch(
        self,
        key: WorkflowKey,
        uid: str,
        trigger: str,
        spec: KubernetesSpec,
        fire: Fire,
        cursor: str | None,
    ) -> AsyncIterator[None]:
        """Fire for each change inside the block; entered once the API server lets us watch.

        Raises:
            WorkflowInvalid: it cannot be watched, or the admin does not allow it.
            SourceUnavailable: TriggerForbidden, or the API server does not answer.
            EngineRefused: ``watches_max`` are open, or ``namespace_watches_max``.

        """
        self._check_room(key, trigger)
        self._open[key, trigger] += 1
        try:
            resource = await self._resources.find(trigger, spec)
            namespace = namespace_to_watch(
                key, trigger, spec, namespaced=resource.namespaced, settings=self._settings
            )
            objects = Objects(self._api, resource, namespace, spec, self._large)
            standing = Standing.load(cursor, scope := scope_of(spec, namespace))
            subject = _Subject(key, uid, trigger, spec)
            one = _Watching(self._shared, subject, objects, fire, standing, scope)
            async with _running(one.run(), one.ready, f"watch {key} {trigger}"):
                yield
        finally:
            self._open[key, trigger] -= 1
            if not self._open[key, trigger]:
                del self._open[key, trigger]

    def _check_room(self, key: WorkflowKey, trigger: str) -> None:
        if (key, trigger) in self._open:
            return
        settings, count = self._settings, len(self._open)
        beside = sum(of.namespace == key.namespace for of, _ in self._open)
        problem = ""
        if count >= settings.watches_max:
            problem = f"{count} triggers watch already (watches_max)"
        elif beside >= settings.namespace_watches_max:
            problem = f"{beside} triggers of this namespace watch already (namespace_watches_max)"
        if problem:
            raise EngineRefused(
                Reason.ENGINE_REFUSED,
                f"trigger {trigger}: {problem}; it is armed when others are gone",
            )


@asynccontextmanager
async def _running(
    work: Coroutine[Any, Any, None], ready: "asyncio.Future[None]", name: str
) -> AsyncIterator[None]:
    """Run ``work`` beside the block, which begins once it is ``ready``."""
    task = asyncio.create_task(work, name=name)
    try:
        await ready
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class _Watching:
    """One trigger's watch, from its first list to its end."""

    def __init__(
        self,
        shared: _Shared,
        subject: _Subject,
        objects: Objects,
        fire: Fire,
        standing: Standing | None,
        scope: str,
    ) -> None:
        self._settings, self._shared = shared.settings, shared
        self._subject, self._objects, self._fire = subject, objects, fire
        self._standing, self._scope = standing, scope
        self._state, self._failures = "", 0
        self._trouble: Reason | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Watch for ever; a failure before it is ``ready`` is that of whoever waits for it."""
        self._turn("waiting")
        try:
            while True:
                error = await self._once()
                if error and not self.ready.done():
                    self.ready.set_exception(error)
                    return
                self._turn("waiting")
                await asyncio.sleep(self._pause_s(failed=error is not None))
        finally:
            self._turn("")

    async def _once(self) -> SluiceError | None:
        """Watch until it ends; return why, unless that is as it should be."""
        try:
            await self._go_on()
        except (ApiError, Broken) as e:
            return self._failed(self._objects.meaning(self._subject.trigger, e))
        except Exception:
            log.exception("a watch failed inside the operator", extra=self._subject.extra)
            return self._failed(EngineRefused(Reason.ENGINE_REFUSED, "the operator's log says how"))
        return None

    async def _go_on(self) -> None:
        """List if need be, watch until the API server ends it, compare if it has forgotten."""
        standing = self._standing
        if standing is None:
            # What there is when a trigger is armed for the first time is no event.
            version, known = await self._objects.known(self._settings.watched_objects_max)
            standing = Standing(self._scope, version, datetime.now(UTC), known)
        elif not self.ready.done() and standing.ahead_of(await self._objects.version()):
            # Another past, as after a restore of etcd: a watch would wait for the old one's end.
            await self._catch_up(standing)
        try:
            await self._watch(standing)
        except Expired:
            await self._catch_up(standing)

    async def _watch(self, standing: Standing) -> None:
        use = partial(read, bytes_max=self._settings.event_bytes_max)
        silence_s_max = self._settings.watch_silence_s_max
        async with self._objects.watch(standing.version, use, silence_s_max) as lines:
            if self._standing is None:
                # Now, and not at the first event: what changes while we are gone is to be found.
                await self._keep(standing)
                self._standing = standing
            self._opened()
            async for told in lines:
                await self._take(standing, told)

    async def _take(self, standing: Standing, told: Told | Mark) -> None:
        if isinstance(told, Mark):
            standing.advance(told.version)
            await self._keep(standing)
            return
        repeated = standing.told(told)
        standing.note(told, self._settings.watched_objects_max)
        standing.advance(told.seen.version)
        if not repeated:
            await self._tell(standing, told)

    async def _tell(self, standing: Standing, told: Told) -> None:
        """Fire, and wait for as long as it is refused: nothing is read meanwhile, nothing lost."""
        if told.change not in self._subject.spec.on:
            return
        event, cursor, refusals = told.event(self._subject.trigger), standing.dump(), 0
        while True:
            try:
                await self._fire(event, cursor=cursor)
            except Exception as e:  # noqa: BLE001 - whatever it is, the event is not to be lost
                level = logging.DEBUG if refusals else logging.WARNING
                why = e.message if isinstance(e, SluiceError) else repr(e)
                log.log(level, "the event waits: %s", why, extra=self._subject.extra)
            else:
                return
            await asyncio.sleep(pause_s(refusals, _REFUSED_PAUSE_S_MAX))
            refusals += 1

    # The gap

    async def _catch_up(self, standing: Standing) -> None:
        """Find by a list what changed since ``standing``, and tell it."""
        self._shared.metrics.watch_gaps.inc()
        version, listed = await self._objects.known(self._settings.watched_objects_max)
        log.info("the past is gone, %s are compared", self._objects, extra=self._subject.extra)
        self._opened()
        if standing.known is not None and listed is not None:
            for change, uid, seen in list(differences(standing.known, listed)):
                await self._tell_difference(standing, change, uid, seen)
        else:
            version = await self._tell_newer(standing)
        standing.known = listed
        standing.advance(version)
        await self._keep(standing)

    async def _tell_newer(self, standing: Standing) -> str:
        """Tell what is newer than what was told, where it is not known what was there."""
        version = standing.version
        async for version, page in self._objects.pages():  # noqa: B007 - the last one is returned
            for item in page:
                if change := standing.newer(item.seen, item.created):
                    await self._tell_difference(standing, change, item.uid, item.seen)
        return version

    async def _tell_difference(
        self, standing: Standing, change: Change, uid: str, seen: Seen
    ) -> None:
        told = None
        if change != "Deleted":
            use = partial(tell, change, bytes_max=self._settings.event_bytes_max)
            told = await self._objects.one(seen, use)
        if told is None or told.uid != uid:
            told = tell_by_name(change, self._subject.spec, uid, seen)
        standing.note(told, self._settings.watched_objects_max)
        await self._tell(standing, told)

    # What is kept, and what is said of it

    async def _keep(self, standing: Standing) -> None:
        subject = self._subject
        await self._shared.keep(subject.key, subject.uid, subject.trigger, standing.dump())

    def _opened(self) -> None:
        if self._failures:
            log.info("the trigger watches again", extra=self._subject.extra)
        self._failures, self._trouble = 0, None
        self._turn("open")
        if not self.ready.done():
            self.ready.set_result(None)

    def _failed(self, error: SluiceError) -> SluiceError:
        """Tell a failure, if it is the first of its kind in a row and nobody else will."""
        self._failures += 1
        before, self._trouble = self._trouble, error.reason
        if self.ready.done() and error.reason is not before:
            log.warning("tried again: %s", error.message, extra=self._subject.extra)
            if error.reason is Reason.TRIGGER_FORBIDDEN:
                self._shared.told(self._subject.key, Verdict(False, error.reason, error.message))
        return error

    def _pause_s(self, *, failed: bool) -> float:
        longest_s = pause_s(self._failures - 1, _PAUSE_S_MAX) if failed else _AGAIN_S_MAX
        return longest_s * random.uniform(0.5, 1)  # noqa: S311 - only spread

    def _turn(self, state: str) -> None:
        move(self._shared.metrics.watches, self._state, state)
        self._state = state
