import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import pytest
import wasmtime

from fakes import MemorySource, until, workflow
from sluice.errors import EngineRefused
from sluice.event import Event
from sluice.executions import Executions
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.supply import Supply
from sluice.wasm.engine import Engine, Execution
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import WorkflowKey

A, B = WorkflowKey("team", "a"), WorkflowKey("team", "b")
# Writes its event back to stdout: a read of 4 KiB, and a write of as many bytes as there were.
ECHO = bytes(
    wasmtime.wat2wasm("""(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 4096))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))""")
)


class HeldEngine(Engine):
    """A real engine whose executions can be held before the guest runs, and made to fail."""

    def __init__(self, runtime: Runtime, module: Module, name: str) -> None:
        super().__init__(runtime, module, workflow(ECHO, name=name), "")
        self.name = name
        self.fault: Exception | None = None
        self.begun: list[str] = []
        self.running = self.running_max = 0
        self._gates: dict[str, threading.Event] = {}
        self._held = False
        self._lock = threading.Lock()

    def hold(self) -> "HeldEngine":
        self._held = True
        return self

    def let_go(self) -> None:
        """End what is held, and hold nothing any more."""
        self._held = False
        for gate in list(self._gates.values()):
            gate.set()

    def run(self, execution: Execution) -> Outcome:
        gate = threading.Event()
        with self._lock:
            name = f"{self.name}{len(self.begun)}"
            self._gates[name] = gate
            self.running += 1
            self.running_max = max(self.running, self.running_max)
            self.begun.append(name)
        try:
            if self._held:
                assert gate.wait(20)
            if self.fault:
                raise self.fault
            return super().run(execution)
        finally:
            with self._lock:
                self.running -= 1


class Ground:
    def __init__(self, runtime: Runtime, module: Module, **bounds: Any) -> None:
        self.runtime, self.module = runtime, module
        self.metrics, self.told = Metrics(), list[tuple[WorkflowKey, Run]]()
        self.engines: list[HeldEngine] = []
        defaults = {"workers": 1, "running_max": 5, "queue_max": 50}
        self.executions = Executions(
            Settings(data_dir=runtime.settings.data_dir, **(defaults | bounds)),
            self.metrics,
            lambda key, run: self.told.append((key, run)),
        )

    def engine(self, name: str) -> HeldEngine:
        self.engines.append(HeldEngine(self.runtime, self.module, name))
        return self.engines[-1]

    def serve(self, key: WorkflowKey) -> HeldEngine:
        engine = self.engine(key.name)
        self.executions.attach(key, engine)
        return engine

    def submit(self, key: WorkflowKey, count: int = 1) -> list[asyncio.Future[Run]]:
        return [self.executions.submit(key, event()) for _ in range(count)]

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0


def event(data: Any = None) -> Event:
    return Event(kind="manual", trigger="now", data=data)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, Module]]:
    runtime = Runtime(Settings(data_dir=tmp_path_factory.mktemp("data")))
    source = MemorySource()
    source.put("team", "parts", {"part": ECHO})
    supply = Supply(source, runtime, runtime.settings, Metrics())
    module = asyncio.run(supply.module(workflow(ECHO))).module
    yield runtime, module
    runtime.close()


Make = Callable[..., Ground]


@pytest.fixture
async def make(compiled: tuple[Runtime, Module]) -> Any:
    made: list[Ground] = []

    def make(**bounds: Any) -> Ground:
        made.append(Ground(*compiled, **bounds))
        return made[-1]

    yield make
    for ground in made:
        for engine in ground.engines:
            engine.let_go()
        ground.executions.close()


class TestResults:
    async def test_a_guest_gets_its_event_and_its_result_comes_back(self, make: Make) -> None:
        """What was submitted is what the guest read, and what it wrote is the result."""
        ground = make()
        ground.serve(A)
        sent = event({"price": 97})
        run = await ground.executions.submit(A, sent)
        assert run.outcome.kind is OutcomeKind.COMPLETED
        assert run.outcome.result == sent.encode("/team/a")
        assert (run.id, run.trigger) == (sent.id, "now")
        assert ground.told == [(A, run)]
        assert ground.sample("sluice_executions_total", outcome="Completed") == 1
        assert ground.sample("sluice_execution_seconds_count") == 1

    async def test_nobody_serves_what_is_not_attached(self, make: Make) -> None:
        """A trigger of a workflow that is not alive is refused, and not queued for ever."""
        with pytest.raises(EngineRefused, match="nothing serves") as caught:
            make().executions.submit(A, event())
        assert caught.value.reason is Reason.RUN_REFUSED

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
        run = await ground.submit(A)[0]
        assert run.outcome.kind is OutcomeKind.REFUSED
        assert run.outcome.message in {"no memory to map", "the operator failed; its log says how"}
        engine.fault = None
        assert (await ground.submit(A)[0]).outcome.ok

    @pytest.mark.parametrize("data", [date(2026, 1, 1), float("nan")])
    async def test_data_that_is_no_json_is_refused_and_loses_no_worker(
        self, make: Make, data: object
    ) -> None:
        """A date in a manifest on disk is said to be one, and the workflow goes on."""
        ground = make(workers=1)
        ground.serve(A)
        run = await ground.executions.submit(A, event(data))
        assert run.outcome.kind is OutcomeKind.REFUSED
        assert "the data of the event is not JSON" in run.outcome.message
        assert (await ground.submit(A)[0]).outcome.ok

    async def test_who_fails_to_take_note_stops_nobody(
        self, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A broken listener is a line in the log: executions end, and those behind them run."""
        ground = make(workers=1)
        ground.serve(A)

        def done(key: WorkflowKey, run: Run) -> None:
            raise RuntimeError("no")

        ground.executions._done = done
        runs = await asyncio.gather(*ground.submit(A, 3))
        assert all(run.outcome.ok for run in runs)
        ground.serve(B).hold()
        waiting = ground.submit(B, 3)
        ground.executions.detach(B)
        assert [f.done() for f in waiting] == [False, True, True]
        assert "not taken note of" in caplog.text

    async def test_who_stops_waiting_does_not_stop_the_execution(self, make: Make) -> None:
        """A caller that gave up changes nothing for the workflow: its run is told all the same."""
        ground = make()
        engine = ground.serve(A).hold()
        [finished] = ground.submit(A)
        finished.cancel()
        engine.let_go()
        await until(lambda: ground.told)
        assert ground.told[0][1].outcome.ok


class TestBounds:
    async def test_queue_max_wait_and_one_more_is_refused(self, make: Make) -> None:
        """A trigger faster than its workflow is told so; what waits is never more than said."""
        ground = make(workers=1, queue_max=3)
        engine = ground.serve(A).hold()
        taken = ground.submit(A, 1 + 3)  # one runs, three wait
        with pytest.raises(EngineRefused, match="3 executions wait already") as caught:
            ground.submit(A)
        assert caught.value.reason is Reason.RUN_REFUSED
        engine.let_go()
        assert all(run.outcome.ok for run in await asyncio.gather(*taken))
        assert (await ground.submit(A)[0]).outcome.ok

    async def test_one_workflow_has_at_most_running_max_of_the_threads(self, make: Make) -> None:
        """A slow workflow leaves threads to its neighbours."""
        ground = make(workers=4, running_max=2)
        slow, quick = ground.serve(A).hold(), ground.serve(B)
        flood = ground.submit(A, 6)
        await until(lambda: slow.running == 2)
        assert (await ground.submit(B)[0]).outcome.ok
        assert len(slow.begun) == 2
        slow.let_go()
        await asyncio.gather(*flood)
        assert slow.running_max == 2
        assert len(quick.begun) == 1

    async def test_all_threads_are_used(self, make: Make) -> None:
        """As many executions run at the same time as there are workers, and no more."""
        ground = make(workers=3, running_max=5)
        engine = ground.serve(A).hold()
        taken = ground.submit(A, 6)
        await until(lambda: engine.running == 3)
        engine.let_go()
        await asyncio.gather(*taken)
        assert engine.running_max == 3

    async def test_a_flood_delays_a_neighbour_by_one_execution(self, make: Make) -> None:
        """Workflows take turns: whoever comes after a flood runs next, not last."""
        ground = make(workers=1)
        ground.serve(A).hold()
        ground.serve(B)
        flood = ground.submit(A, 5)
        late = ground.submit(B, 2)
        ground.engines[0].let_go()
        await asyncio.gather(*flood, *late)
        assert [key.name for key, _ in ground.told] == ["a", "a", "b", "a", "b", "a", "a"]


class TestLives:
    async def test_a_successor_takes_what_waits_and_the_old_one_ends_what_it_runs(
        self, make: Make
    ) -> None:
        """A new revision without a gap: nothing is lost, nothing runs twice."""
        ground = make(workers=1)
        old = ground.serve(A).hold()
        taken = ground.submit(A, 3)
        await until(lambda: old.running)
        new = ground.engine("new")
        ground.executions.attach(A, new)
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
        engine = ground.serve(A).hold()
        [running] = ground.submit(A)
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
        ground.serve(B)
        await ground.submit(B)[0]  # the thread lets go of the one before when it takes the next
        gc.collect()
        assert held() is None

    async def test_what_waits_is_cancelled_when_its_workflow_goes(self, make: Make) -> None:
        """A deletion acts at once on what has not begun, and lets end what has."""
        ground = make(workers=1)
        engine = ground.serve(A).hold()
        running, *waiting = ground.submit(A, 3)
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

    async def test_a_workflow_that_comes_back_starts_afresh(self, make: Make) -> None:
        """Suspended and resumed while a run goes on: new runs do not wait for the old life."""
        ground = make(workers=2, running_max=1)
        old = ground.serve(A).hold()
        [running] = ground.submit(A)
        await until(lambda: old.running)
        ground.executions.detach(A)
        ground.serve(A)
        assert (await ground.submit(A)[0]).outcome.ok
        old.let_go()
        assert (await running).outcome.ok

    async def test_detaching_what_is_not_there_is_nothing(self, make: Make) -> None:
        """Deleting twice is deleting once."""
        make().executions.detach(A)


class TestDrain:
    async def test_what_runs_may_end_and_what_waits_is_cancelled(self, make: Make) -> None:
        """SIGTERM loses no execution that has begun, and begins no other."""
        ground = make(workers=1, drain_s=20)
        engine = ground.serve(A).hold()
        running, waiting = ground.submit(A, 2)
        await until(lambda: engine.running)
        drain = asyncio.create_task(ground.executions.drain())
        assert (await waiting).outcome.kind is OutcomeKind.CANCELLED
        with pytest.raises(EngineRefused, match="nothing serves"):
            ground.submit(A)
        assert not drain.done()
        engine.let_go()
        assert await drain is True
        assert running.result().outcome.ok
        assert len(engine.begun) == 1

    async def test_what_runs_longer_than_the_grace_is_said(self, make: Make) -> None:
        """The grace is an end: after it the answer is no, and nobody waits any more."""
        ground = make(workers=1, drain_s=0.01)
        engine = ground.serve(A).hold()
        [running] = ground.submit(A)
        await until(lambda: engine.running)
        assert await ground.executions.drain() is False
        assert not running.done()

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
