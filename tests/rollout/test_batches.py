import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import until
from sluice.rollout.batches import Permit, Rollout, Statistics
from sluice.workflow import WorkflowKey


def key(name: object) -> WorkflowKey:
    return WorkflowKey("team", str(name))


class Starts:
    """Workflows that ask for a permit, and hold it until they are told to go on."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.admitted: list[str] = []
        self.permits: dict[str, Permit] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    def ask(self, name: str, priority: int = 0) -> None:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._start(name, priority))

    async def _start(self, name: str, priority: int) -> None:
        async with self.rollout.admit(key(name), priority) as permit:
            self.admitted.append(name)
            self.permits[name] = permit
            await self._ends[name].wait()

    def end(self, name: str) -> None:
        self._ends[name].set()

    async def until(self, *admitted: str) -> None:
        await until(lambda: self.admitted == list(admitted))


async def turns(count: int = 10) -> None:
    """Let everything happen that needs nobody's help."""
    for _ in range(count):
        await asyncio.sleep(0)


class Trims:
    """Counts trims; a ``gate`` that is shut holds them, and whoever asks can wait for a count."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> None:
        self.count += 1
        assert self.gate.wait(20)


async def test_permits_go_by_priority_then_by_arrival() -> None:
    """An urgent workflow passes those that came before; equals keep their order."""
    starts = Starts(Rollout(1, Trims()))
    starts.ask("first")
    await starts.until("first")
    for name, priority in (("low", -1), ("a", 0), ("b", 0), ("high", 5)):
        starts.ask(name, priority)
    for name in ("first", "high", "a", "b", "low"):
        await until(lambda name=name: starts.admitted[-1] == name)  # type: ignore[misc]
        starts.end(name)
    await starts.until("first", "high", "a", "b", "low")


async def test_what_is_asked_together_starts_as_one_batch_of_at_most_starts_max() -> None:
    """A restart with many workflows goes up in batches: 3 of 7 first, the others in line."""
    starts = Starts(Rollout(3, Trims()))
    for i in range(7):
        starts.ask(str(i))
    await starts.until("0", "1", "2")
    await turns()
    assert starts.rollout.statistics() == Statistics(waiting=4, in_flight=3, batches=1)
    assert [starts.rollout.place(key(i)) for i in range(7)] == [None, None, None, 1, 2, 3, 4]
    for i in range(7):
        starts.end(str(i))
    await asyncio.gather(*starts.tasks.values())
    assert starts.rollout.statistics().in_flight == 0


async def test_a_permit_that_is_settled_early_lets_the_next_one_in_once() -> None:
    """Settling twice, or by hand and again by the end of the block, frees one permit."""
    starts = Starts(Rollout(1, Trims()))
    starts.ask("a")
    await starts.until("a")
    starts.permits["a"].settle()
    starts.permits["a"].settle()
    starts.ask("b")
    starts.ask("c")
    await starts.until("a", "b")
    starts.end("a")
    await starts.tasks["a"]
    await turns()
    assert starts.admitted == ["a", "b"]
    assert starts.rollout.statistics().in_flight == 1


async def test_a_start_that_fails_gives_its_permit_back() -> None:
    """A broken workflow takes nobody's turn for longer than its try."""
    rollout = Rollout(1, Trims())
    with pytest.raises(RuntimeError):
        async with rollout.admit(key("broken"), 0):
            raise RuntimeError
    async with rollout.admit(key("next"), 0) as permit:
        assert permit.batch == 2


async def test_who_is_cancelled_while_it_waits_leaves_the_line_at_once() -> None:
    """A deleted workflow holds neither a place nor a permit."""
    starts = Starts(Rollout(1, Trims()))
    for name in "abc":
        starts.ask(name)
    await starts.until("a")
    starts.tasks["b"].cancel()
    await turns()
    assert starts.rollout.place(key("b")) is None
    assert starts.rollout.place(key("c")) == 1
    starts.end("a")
    await starts.until("a", "c")


async def test_who_is_cancelled_right_before_a_batch_keeps_no_permit() -> None:
    """A permit given to one that was cancelled in the same turn of the loop once leaked."""
    starts = Starts(Rollout(1, Trims()))
    starts.ask("a")
    await starts.until("a")
    starts.ask("b")
    await turns()
    starts.permits["a"].settle()  # the next batch is to be released in the next turn …
    starts.tasks["b"].cancel()  # … and its only member has not yet run to leave the line
    await turns()
    assert starts.rollout.statistics() == Statistics(waiting=0, in_flight=0, batches=1)


async def test_who_is_cancelled_right_after_its_release_gives_its_permit_back() -> None:
    """The same, one turn later: released, but never admitted."""
    starts = Starts(Rollout(1, Trims()))
    starts.ask("a")
    while not starts.rollout.statistics().in_flight:
        await turns(1)
    assert starts.admitted == []
    starts.tasks["a"].cancel()
    await turns()
    assert starts.admitted == []
    assert starts.rollout.statistics().in_flight == 0


async def test_memory_is_trimmed_after_a_batch_and_not_before() -> None:
    """The trim waits for the last of a batch: what is still starting would grow again."""
    trims = Trims()
    starts = Starts(Rollout(2, trims))
    starts.ask("a")
    starts.ask("b")
    await starts.until("a", "b")
    starts.end("a")
    await starts.tasks["a"]
    await turns()
    assert trims.count == 0
    starts.end("b")
    await until(lambda: trims.count == 1)


async def test_a_batch_that_ends_during_a_trim_is_trimmed_too() -> None:
    """The last batch of a rollout leaves nothing behind, however fast it was."""
    trims = Trims()
    starts = Starts(Rollout(1, trims))
    trims.gate.clear()
    starts.ask("a")
    starts.end("a")
    await until(lambda: trims.count == 1)
    starts.ask("b")
    starts.end("b")
    await starts.tasks["b"]
    await turns()
    assert trims.count == 1
    trims.gate.set()
    await until(lambda: trims.count == 2)


async def test_a_trim_that_fails_stops_nobody() -> None:
    """Starts go on, and the next batch is trimmed again."""
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: seen.append(what))
    tries: list[None] = []

    def trim() -> None:
        tries.append(None)
        raise RuntimeError("no")

    starts = Starts(Rollout(1, trim))
    for i, name in enumerate("ab", 1):
        starts.ask(name)
        starts.end(name)
        await starts.tasks[name]
        await until(lambda i=i: len(tries) == i)  # type: ignore[misc]
        await turns(100)


_STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "end", "cancel", "settle", "turn"]), st.integers(0, 7)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(_STEPS, st.integers(1, 3))
def test_whatever_is_asked_ended_and_cancelled_no_permit_is_lost_or_made(
    steps: list[tuple[str, int]], starts_max: int
) -> None:
    """In any order, in any turn of the loop: at most starts_max at once, and none at the end."""

    async def live() -> None:
        starts = Starts(Rollout(starts_max, Trims()))
        for step, i in steps:
            await _step(starts, step, str(i))
            assert 0 <= starts.rollout.statistics().in_flight <= starts_max
        for name in starts.tasks:
            starts.end(name)
        await asyncio.gather(*starts.tasks.values(), return_exceptions=True)
        await turns()
        assert starts.rollout.statistics().in_flight == 0
        assert starts.rollout.statistics().waiting == 0

    asyncio.run(live())


async def _step(starts: Starts, step: str, name: str) -> None:
    if step == "ask" and name not in starts.tasks:
        starts.ask(name, int(name) % 2)
    elif step == "turn":
        await asyncio.sleep(0)
    elif name in starts.tasks:
        if step == "end":
            starts.end(name)
        elif step == "cancel":
            starts.tasks[name].cancel()
        elif name in starts.permits:
            starts.permits[name].settle()
