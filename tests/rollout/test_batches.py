import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import Blocking, PodMemory, in_virtual_time
from rollout.starts import Starts, cost, key, settled, virtually
from sluice.rollout.batches import Rollout
from sluice.rollout.gate import Bounds
from sluice.settings import MIB


@virtually
async def test_permits_go_by_priority_then_by_who_served_then_by_arrival() -> None:
    """An urgent workflow passes those that came before; what serves comes before what is new."""
    starts = Starts(1)
    starts.ask("first")
    await settled()
    starts.ask("behind", priority=9, lowest=True)
    for name, priority, served in (
        ("low", -1, True), ("a", 0, False), ("b", 0, False), ("served", 0, True),
        ("high", 5, False),
    ):  # fmt: skip
        starts.ask(name, priority=priority, served_before=served)
    order = ["first", "high", "served", "a", "b", "low", "behind"]
    for name in order:
        await settled()
        assert starts.admitted[-1] == name
        starts.end(name)
    assert starts.admitted == order


@virtually
async def test_what_is_asked_together_starts_as_one_batch_of_at_most_starts_max() -> None:
    """A restart with many workflows goes up in batches: 3 of 7 first, the others in line."""
    starts = Starts(3)
    for i in range(7):
        starts.ask(str(i))
    await settled()
    assert starts.admitted == ["0", "1", "2"]
    assert starts.counts == (4, 3, 1)
    assert [starts.rollout.place(key(i)) for i in range(7)] == [None, None, None, 1, 2, 3, 4]
    starts.end(*starts.tasks)
    await asyncio.gather(*starts.tasks.values())
    assert starts.counts[:2] == (0, 0)


@virtually
async def test_a_permit_that_is_settled_early_lets_the_next_one_in_once() -> None:
    """Settling twice, or by hand and again by the end of the block, frees one permit."""
    starts = Starts(1)
    for name in "abc":
        starts.ask(name)
    await settled()
    starts.permits["a"].settle()
    starts.permits["a"].settle()
    await settled()
    starts.end("a")
    await starts.tasks["a"]
    await settled()
    assert starts.admitted == ["a", "b"]
    assert starts.counts[:2] == (1, 1)


@virtually
async def test_a_start_that_fails_gives_its_permit_back() -> None:
    """A broken workflow takes nobody's turn for longer than its try."""
    rollout = Starts(1).rollout
    with pytest.raises(RuntimeError):
        async with rollout.admit(key("broken"), 0):
            raise RuntimeError
    async with rollout.admit(key("next"), 0) as permit:
        assert permit.batch == 2


@virtually
async def test_who_is_cancelled_while_it_waits_leaves_the_line_at_once() -> None:
    """A deleted workflow holds neither a place nor a permit."""
    starts = Starts(1)
    for name in "abc":
        starts.ask(name)
    await settled()
    starts.tasks["b"].cancel()
    await settled()
    assert starts.rollout.place(key("b")) is None
    assert starts.rollout.explain(key("b")) is None
    assert starts.rollout.place(key("c")) == 1
    starts.end("a")
    await settled()
    assert starts.admitted == ["a", "c"]


@virtually
async def test_who_is_cancelled_at_any_turn_of_its_release_keeps_no_permit() -> None:
    """A permit given to one that was cancelled in the same turn of the loop once leaked."""
    for turns in range(12):
        starts = Starts(1)
        starts.ask("a")
        await settled()
        starts.ask("b")
        await settled()
        starts.permits["a"].settle()
        for _ in range(turns):
            await asyncio.sleep(0)
        starts.tasks["b"].cancel()
        await settled()
        assert starts.counts[:2] == (0, 0), turns


@virtually
async def test_memory_is_trimmed_after_a_batch_and_not_before() -> None:
    """The trim waits for the last of a batch: what is still starting would grow again."""
    starts = Starts(2)
    starts.ask("a")
    starts.ask("b")
    await settled()
    starts.end("a")
    await settled()
    assert starts.memory.trims == 0
    starts.end("b")
    await settled()
    assert starts.memory.trims == 1


@virtually
async def test_a_batch_that_ends_during_a_trim_is_trimmed_too_after_a_rest() -> None:
    """The last batch of a rollout leaves nothing behind; a trim has a fifth of the time at most."""
    starts = Starts(1)
    starts.ask("a")
    await settled()
    starts.blocking.takes_s = 0.1
    starts.end("a")
    await settled()
    starts.ask("b")
    starts.end("b")
    await starts.tasks["b"]
    assert starts.memory.trims == 1
    await settled(0.3)
    assert starts.memory.trims == 1
    await settled(0.3)
    assert starts.memory.trims == 2
    assert starts.rollout.statistics().trims == 2


@virtually
async def test_a_trim_that_fails_stops_nobody() -> None:
    """Starts go on, and the next batch is trimmed again."""
    tries = itertools.count()

    def trim() -> None:
        next(tries)
        raise RuntimeError

    memory = PodMemory(0, 512 * MIB)
    rollout = Rollout(Bounds(starts_max=1), memory, trim, run_blocking=Blocking())
    for i in range(2):
        async with rollout.admit(key(i), 0):
            pass
        await settled()
    assert next(tries) == 2


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "end", "cancel", "settle", "compiled", "turn", "wait"]),
        st.integers(0, 7),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(_STEPS, st.integers(1, 3), st.integers(0, 450))
def test_whatever_is_asked_ended_and_cancelled_no_permit_is_lost_or_made(
    steps: list[tuple[str, int]], starts_max: int, used: int
) -> None:
    """In any order, in any turn of the loop: at most starts_max at once, and none at the end."""

    async def live() -> None:
        starts = Starts(starts_max, used)
        for step, i in steps:
            await _step(starts, step, str(i))
            assert 0 <= starts.counts[1] <= starts_max
        starts.memory.used = 0
        starts.end(*starts.tasks)
        await asyncio.gather(*starts.tasks.values(), return_exceptions=True)
        await settled()
        assert starts.counts[:2] == (0, 0)
        assert [event.begun for event in starts.events] == [True, False] * (len(starts.events) // 2)

    in_virtual_time(live())


async def _step(starts: Starts, step: str, name: str) -> None:
    if step == "ask" and name not in starts.tasks:
        starts.ask(name, cost(int(name) * 30, known=int(name) > 3), int(name) % 2)
    elif step == "turn":
        await asyncio.sleep(0)
    elif step == "wait":
        await asyncio.sleep(0.3)
    elif name in starts.tasks:
        if step == "end":
            starts.end(name)
        elif step == "cancel":
            starts.tasks[name].cancel()
        elif permit := starts.permits.get(name):
            (permit.settle if step == "settle" else permit.compiled)()
