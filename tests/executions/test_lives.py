"""Engines come, are replaced and go; what waits and what runs has its end all the same."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from executions.held import A, Ground
from fakes import until
from sluice.errors import EngineRefused
from sluice.outcome import OutcomeKind

Make = Callable[..., Ground]


class TestLives:
    async def test_a_successor_takes_what_waits_and_the_old_one_ends_what_it_runs(
        self, make: Make
    ) -> None:
        """A new revision without a gap: nothing is lost, nothing runs twice."""
        ground = make(workers=1)
        old = ground.serve(A, hold=True)
        taken = await ground.submit(A, 3)
        await until(lambda: old.running)
        new = ground.serve(A)
        assert ground.executions.idle_s(A) == 0
        old.let_go()
        assert all(run.outcome.ok for run in await asyncio.gather(*taken))
        assert (len(old.begun), len(new.begun)) == (1, 2)
        assert ground.executions.idle_s(A) > 0

    async def test_an_engine_lives_until_its_last_execution_is_over_and_no_longer(
        self, make: Make
    ) -> None:
        """A deleted workflow's memory is held by what still runs, and by nothing after it."""
        ground = make(workers=1)
        engine = ground.serve(A, hold=True)
        [running] = await ground.submit(A)
        await until(lambda: ground.engines[0].running)
        ground.executions.detach(A)
        ground.engines.clear()
        held = weakref.ref(engine)
        del engine
        gc.collect()
        still = held()
        assert still is not None
        still.let_go()
        del still
        assert (await running).outcome.ok
        await until(lambda: (gc.collect(), held())[1] is None)

    async def test_what_waits_is_cancelled_when_its_workflow_goes(self, make: Make) -> None:
        """A deletion acts at once on what has not begun, and lets end what has."""
        ground = make(workers=1)
        engine = ground.serve(A, hold=True)
        running, *waiting = await ground.submit(A, 3)
        await until(lambda: engine.running)
        ground.executions.detach(A)
        kinds = [(await f).outcome.kind for f in waiting]
        assert kinds == [OutcomeKind.CANCELLED] * 2
        assert not running.done()
        engine.let_go()
        assert (await running).outcome.ok
        assert len(engine.begun) == 1
        assert ground.sample("sluice_executions_total", outcome="Cancelled") == 2
        assert ground.sample("sluice_execution_seconds_count") == 1  # those that ran

    async def test_what_runs_on_after_a_deletion_is_cut_off(self, make: Make) -> None:
        """A deleted workflow has drain_s to end, and then it is made to."""
        ground = make(drain_s=0.05)
        engine = ground.serve(A, hold=True)
        [running] = await ground.submit(A)
        await until(lambda: engine.running)
        ground.executions.detach(A)
        run = await running
        assert run.outcome.kind is OutcomeKind.CANCELLED
        assert "the workflow was deleted" in run.outcome.message

    async def test_an_event_on_its_way_to_the_disk_goes_with_its_workflow(self, make: Make) -> None:
        """A deletion while an event is being written leaves nothing behind of it."""
        ground = make()
        ground.serve(A)
        handing_in = asyncio.ensure_future(ground.accept(A))
        await asyncio.sleep(0)
        ground.executions.detach(A)
        accepted = await handing_in
        assert accepted.finished is not None
        assert (await accepted.finished).outcome.kind is OutcomeKind.CANCELLED
        assert ground.sample("sluice_executions_waiting") == 0

    async def test_a_workflow_that_is_made_anew_starts_afresh(self, make: Make) -> None:
        """Deleted and made anew while a run goes on: new runs do not wait for the old life."""
        ground = make(workers=2, running_max=1)
        old = ground.serve(A, hold=True)
        [running] = await ground.submit(A)
        await until(lambda: old.running)
        ground.executions.detach(A)
        ground.serve(A)
        run = await ground.run(A)
        assert run.outcome.ok
        old.let_go()
        assert (await running).outcome.ok
        assert ground.told == [(A, run)]  # the old life's end is not the new one's

    async def test_suspended_and_resumed(self, make: Make) -> None:
        """What runs ends, what waits is run after the resumption, nothing new is taken."""
        ground = make(workers=1)
        engine = ground.serve(A, hold=True)
        running, waiting = await ground.submit(A, 2)
        await until(lambda: engine.running)
        ground.executions.suspend(A)
        with pytest.raises(EngineRefused, match="nothing serves"):
            await ground.accept(A)
        engine.let_go()
        assert (await running).outcome.ok
        assert not waiting.done()
        ground.serve(A)
        assert (await waiting).outcome.ok

    async def test_detaching_what_is_not_there_is_nothing(self, make: Make) -> None:
        """Deleting twice is deleting once."""
        make().executions.detach(A)


class TestConcurrency:
    async def test_forbid_drops_what_falls_due_meanwhile(self, make: Make) -> None:
        """With Forbid one run of a schedule is the most; what is dropped is counted."""
        ground = make()
        engine = ground.serve(A, hold=True, triggers=[_cron("Forbid"), _MANUAL])
        first = await ground.accept(A, kind="cron", trigger="c")
        dropped = await ground.accept(A, kind="cron", trigger="c")
        assert (dropped.duplicate, dropped.finished) == (False, None)
        assert ground.sample("sluice_events_total", trigger="cron", result="skipped") == 1
        other = await ground.accept(A)  # another trigger is not forbidden anything
        engine.let_go()
        assert first.finished is not None
        assert other.finished is not None
        await asyncio.gather(first.finished, other.finished)
        again = await ground.run(A, kind="cron", trigger="c")
        assert again.outcome.ok
        assert len(engine.begun) == 3

    async def test_replace_ends_the_one_before(self, make: Make) -> None:
        """With Replace the newest runs; those before it end as cancelled, run or not."""
        ground = make(workers=1)
        ground.serve(A, hold=True, triggers=[_cron("Replace"), _MANUAL])
        ends = []
        for n in range(3):
            accepted = await ground.accept(A, kind="cron", trigger="c", id=f"{n}")
            assert accepted.finished is not None
            ends.append(accepted.finished)
            await until(lambda: ground.engines[0].running)
        first, second = [await end for end in ends[:2]]
        assert (first.outcome.kind, second.outcome.kind) == (OutcomeKind.CANCELLED,) * 2
        assert first.outcome.message == "replaced by 1"
        ground.engines[0].let_go()
        assert (await ends[2]).outcome.ok


_MANUAL = {"name": "now", "manual": {}}


def _cron(policy: str) -> dict[str, Any]:
    schedule = {"schedule": "* * * * *", "concurrencyPolicy": policy}
    return {"name": "c", "cron": schedule}


class TestDrain:
    async def test_what_runs_may_end_and_nothing_else_begins(self, make: Make) -> None:
        """SIGTERM loses no execution that has begun, and begins no other."""
        ground = make(workers=1, drain_s=20)
        engine = ground.serve(A, hold=True)
        running, waiting = await ground.submit(A, 2)
        await until(lambda: engine.running)
        drain = asyncio.create_task(ground.executions.drain())
        await asyncio.sleep(0)
        with pytest.raises(EngineRefused, match="nothing serves"):
            await ground.accept(A)
        assert not drain.done()
        engine.let_go()
        assert await drain is True
        await ground.executions.close()
        assert (await running).outcome.ok
        left = (await waiting).outcome
        assert (left.kind, len(engine.begun)) == (OutcomeKind.CANCELLED, 1)
        assert left.message == "the operator is stopping"  # and its journal is gone with it
        assert ground.kinds() == [OutcomeKind.COMPLETED]  # what waits is not over

    async def test_what_runs_longer_than_the_grace_is_cut_off(self, make: Make) -> None:
        """The grace is an end: after it guests are ended, the answer is no, nobody waits more."""
        ground = make(workers=1, drain_s=0.01)
        engine = ground.serve(A, hold=True)
        [running] = await ground.submit(A)
        await until(lambda: engine.running)
        assert await ground.executions.drain() is False
        assert (await running).outcome.kind is OutcomeKind.CANCELLED
        assert engine.running == 0
        assert ground.told == []

    async def test_nothing_to_drain_is_drained(self, make: Make) -> None:
        """A resting operator stops at once."""
        ground = make()
        ground.serve(A)
        assert await ground.executions.drain() is True

    async def test_the_threads_are_there_before_the_first_guest(self, make: Make) -> None:
        """Guests run on deep stacks: each thread is made with one, none later by chance."""
        before = {t for t in threading.enumerate() if t.name.startswith("sluice-guest")}
        make(workers=3)
        after = {t for t in threading.enumerate() if t.name.startswith("sluice-guest")}
        assert len(after - before) == 3
        assert threading.stack_size() == 0
