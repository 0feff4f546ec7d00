"""All triggers of a workflow or none, in the order in which what can fail comes first."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fakes import in_virtual_time, workflow
from sluice.errors import ContentInvalid, EngineRefused, SourceUnavailable, WorkflowInvalid
from sluice.event import Event
from sluice.executions.acceptance import Accepted, Find, Fire
from sluice.reasons import Reason
from sluice.snapshot import Run
from sluice.spec import HttpSpec, KubernetesSpec, SecretKeyRef
from sluice.triggers import Doors, arm
from sluice.triggers.credentials import SecretReader
from sluice.triggers.firing import Due, Firing
from sluice.workflow import Workflow, WorkflowKey

CRON = {"name": "tick", "cron": {"schedule": "* * * * * *"}}
STARTUP = {"name": "first", "startup": {"data": {"a": 1}}}
HTTP = {"name": "hook", "http": {"auth": {"bearer": {"secretKeyRef": {"name": "hook"}}}}}
OPEN = {"name": "open", "http": {"auth": {"anonymous": {}}}}
WATCH = {"name": "change", "kubernetes": {"apiVersion": "v1", "kind": "ConfigMap"}}
ID = "startup@first-1-" + "e3b0c44298fc"  # the digest of no bytes


@dataclass
class World:
    """What triggers reach, with the interfaces of the doors and of ``Fire``; tells what it saw.

    ``faults`` are raised by what they name: secret, watch, http or fire.
    """

    faults: dict[str, Exception] = field(default_factory=dict)
    cursors: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def _fail(self, what: str) -> None:
        if fault := self.faults.get(what):
            raise fault

    async def secret(self, namespace: str, ref: SecretKeyRef, *, fresh: bool = False) -> bytes:  # noqa: ARG002
        self.seen.append(f"secret {namespace}/{ref.name}/{ref.key}")
        self._fail("secret")
        return b"s3cret"

    @asynccontextmanager
    async def watch(
        self, key: WorkflowKey, uid: str, trigger: str, spec: KubernetesSpec, fire: Fire,  # noqa: ARG002
        cursor: str | None,
    ) -> AsyncIterator[None]:  # fmt: skip
        await asyncio.sleep(5)  # its first list
        self._fail("watch")
        self.seen.append(f"watch {trigger} from {cursor}")
        try:
            yield
        finally:
            self.seen.append(f"no watch {trigger}")

    @contextmanager
    def open(
        self, key: WorkflowKey, trigger: str, spec: HttpSpec, secret: SecretReader | None,  # noqa: ARG002
        fire: Fire, find: Find,  # noqa: ARG002
    ) -> Iterator[None]:  # fmt: skip
        self._fail("http")
        self.seen.append(f"open {trigger} {'with' if secret else 'without'} a secret")
        try:
            yield
        finally:
            self.seen.append(f"closed {trigger}")

    async def fire(self, event: Event, *, cursor: str | None = None) -> Accepted:
        await asyncio.sleep(0.01)  # the disk
        self._fail("fire")
        self.events.append(event)
        self.seen.append(f"fired {event.trigger}")
        if cursor is not None:
            self.cursors[event.trigger] = cursor
        return Accepted(event.id, duplicate=False, finished=None)

    async def find(self, id_: str) -> Run | None:  # noqa: ARG002
        return None

    async def cursor(self, trigger: str) -> str | None:
        return self.cursors.get(trigger)

    @property
    def doors(self) -> Doors:
        return Doors(http=self, kubernetes=self, secrets=self)

    async def arm(self, *given: dict[str, Any], doors: Doors | None = None) -> AsyncExitStack:
        doors = self.doors if doors is None else doors
        return await arm(wanted(*given), doors, self.fire, self.find, self.cursor)


def wanted(*given: dict[str, Any]) -> Workflow:
    return workflow(b"", triggers=list(given))


def timers(loop: asyncio.AbstractEventLoop) -> int:
    return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]


class TestArm:
    def test_all_kinds_are_armed_and_disarmed_together(self) -> None:
        """Closing what ``arm`` gave ends every schedule, watch and door of the workflow."""
        world = World(cursors={"change": "17"})

        async def live() -> None:
            armed = await world.arm(STARTUP, CRON, HTTP, OPEN, WATCH, {"name": "m", "manual": {}})
            assert timers(asyncio.get_running_loop()) == 1  # that of the schedule
            await armed.aclose()
            assert timers(asyncio.get_running_loop()) == 0
            assert asyncio.all_tasks() == {asyncio.current_task()}

        in_virtual_time(live())
        assert world.seen == [
            "secret team/hook/token", "watch change from 17", "open hook with a secret",
            "open open without a secret", "fired first", "closed open", "closed hook",
            "no watch change",
        ]  # fmt: skip

    @pytest.mark.parametrize(("what", "fault"), [
        ("secret", ContentInvalid(Reason.KEY_NOT_FOUND, "no such Secret")),
        ("watch", SourceUnavailable(Reason.SOURCE_FORBIDDEN, "may not watch")),
        ("http", WorkflowInvalid(Reason.INVALID_SPEC, "no key")),
    ])  # fmt: skip
    def test_one_that_cannot_be_armed_disarms_the_others(self, what: str, fault: Exception) -> None:
        """All or none: of a workflow that failed to start nothing is left open, and none fired."""
        world = World(faults={what: fault})

        async def live() -> None:
            with pytest.raises(type(fault), match=str(fault)):
                await world.arm(STARTUP, CRON, OPEN, WATCH, HTTP)
            assert timers(asyncio.get_running_loop()) == 0
            await asyncio.sleep(10)

        in_virtual_time(live())
        opened = [seen for seen in world.seen if seen.startswith(("watch", "open"))]
        closed = [seen for seen in world.seen if seen.startswith(("no watch", "closed"))]
        assert len(opened) == len(closed)
        assert world.events == []

    def test_an_arming_that_is_given_up_leaves_nothing(self) -> None:
        """A newer edit that comes while a watch is being opened finds all doors closed."""
        world = World()

        async def live() -> None:
            arming = asyncio.create_task(world.arm(OPEN, CRON, WATCH, WATCH | {"name": "other"}))
            await asyncio.sleep(7)
            arming.cancel()
            await asyncio.wait({arming})
            assert timers(asyncio.get_running_loop()) == 0

        in_virtual_time(live())
        assert world.seen == ["watch change from None", "no watch change"]

    @pytest.mark.parametrize(("trigger", "doors", "words"), [
        (OPEN, Doors(), "trigger open: an http trigger needs a port for triggers"),
        (HTTP, Doors(http=World()), "trigger hook: Secret hook needs a cluster with Secrets"),
        (WATCH, Doors(), "trigger change: a kubernetes trigger needs a cluster to watch"),
    ])  # fmt: skip
    def test_what_has_no_door_here_is_refused_in_words(
        self, trigger: dict[str, Any], doors: Doors, words: str
    ) -> None:
        """`sluice run` on a folder says what a trigger lacks there, before anything is armed."""
        world = World()
        with pytest.raises(WorkflowInvalid) as caught:
            in_virtual_time(world.arm(CRON, trigger, doors=doors))
        assert caught.value.reason == Reason.INVALID_SPEC
        assert caught.value.message.startswith(words)
        assert world.seen == []

    def test_a_moment_that_was_missed_fires_when_all_is_armed(self) -> None:
        """A cursor of the journal reaches the schedule it was stored for, and is moved on."""
        missed = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
        schedule = f"0 {missed.hour} * * *"
        daily = {"cron": {"schedule": schedule, "startingDeadlineSeconds": 86400}}

        def cursor(due: datetime) -> str:
            return f"{due:%Y%m%dT%H%M%SZ} UTC {schedule}"

        before = cursor(missed - timedelta(days=2))
        world = World(cursors={"missed": before, "fired": cursor(missed)})

        async def live() -> None:
            armed = await world.arm({"name": "missed"} | daily, {"name": "fired"} | daily, WATCH)
            await asyncio.sleep(1)
            await armed.aclose()

        in_virtual_time(live())
        assert [(event.trigger, event.time) for event in world.events] == [("missed", missed)]
        assert world.cursors["missed"] == cursor(missed)


class TestStartup:
    def test_it_fires_once_for_a_revision_however_often_it_is_armed(self) -> None:
        """A restart of the operator does not repeat what was run when the revision began."""
        world = World()

        async def live() -> None:
            for _ in range(2):
                await (await world.arm(STARTUP, OPEN)).aclose()

        in_virtual_time(live())
        [event] = world.events
        assert (event.kind, event.trigger, event.id) == ("startup", "first", ID)
        assert event.data == {"a": 1}
        assert world.cursors == {"first": ID}

    def test_another_revision_fires_again(self) -> None:
        """An edit of the spec, or another module under it, is another revision."""
        world = World(cursors={"first": ID.replace("-1-", "-2-")})

        async def live() -> None:
            await (await world.arm(STARTUP)).aclose()

        in_virtual_time(live())
        assert [event.id for event in world.events] == [ID]

    def test_one_that_is_refused_does_not_stop_the_workflow(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A full queue could not empty if the workflow waited for room in it before it served."""
        full = EngineRefused(Reason.RUN_REFUSED, "50 executions wait already")
        world = World(faults={"fire": full})

        async def live() -> None:
            await (await world.arm(STARTUP, OPEN)).aclose()

        in_virtual_time(live())
        assert "open open without a secret" in world.seen
        assert world.cursors == {}
        assert "trigger first" in caplog.text
        assert "50 executions wait already" in caplog.text


class TestFiring:
    KEY = WorkflowKey("team", "hello")

    def due(self, again: int = 0) -> Due:
        """Return an event that may be tried ``again`` so many times."""
        left = iter([True] * again)
        event = Event(kind="cron", trigger="tick", id="a")
        return Due(event, "cursor", lambda: next(left, False))

    def test_a_refused_event_is_told_and_harms_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a full queue drops stands in the log, with the reason and what it was."""
        world = World(faults={"fire": EngineRefused(Reason.RUN_REFUSED, "50 wait already")})

        async def live() -> None:
            firing = Firing(self.KEY, world.fire)
            for fault in (world.faults["fire"], world.faults["fire"], None, world.faults["fire"]):
                world.faults = {"fire": fault} if fault else {}
                firing.begin(self.due())
                await asyncio.sleep(60)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await firing.close()

        caplog.set_level(logging.DEBUG)
        in_virtual_time(live())
        told = [record for record in caplog.records if record.name == "sluice.triggers.firing"]
        # The first of each row; who fires every second floods no log.
        levels = [logging.WARNING, logging.DEBUG, logging.WARNING]
        assert [record.levelno for record in told] == levels
        assert told[0].getMessage().startswith("RunRefused: trigger tick, due at ")
        assert told[0].__dict__["execution"] == "a"

    def test_one_that_may_start_late_is_tried_until_it_is_taken(self) -> None:
        """A nightly job with a deadline survives a minute in which nothing is accepted."""
        world = World(faults={"fire": EngineRefused(Reason.RUN_REFUSED, "no")})

        async def live() -> None:
            firing = Firing(self.KEY, world.fire)
            firing.begin(self.due(again=9))
            await asyncio.sleep(25)
            world.faults.clear()
            await asyncio.sleep(10)
            await firing.close()

        in_virtual_time(live())
        assert world.seen == ["fired tick"]
        assert world.cursors == {"tick": "cursor"}

    def test_closing_waits_for_the_disk_and_for_no_other_try(self) -> None:
        """A disarmed schedule loses no event that is on its way, and holds nothing up."""
        world = World()

        async def live() -> float:
            loop = asyncio.get_running_loop()
            firing, refused = Firing(self.KEY, world.fire), World()
            refused.faults["fire"] = EngineRefused(Reason.RUN_REFUSED, "no")
            waiting = Firing(self.KEY, refused.fire)
            waiting.begin(self.due(again=9))
            await asyncio.sleep(1)
            firing.begin(self.due())
            before = loop.time()
            await firing.close()
            await waiting.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return loop.time() - before

        assert in_virtual_time(live()) < 0.1
        assert world.seen == ["fired tick"]

    def test_a_bug_behind_it_is_logged_and_ends_there(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No error of a background task reaches the loop; the schedule goes on."""
        world = World(faults={"fire": RuntimeError("a bug")})

        async def live() -> None:
            firing = Firing(self.KEY, world.fire)
            firing.begin(self.due(again=9))
            await asyncio.sleep(60)
            await firing.close()

        in_virtual_time(live())
        [record] = caplog.records
        assert record.exc_info is not None
