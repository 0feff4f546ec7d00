"""Events become executions, within bounds and by turns, and each has one end."""

import asyncio
from collections.abc import Callable
from datetime import date

import pytest

from executions.held import A, B, C, Ground, event, of
from fakes import until
from sluice.errors import EngineRefused
from sluice.executions.acceptance import Pending
from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from sluice.snapshot import Run
from sluice.workflow import WorkflowKey

Make = Callable[..., Ground]


class TestResults:
    async def test_a_guest_gets_its_event_and_its_result_comes_back(self, make: Make) -> None:
        """What was handed in is what the guest read, and what it wrote is the result."""
        ground = make()
        ground.serve(A)
        sent = event({"price": 97})
        accepted = await ground.executions.accept(A, sent)
        assert (accepted.id, accepted.duplicate) == (sent.id, False)
        assert accepted.finished is not None
        run = await accepted.finished
        assert run.outcome.kind is OutcomeKind.COMPLETED
        assert run.outcome.result == sent.encode("/team/a")
        assert (run.id, run.trigger, run.attempts) == (sent.id, "now", 1)
        assert ground.told == [(A, run)]
        assert ground.sample("sluice_executions_total", outcome="Completed") == 1
        assert ground.sample("sluice_execution_seconds_count") == 1
        assert ground.sample("sluice_events_total", trigger="manual", result="accepted") == 1

    async def test_nobody_serves_what_is_not_attached(self, make: Make) -> None:
        """A trigger of a workflow that is not alive is refused, and not queued for ever."""
        ground = make()
        ground.executions.know(A, "uid-a")
        with pytest.raises(EngineRefused, match="nothing serves") as caught:
            await ground.accept(A)
        assert caught.value.reason is Reason.RUN_REFUSED
        assert ground.sample("sluice_events_total", trigger="manual", result="refused") == 1

    async def test_what_fires_while_it_is_armed_waits_for_the_engine(self, make: Make) -> None:
        """A startup trigger fires before the revision serves, and its event is not lost."""
        ground = make()
        ground.executions.open(of(A))
        [end] = await ground.submit(A)
        assert not end.done()
        ground.serve(A)
        assert (await end).outcome.ok

    @pytest.mark.parametrize("fault", [
        RuntimeError("a bug"), EngineRefused(Reason.ENGINE_REFUSED, "no memory to map"),
    ])  # fmt: skip
    async def test_a_failure_of_the_operator_is_an_outcome_and_loses_no_worker(
        self, make: Make, fault: Exception
    ) -> None:
        """Whatever is raised where a guest runs, the next execution runs on the same thread."""
        ground = make(workers=1)
        engine = ground.serve(A)
        engine.fault = fault
        run = await ground.run(A)
        assert run.outcome.kind is OutcomeKind.REFUSED
        assert run.outcome.message in {"no memory to map", "the operator failed; its log says how"}
        engine.fault = None
        assert (await ground.run(A)).outcome.ok

    @pytest.mark.parametrize("data", [date(2026, 1, 1), float("nan")])
    async def test_data_that_is_no_json_is_refused(self, make: Make, data: object) -> None:
        """A date in a manifest on disk is said to be one, and the workflow goes on."""
        ground = make()
        ground.serve(A)
        with pytest.raises(EngineRefused, match="the data of the event is not JSON"):
            await ground.accept(A, data)
        assert (await ground.run(A)).outcome.ok

    async def test_who_fails_to_take_note_stops_nobody(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A broken listener is a line in the log: executions end, and those behind them run."""
        ground = make(workers=1)
        ground.serve(A)

        def done(key: WorkflowKey, run: Run) -> None:
            raise RuntimeError("no")

        ground.executions._scheduler._done = done
        runs = await asyncio.gather(*await ground.submit(A, 3))
        assert all(run.outcome.ok for run in runs)
        assert "not taken note of" in caplog.text
        assert (await ground.run(A)).outcome.ok

    async def test_who_stops_waiting_does_not_stop_the_execution(self, make: Make) -> None:
        """A caller that gave up changes nothing for the workflow: its run is told all the same."""
        ground = make()
        engine = ground.serve(A, hold=True)
        [end] = await ground.submit(A)
        end.cancel()
        handing_in = asyncio.ensure_future(ground.accept(A))
        await asyncio.sleep(0)
        handing_in.cancel()  # before it was told that the event is on disk
        engine.let_go()
        await until(lambda: len(ground.told) == 2)
        assert ground.kinds() == [OutcomeKind.COMPLETED] * 2


class TestTwice:
    async def test_an_id_runs_once(self, make: Make) -> None:
        """Handed in again while it waits, while it runs and when it is over, it runs once."""
        ground = make()
        engine = ground.serve(A, hold=True)
        first, again = await asyncio.gather(*(ground.accept(A, id="7") for _ in range(2)))
        assert (first.duplicate, again.duplicate) == (False, True)
        await until(lambda: engine.running)
        running = await ground.accept(A, id="7")
        engine.let_go()
        assert first.finished is not None
        run = await first.finished
        for one in (again, running):
            assert one.finished is not None
            assert await one.finished is run
        over = await ground.accept(A, id="7")
        assert (over.id, over.duplicate, over.finished) == ("7", True, None)
        assert len(engine.begun) == 1
        assert ground.sample("sluice_events_total", trigger="manual", result="duplicate") == 3

    async def test_another_workflows_id_is_another(self, make: Make) -> None:
        """Two workflows may use the same ids."""
        ground = make()
        ground.serve(A)
        ground.serve(B)
        assert (await ground.run(A, id="7")).outcome.ok
        assert (await ground.run(B, id="7")).outcome.ok

    async def test_an_id_is_remembered_longer_than_its_end(self, make: Make) -> None:
        """A sender that repeats itself after a flood is still known, up to the bound."""
        ground = make(history_max=1, ids_remembered_max=300)
        ground.serve(A)
        await ground.run(A, id="first")
        for n in range(20):
            await ground.run(A, id=f"{n}")
        assert await ground.executions.find(A, "first") is None
        assert (await ground.accept(A, id="first")).duplicate
        for n in range(20, 410):
            await ground.run(A, id=f"{n}")
        assert not (await ground.accept(A, id="first")).duplicate


class TestBounds:
    async def test_queue_max_wait_and_one_more_is_refused(self, make: Make) -> None:
        """A trigger faster than its workflow is told so; what waits is never more than said."""
        ground = make(workers=1, queue_max=3)
        engine = ground.serve(A, hold=True)
        taken = await ground.submit(A, 1)
        await until(lambda: engine.running)
        taken += await ground.submit(A, 3)
        with pytest.raises(EngineRefused, match="3 executions wait already") as caught:
            await ground.accept(A)
        assert caught.value.reason is Reason.QUEUE_FULL
        assert ground.sample("sluice_executions_waiting") == 3
        assert ground.sample("sluice_executions_running") == 1
        engine.let_go()
        assert all(run.outcome.ok for run in await asyncio.gather(*taken))
        assert (await ground.run(A)).outcome.ok
        assert ground.sample("sluice_executions_waiting") == 0

    async def test_what_is_handed_in_at_once_counts(self, make: Make) -> None:
        """The bound holds against a hundred callers at the same moment too."""
        ground = make(workers=1, queue_max=3)
        ground.serve(A, hold=True)
        answers = await asyncio.gather(
            *(ground.accept(A) for _ in range(100)), return_exceptions=True
        )
        assert sum(isinstance(answer, EngineRefused) for answer in answers) == 97

    @pytest.mark.parametrize(("bounds", "words"), [
        ({"accepted_max": 3}, "accepted_max"), ({"journal_bytes_max": 900}, "journal_bytes_max"),
    ])  # fmt: skip
    async def test_all_queues_together_are_bounded(
        self, make: Make, bounds: dict[str, int], words: str
    ) -> None:
        """Many workflows within their own bounds do not fill memory or disk together."""
        ground = make(workers=1, **bounds)
        engines = [ground.serve(key, hold=True) for key in (A, B)]
        ends = await ground.submit(A, 2) + await ground.submit(B, 1)
        with pytest.raises(EngineRefused, match=words) as caught:
            await ground.accept(B, {"more": "x" * 200})
        assert caught.value.reason is Reason.QUEUE_FULL
        for engine in engines:
            engine.let_go()
        await asyncio.gather(*ends)
        assert (await ground.run(B, {"more": "x" * 200})).outcome.ok

    async def test_one_workflow_has_at_most_running_max_of_the_threads(self, make: Make) -> None:
        """A slow workflow leaves threads to its neighbours."""
        ground = make(workers=4, running_max=2)
        slow, quick = ground.serve(A, hold=True), ground.serve(B)
        flood = await ground.submit(A, 6)
        await until(lambda: slow.running == 2)
        assert (await ground.run(B)).outcome.ok
        assert len(slow.begun) == 2
        slow.let_go()
        await asyncio.gather(*flood)
        assert slow.running_max == 2
        assert len(quick.begun) == 1

    async def test_one_namespace_has_at_most_its_share_of_the_threads(self, make: Make) -> None:
        """A namespace of many workflows leaves threads to the others, whatever its specs say."""
        ground = make(workers=4, namespace_running_max=3)
        slow = [ground.serve(key, hold=True) for key in (A, B)]
        flood = await ground.submit(A, 3) + await ground.submit(B, 3)
        await until(lambda: sum(engine.running for engine in slow) == 3)
        ground.serve(C)
        assert (await ground.run(C)).outcome.ok
        assert sum(len(engine.begun) for engine in slow) == 3
        for engine in slow:
            engine.let_go()
        assert all(run.outcome.ok for run in await asyncio.gather(*flood))

    async def test_guests_that_sleep_hold_up_neither_workflow_nor_namespace(
        self, make: Make
    ) -> None:
        """A thread is kept for the other workflows of a namespace, and one for other namespaces."""
        ground = make(workers=2, workers_spare=1)
        slow, other = ground.serve(A, hold=True), ground.serve(B, hold=True)
        flood = await ground.submit(A, 5)
        await until(lambda: slow.running == 2)
        flood += await ground.submit(B, 5)
        await until(lambda: other.running == 1)
        ground.serve(C)
        assert (await ground.run(C)).outcome.ok
        assert (len(slow.begun), len(other.begun)) == (2, 1)
        slow.let_go()
        other.let_go()
        assert all(run.outcome.ok for run in await asyncio.gather(*flood))

    async def test_all_threads_are_used(self, make: Make) -> None:
        """As many executions run at the same time as there are workers, and no more."""
        ground = make(workers=3, running_max=5)
        engine = ground.serve(A, hold=True)
        taken = await ground.submit(A, 6)
        await until(lambda: engine.running == 3)
        engine.let_go()
        await asyncio.gather(*taken)
        assert engine.running_max == 3

    async def test_what_waits_for_too_long_is_refused(self, make: Make) -> None:
        """An event that nobody got to in queue_ttl_s has an end that says so."""
        ground = make(workers=1, queue_ttl_s=0.05)
        engine = ground.serve(A, hold=True)
        running, waiting = await ground.submit(A, 2)
        run = await waiting
        assert run.outcome.kind is OutcomeKind.REFUSED
        assert "waited longer than 0.05 s (queue_ttl_s)" in run.outcome.message
        assert not running.done()
        engine.let_go()
        assert (await running).outcome.ok

    async def test_what_is_suspended_does_not_grow_old(self, make: Make) -> None:
        """Events of a suspended workflow wait for its resumption, however long it takes."""
        ground = make(workers=1, queue_ttl_s=0.05)
        busy = ground.serve(B, hold=True)
        await ground.submit(B)
        ground.serve(A)
        [waiting] = await ground.submit(A)
        ground.executions.suspend(A)
        [old] = await ground.submit(B)
        assert (await old).outcome.kind is OutcomeKind.REFUSED  # so long it has been
        assert not waiting.done()
        busy.let_go()
        ground.serve(A)
        assert (await waiting).outcome.ok


class TestTurns:
    async def test_a_flood_delays_a_neighbour_by_one_execution(self, make: Make) -> None:
        """Workflows take turns: whoever comes after a flood runs next, not last."""
        ground = make(workers=1)
        engine = ground.serve(A, hold=True)
        ground.serve(B)
        flood = await ground.submit(A, 5)
        await until(lambda: engine.running)
        late = await ground.submit(B, 2)
        engine.let_go()
        await asyncio.gather(*flood, *late)
        assert "".join(key.name for key, _ in ground.told) == "ababaaa"

    async def test_namespaces_take_turns_before_workflows_do(self, make: Make) -> None:
        """A tenant of many workflows has no more turns than a tenant of one."""
        ground = make(workers=1)
        engine = ground.serve(A, hold=True)
        ground.serve(B)
        ground.serve(C)
        ends = await ground.submit(A, 3)
        await until(lambda: engine.running)
        ends += await ground.submit(B, 2) + await ground.submit(C, 3)
        engine.let_go()
        await asyncio.gather(*ends)
        names = "".join(key.name for key, _ in ground.told)
        assert names[0] == "a"
        assert names[1:].replace("b", "a") == "cacacaa"


class TestFind:
    async def test_an_execution_is_found_wherever_it_is(self, make: Make) -> None:
        """Waiting, running and over, it can be asked for by its id; others cannot."""
        ground = make(workers=1)
        engine = ground.serve(A, hold=True)
        ground.serve(B)
        for id_ in ("one", "two"):
            await ground.accept(A, id=id_)
        await until(lambda: engine.running)
        found = [await ground.executions.find(A, id_) for id_ in ("one", "two")]
        assert [one.running for one in found if isinstance(one, Pending)] == [True, False]
        assert await ground.executions.find(B, "one") is None
        engine.let_go()
        await until(lambda: len(ground.told) == 2)
        over = await ground.executions.find(A, "one")
        assert isinstance(over, Run)
        assert over == ground.told[0][1]
        recent = await ground.executions.recent(A, 10)
        assert recent is not None
        assert [one.id for one in recent] == ["two", "one"]
        assert await ground.executions.recent(C, 10) is None


async def test_an_unmapped_module_is_asked_for_once(make: Make) -> None:
    """What waits for a module waits until it is back, or ends with why it cannot be."""
    ground = make()
    woken: list[WorkflowKey] = []
    ground.executions._scheduler._wake = woken.append
    engine = ground.serve(A)
    engine.unmap()
    ends = await ground.submit(A, 2)
    assert woken == [A]
    engine.map(ground.module)
    ground.executions.awake(A)
    assert all(run.outcome.ok for run in await asyncio.gather(*ends))
    engine.unmap()
    [end] = await ground.submit(A)
    ground.executions.refuse(A, "its module is gone")
    assert (await end).outcome.message == "its module is gone"
