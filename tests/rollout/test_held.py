"""What memory does to a rollout: who is held, who is told of it, and what a child may take."""

import asyncio
import functools

import pytest

from fakes import in_virtual_time
from rollout.starts import Starts, cost, key, settled, virtually
from sluice.reasons import Reason
from sluice.rollout.costs import Cost
from sluice.settings import MIB
from sluice.snapshot import Verdict


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
async def test_after_a_hold_batches_grow_again_with_each_that_met_no_want() -> None:
    """The pod finds back to its pace by itself: 9 compiles at once, 4, 8 and 9 again."""
    starts = Starts(used=431)
    starts.ask("held", cost(60))
    await settled()
    starts.memory.used = 100 * MIB
    sizes = []
    for name in ("a", "b", "c", "d"):
        await settled(1)
        sizes.append(starts.rollout.statistics().batch_size)
        starts.end(*starts.tasks)
        await settled()
        starts.ask(name, cost(60))
    assert sizes == [4, 4, 8, 9]


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
async def test_a_big_one_is_not_passed_by_small_ones_for_ever() -> None:
    """Three may pass it here; then the line waits for it, and goes on behind it."""
    starts = Starts(used=200, passes_max=3)
    starts.ask("early", cost(20))
    await settled()
    starts.ask("big", cost(209))
    for i in range(6):
        starts.ask(str(i), cost(20))
        await settled(1)
    assert starts.admitted == ["early", "0", "1", "2"]
    starts.end(*starts.admitted)
    await settled(1)
    assert starts.admitted[4:] == ["big"]
    starts.permits["big"].compiled()
    await settled(1)
    assert starts.admitted[5:] == ["3", "4", "5"]


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
async def test_who_still_waits_after_a_start_is_told_nothing_else_meanwhile() -> None:
    """Its condition does not flap with every batch that others start in."""
    starts = Starts(used=200)
    for name in "abc":
        starts.ask(name, cost(512, known=False))
    await settled()
    starts.blocking.takes_s = 0.1
    starts.permits["a"].compiled()
    await settled(0.11)
    assert starts.admitted == ["a", "b"]  # and the next reading is being taken
    verdict = starts.rollout.explain(key("c"))
    assert verdict
    assert verdict.reason is Reason.WAITING_FOR_MEMORY


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
    for name in "bc":
        starts.ask(name, functools.partial(prices.__getitem__, name))
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


@virtually
async def test_a_price_that_cannot_be_told_holds_nobody_up() -> None:
    """A bug in a prediction costs that start its best place, and not everybody's."""
    prices = iter([cost(512, known=False)])
    starts = Starts(used=200)
    starts.ask("first", cost(512, known=False))
    starts.ask("odd", functools.partial(next, prices))
    starts.ask("last", cost(60))
    await settled()
    starts.permits["first"].compiled()
    await settled(1)
    assert starts.admitted == ["first", "odd"]
    starts.permits["odd"].compiled()
    await settled(1)
    assert starts.admitted == ["first", "odd", "last"]


@pytest.mark.parametrize(("used", "cap"), [(100, 256), (200, 208), (408, 0), (500, 0)])
def test_a_child_may_take_what_is_below_the_high_watermark_and_not_kept_by_others(
    used: int, cap: int
) -> None:
    """Never more than any child may, never less than nothing; other starts keep 2 MiB here."""

    async def live() -> None:
        starts = Starts(compile_bytes_max=256 * MIB)
        for name, peak in (("a", 230), ("b", 10), ("c", 10)):
            starts.ask(name, cost(peak))
        await settled()
        starts.memory.used, starts.memory.garbage = used * MIB, 50 * MIB
        assert await starts.rollout.compile_cap(starts.permits["a"]) == cap * MIB
        assert starts.memory.trims == (cap < 256)

    in_virtual_time(live())


@pytest.mark.parametrize(("peak", "cap"), [(126, 158), (127, 208)])
def test_a_child_that_is_known_to_need_less_than_there_is_waits_for_no_trim(
    peak: int, cap: int
) -> None:
    """A quarter more than it took last time is enough; a trim takes longer than it helps."""

    async def live() -> None:
        starts = Starts()
        starts.ask("a", cost(peak))
        await settled()
        starts.memory.used, starts.memory.garbage = 202 * MIB, 50 * MIB
        assert await starts.rollout.compile_cap(starts.permits["a"]) == cap * MIB

    in_virtual_time(live())


@virtually
async def test_children_that_run_at_once_share_what_there_is() -> None:
    """The second is given what the first may not take, asked for at the same time or later."""
    starts = Starts(used=100, compiles_max=2)
    starts.ask("a", cost(100))
    starts.ask("b", cost(150))
    await settled()
    a, b = (starts.permits[name] for name in "ab")
    caps = await asyncio.gather(starts.rollout.compile_cap(a), starts.rollout.compile_cap(b))
    assert list(caps) == [159 * MIB, 150 * MIB]  # of 310 less what the other keeps
    starts.permits["a"].compiled()
    assert await starts.rollout.compile_cap(starts.permits["b"]) == 309 * MIB


@virtually
async def test_beside_a_child_only_so_many_start_until_the_next_is_reckoned_with_them() -> None:
    """A child may grow up to the high watermark: what came after its cap lives in what is above."""
    starts = Starts(used=100)
    keep = Cost(0, 30 * MIB, known=True)
    starts.ask("a", cost(60))
    await settled()
    await starts.rollout.compile_cap(starts.permits["a"])
    for name in ("b", "c"):
        starts.ask(name, keep)
    await settled()
    assert starts.admitted == ["a", "b"]  # half of 102 MiB
    await starts.rollout.compile_cap(starts.permits["a"])
    await settled(1)
    assert starts.admitted == ["a", "b", "c"]


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
