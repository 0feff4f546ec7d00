import asyncio
import functools
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import Blocking, PodMemory, in_virtual_time
from sluice.reasons import Reason
from sluice.rollout.batches import Permit, Rollout
from sluice.rollout.costs import FREE, Cost
from sluice.rollout.gate import Bounds
from sluice.rollout.holds import HoldEvent
from sluice.settings import MIB
from sluice.snapshot import Verdict
from sluice.workflow import WorkflowKey


def key(name: object) -> WorkflowKey:
    return WorkflowKey("team", str(name))


def cost(mib: int, *, known: bool = True) -> Cost:
    return Cost(mib * MIB, MIB, known=known)


def virtually(
    live: Callable[[], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Let a test live in virtual time: what waits for nothing fails, and no wait takes any."""

    @functools.wraps(live)
    def test() -> None:
        in_virtual_time(live())

    del test.__wrapped__  # type: ignore[attr-defined]  # or pytest would take it for a coroutine
    return test


class Starts:
    """Workflows that ask a rollout for a permit, and hold it until they are told to go on.

    Of 512 MiB: high water 410, low water 384.
    """

    def __init__(self, starts_max: int = 12, used: int = 100, **bounds: Any) -> None:
        self.memory, self.blocking = PodMemory(used * MIB, 512 * MIB), Blocking()
        self.events: list[HoldEvent] = []
        self.rollout = Rollout(
            Bounds(
                starts_max=starts_max, low_fraction=384 / 512, high_fraction=410 / 512, **bounds
            ),
            self.memory,
            self.memory.trim,
            told=self.events.append,
            run_blocking=self.blocking,
        )
        self.admitted: list[str] = []
        self.permits: dict[str, Permit] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    def ask(
        self, name: str, what: Cost | Callable[[], Cost] = FREE, priority: int = 0, **more: bool
    ) -> None:
        self._ends[name] = asyncio.Event()
        admit = self.rollout.admit(key(name), priority, what, **more)
        self.tasks[name] = asyncio.create_task(self._start(name, admit))

    async def _start(self, name: str, admit: Any) -> None:
        async with admit as permit:
            self.admitted.append(name)
            self.permits[name] = permit
            await self._ends[name].wait()

    def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()

    @property
    def counts(self) -> tuple[int, int, int]:
        """Who wait, who are under way, and the batches so far."""
        statistics = self.rollout.statistics()
        return statistics.waiting, statistics.in_flight, statistics.batches


async def settled(seconds: float = 0.01) -> None:
    """Let everything happen that needs nobody's help, and no look at memory."""
    await asyncio.sleep(seconds)


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


@virtually
async def test_what_fits_by_a_reading_below_the_low_watermark_needs_no_trim() -> None:
    """A thousand cached workflows start as fast as their waits allow."""
    starts = Starts()
    for i in range(1000):
        starts.ask(str(i))
        starts.end(str(i))
    await asyncio.gather(*starts.tasks.values())
    assert starts.memory.trims == 0
    assert starts.counts[:2] == (0, 0)


@pytest.mark.parametrize(("garbage", "trims"), [(283, 0), (285, 1)])
def test_above_the_low_watermark_memory_is_trimmed_before_a_reading_decides(
    garbage: int, trims: int
) -> None:
    """What a burst left behind must not hold the next one."""

    async def live() -> None:
        starts = Starts()
        starts.memory.garbage = garbage * MIB
        starts.ask("a", cost(1))
        await settled()
        assert (starts.admitted, starts.memory.trims) == (["a"], trims)
        assert starts.rollout.statistics().trimmed_bytes == trims * garbage * MIB

    in_virtual_time(live())


@virtually
async def test_one_that_does_not_fit_untrimmed_is_decided_on_again_trimmed() -> None:
    """Below the low watermark too: the trim may make the room that it lacks."""
    starts = Starts()
    starts.memory.garbage = 200 * MIB
    starts.ask("a", cost(300))
    await settled()
    assert (starts.admitted, starts.memory.trims) == (["a"], 1)


@virtually
async def test_no_reading_decides_twice() -> None:
    """Each batch has a reading of its own, and a full house needs none."""
    starts = Starts(2)
    for i in range(6):
        starts.ask(str(i))
    await settled()
    assert starts.memory.reads == 1
    starts.end("0", "1")
    await settled()
    assert starts.admitted == ["0", "1", "2", "3"]
    assert starts.memory.reads >= 2


@virtually
async def test_a_stale_reading_holds_until_a_fresh_one() -> None:
    """A machine that is too slow to be measured starts nobody on a guess."""
    starts = Starts()
    starts.memory.lag_s = 1.1
    starts.ask("a")
    await settled(5)
    assert starts.admitted == []
    starts.memory.lag_s = 1.0
    await settled(0.6)
    assert starts.admitted == ["a"]


@virtually
async def test_a_reading_that_fails_holds_and_is_tried_again() -> None:
    """Without knowing there is no start; and the rollout outlives it."""
    starts = Starts()
    starts.memory.fault = OSError("no cgroup")
    starts.ask("a")
    await settled(5)
    assert starts.admitted == []
    starts.memory.fault = None
    await settled(0.6)
    assert starts.admitted == ["a"]


@virtually
async def test_a_rollout_that_does_not_fit_is_held_told_of_once_and_completes() -> None:
    """An admin sees one event when it begins, one when it ends, and how long it took."""
    starts = Starts(used=431)
    for i in range(38):
        starts.ask(str(i), cost(60))
    await settled(10)
    assert starts.admitted == []
    assert starts.rollout.statistics().held
    starts.memory.used = 385 * MIB
    await settled(4)
    starts.memory.used = 300 * MIB
    await settled(0.6)
    assert len(starts.admitted) == 4
    begun, ended = starts.events
    assert (begun.begun, begun.reason) == (True, Reason.WAITING_FOR_MEMORY)
    assert begun.message == (
        "memory 431 of 512 MiB after trim (gave back 0 MiB) with no compile under way, "
        "high water 410; 82 MiB are missing for the smallest of 38 that wait"
    )
    assert (ended.begun, ended.message) == (
        False, "memory 300 of 512 MiB after 14 s; next batch 4",
    )  # fmt: skip
    statistics = starts.rollout.statistics()
    assert statistics.hold_seconds[Reason.WAITING_FOR_MEMORY] == pytest.approx(14, abs=0.6)
    assert statistics.holds == {Reason.WAITING_FOR_MEMORY: 1, Reason.WAITING_FOR_TURN: 1}
    starts.end(*starts.tasks)
    await asyncio.gather(*starts.tasks.values())
    assert len(starts.admitted) == 38


@virtually
async def test_a_hold_ends_when_nobody_waits_any_more() -> None:
    """All that waited were deleted: an event that began does not stay alone."""
    starts = Starts(used=431)
    starts.ask("a", cost(60))
    await settled(3)
    starts.tasks["a"].cancel()
    await settled(1)
    assert [event.begun for event in starts.events] == [True, False]
    assert starts.events[1].message == "memory 431 of 512 MiB after 3 s; nobody waits any more"
    assert not starts.rollout.statistics().held


@virtually
async def test_one_that_fits_in_no_way_makes_no_flood_of_events() -> None:
    """Others start past it all day: it is told of once, and what it lacks."""
    starts = Starts(used=200)
    starts.ask("giant", cost(300))
    await settled()
    for i in range(50):
        starts.ask(str(i), cost(60))
        await settled(1)
        starts.end(str(i))
        await settled(1)
    assert len(starts.admitted) == 50
    assert len(starts.events) == 1
    assert "91 MiB are missing for the smallest of 1 that wait" in starts.events[0].message
    starts.memory.used = 100 * MIB
    await settled(1)
    assert starts.admitted[-1] == "giant"
    assert [event.begun for event in starts.events] == [True, False]


@virtually
async def test_who_waits_is_told_why_and_where_it_stands() -> None:
    """The message of the Admitted condition, for memory and for a permit."""
    starts = Starts(used=431)
    for i in range(37):
        starts.ask(str(i), cost(60))
    await settled()
    assert starts.rollout.explain(key(3)) == Verdict(
        False, Reason.WAITING_FOR_MEMORY,
        "pod memory 431 of 512 MiB, high water 410; this start needs about 61 MiB; "
        "37 wait, 4th in line",
    )  # fmt: skip
    busy = Starts(2)
    for i in range(5):
        busy.ask(str(i))
    await settled()
    assert busy.rollout.explain(key(0)) is None
    assert busy.rollout.explain(key(4)) == Verdict(
        False, Reason.WAITING_FOR_TURN, "2 of 2 starts are under way; 3 wait, 3rd in line"
    )


@virtually
async def test_a_compile_that_is_over_makes_room_for_the_next() -> None:
    """What only waits for its subscription does not hold the next compile."""
    starts = Starts(used=200)
    starts.ask("a", cost(512, known=False))
    starts.ask("b", cost(512, known=False))
    await settled(5)
    assert starts.admitted == ["a"]
    starts.permits["a"].compiled()
    await settled()
    assert starts.admitted == ["a", "b"]
    assert starts.counts[1] == 2


@virtually
async def test_what_is_learned_while_it_waits_counts() -> None:
    """The first compiles of a cold start teach what the others need, and what is cached."""
    prices = {"b": cost(512, known=False), "c": cost(512, known=False)}
    starts = Starts(used=200)
    starts.ask("a", cost(512, known=False))
    for name in prices:
        starts.ask(name, lambda name=name: prices[name])  # type: ignore[misc]
    await settled()
    assert starts.admitted == ["a"]
    prices["c"] = Cost(0, MIB, known=True)
    await settled(0.6)
    assert starts.admitted == ["a", "c"]
    prices["b"] = cost(100)
    starts.permits["a"].compiled()
    await settled()
    assert starts.admitted == ["a", "c", "b"]
    assert starts.permits["b"].cost == cost(100)


@pytest.mark.parametrize(("used", "cap"), [(100, 256), (200, 208), (408, 0), (500, 0)])
def test_a_child_may_take_what_is_below_the_high_watermark_and_not_kept_by_others(
    used: int, cap: int
) -> None:
    """Never more than any child may, never less than nothing; other starts keep 2 MiB here."""

    async def live() -> None:
        starts = Starts(compile_bytes_max=256 * MIB)
        for name in "abc":
            starts.ask(name, cost(10))
        await settled()
        starts.memory.used, starts.memory.garbage = used * MIB, 50 * MIB
        assert await starts.rollout.compile_cap(starts.permits["a"]) == cap * MIB
        assert starts.memory.trims == (cap < 256)

    in_virtual_time(live())


@virtually
async def test_children_that_run_at_once_share_what_there_is() -> None:
    """The second is given what the first may not take, asked for at the same time or later."""
    starts = Starts(used=100, compiles_max=2)
    starts.ask("a", cost(100))
    starts.ask("b", cost(150))
    await settled()
    caps = await asyncio.gather(
        *(starts.rollout.compile_cap(starts.permits[name]) for name in "ab")
    )
    assert caps == [159 * MIB, 150 * MIB]  # of 310 less what the other keeps
    starts.permits["a"].compiled()
    assert await starts.rollout.compile_cap(starts.permits["b"]) == 309 * MIB


@virtually
async def test_what_settles_while_memory_is_read_is_still_reckoned_with() -> None:
    """The reading may be older than what a start kept: it counts once more."""
    starts = Starts(used=309)
    starts.ask("a", Cost(0, 100 * MIB, known=True))
    await settled()
    starts.blocking.gate.clear()
    starts.ask("b", Cost(0, 2 * MIB, known=True))
    await settled()
    starts.end("a")
    await settled()
    starts.blocking.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert starts.admitted == ["a"]
    await settled(1)
    assert starts.admitted == ["a", "b"]


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
        elif name in starts.permits:
            permit = starts.permits[name]
            (permit.settle if step == "settle" else permit.compiled)()
