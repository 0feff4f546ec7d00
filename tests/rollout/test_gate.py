from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.reasons import Reason
from sluice.rollout.costs import FREE, Cost
from sluice.rollout.gate import (
    Bounds,
    Decision,
    Flight,
    GateState,
    Hold,
    Start,
    Waiting,
    decide,
    need_message,
    ordinal,
    turn_message,
)
from sluice.rollout.memory import MemoryReading
from sluice.settings import MIB, Settings

# Of 512 MiB: high water 410, low water 384.
BOUNDS = Bounds(high_fraction=410 / 512, low_fraction=384 / 512)
OPEN = GateState.first(BOUNDS)
SHUT = replace(OPEN, shut=True)


def used(mib: int, limit: int = 512, at: float = 0.0) -> MemoryReading:
    return MemoryReading(
        at=at, used=mib * MIB, limit=limit * MIB, working_set=0, anonymous=0, kind="host"
    )


def cost(mib: int, keep: int = 1, *, known: bool = True) -> Cost:
    return Cost(mib * MIB, keep * MIB, known=known)


def one(
    mib: int,
    keep: int = 1,
    *,
    known: bool = True,
    passes_left: int = 24,
    lowest: bool = False,
    parked: bool = False,
) -> Waiting:
    price = cost(mib, keep, known=known)
    return Waiting(cost=price, passes_left=passes_left, lowest=lowest, parked=parked)


def flight(mib: int, keep: int = 1, *, done: bool = False, cap: int = 0) -> Flight:
    return Flight(cost=cost(mib, keep), done=done, cap_bytes=cap * MIB)


def started(decision: Decision) -> tuple[int, ...]:
    return decision.indexes if isinstance(decision, Start) else ()


def held(decision: Decision) -> Hold:
    assert isinstance(decision, Hold)
    return decision


@pytest.mark.parametrize(("mib", "starts"), [(349, True), (350, False)])
def test_a_start_is_admitted_only_if_its_peak_and_keep_fit_under_the_high_watermark(
    mib: int, starts: bool
) -> None:
    """60 MiB to compile and 1 to keep fit under 410 up to 349 used, and not from 350 on."""
    decision = decide(used(mib), [one(60)], [], OPEN, BOUNDS, 0.0)
    assert bool(started(decision)) is starts


@pytest.mark.parametrize(("compiles_max", "starts"), [(1, True), (2, False)])
def test_of_the_compiles_under_way_only_as_many_count_as_can_run_at_once(
    compiles_max: int, starts: bool
) -> None:
    """The slot serialises them: nine may wait for one slot in the memory of the largest."""
    bounds = replace(BOUNDS, compiles_max=compiles_max)
    decision = decide(used(300), [one(90)], [flight(90)], OPEN, bounds, 0.0)
    assert bool(started(decision)) is starts


@pytest.mark.parametrize(("done", "starts"), [(True, True), (False, False)])
def test_a_peak_counts_until_the_compile_is_over_and_what_is_kept_as_long_as_it_starts(
    done: bool, starts: bool
) -> None:
    """Who only waits for its subscription holds nothing of a compile any more."""
    flights = [flight(100, done=done)]
    assert bool(started(decide(used(320), [one(88)], flights, OPEN, BOUNDS, 0.0))) is starts
    assert not started(decide(used(320), [one(89)], flights, OPEN, BOUNDS, 0.0))


@pytest.mark.parametrize(("age_s", "starts"), [(1.0, True), (1.1, False)])
def test_nobody_starts_on_a_stale_reading(age_s: float, starts: bool) -> None:
    """What was true a second ago may be true no longer."""
    decision = decide(used(0), [one(1), one(0)], [], OPEN, BOUNDS, age_s)
    assert bool(started(decision)) is starts
    if not starts:
        assert held(decision).message == "the last reading of memory is 1.1 s old; 2 wait"


def test_above_the_high_watermark_the_gate_shuts_and_below_the_low_one_it_opens() -> None:
    """Memory that hovers about one figure does not let starts in by fits and starts."""
    flights, waiting = [flight(10)], [one(10)]
    at_410 = decide(used(410), waiting, flights, OPEN, BOUNDS, 0.0)
    at_411 = decide(used(411), waiting, flights, OPEN, BOUNDS, 0.0)
    assert (at_410.state.shut, at_411.state.shut) == (False, True)
    at_385 = decide(used(385), waiting, flights, at_411.state, BOUNDS, 0.0)
    assert started(decide(used(385), waiting, flights, OPEN, BOUNDS, 0.0)) == (0,)
    assert (started(at_385), at_385.state.shut) == ((), True)
    at_384 = decide(used(384), waiting, flights, at_385.state, BOUNDS, 0.0)
    assert (started(at_384), at_384.state.shut) == ((0,), False)


def test_a_shut_gate_lets_one_through_while_nothing_compiles() -> None:
    """Between the watermarks nothing may ever bring memory down: the line must not stand."""
    waiting = [one(10), one(10), one(10)]
    decision = decide(used(390), waiting, [flight(50, done=True)], SHUT, BOUNDS, 0.0)
    assert started(decision) == (0,)
    assert decision.state.shut
    assert started(decide(used(390), waiting, [], OPEN, BOUNDS, 0.0)) == (0, 1, 2)
    assert not started(decide(used(390), waiting, [flight(10)], SHUT, BOUNDS, 0.0))


def test_an_untrimmed_reading_may_start_but_neither_shuts_nor_parks() -> None:
    """It only overestimates: what it lets in fits, and what it does not may fit after a trim."""
    waiting = [one(60)]
    untrimmed = held(decide(used(411), waiting, [], OPEN, BOUNDS, 0.0, gave_back=None))
    trimmed = held(decide(used(411), waiting, [], OPEN, BOUNDS, 0.0))
    assert (untrimmed.state.shut, untrimmed.parked, untrimmed.missing_bytes) == (False, (), 0)
    assert (trimmed.state.shut, trimmed.parked, trimmed.missing_bytes) == (True, (), 62 * MIB)
    assert started(decide(used(300), waiting, [], OPEN, BOUNDS, 0.0, gave_back=None)) == (0,)


def test_the_batch_halves_when_the_gate_shuts_and_doubles_after_a_batch_without_want() -> None:
    """It finds by itself how much at once this pod can bear: 9, 4, then 8 and 9 again."""
    many = [one(1, 0) for _ in range(12)]
    assert len(started(decide(used(0), many, [], OPEN, BOUNDS, 0.0))) == 9
    state = decide(used(411), many, [], OPEN, BOUNDS, 0.0).state
    assert decide(used(411), many, [], state, BOUNDS, 0.0).state.batch == 4
    state = decide(used(0), many, [], state, BOUNDS, 0.0).state
    assert len(started(decide(used(0), many, [], state, BOUNDS, 0.0))) == 4
    state = state.after_batch(BOUNDS)  # of the batch that met the want
    assert state.batch == 4
    batches = [state := state.after_batch(BOUNDS) for _ in range(3)]
    assert [s.batch for s in batches] == [8, 9, 9]


def test_the_batch_never_falls_below_one() -> None:
    """However often the gate shuts, one at a time goes on."""
    state = OPEN
    for mib in [411, 0] * 6:
        state = decide(used(mib), [one(1)], [], state, BOUNDS, 0.0).state
    assert started(decide(used(0), [one(1), one(1)], [], state, BOUNDS, 0.0)) == (0,)


def test_a_permit_in_four_is_kept_for_starts_with_nothing_to_compile() -> None:
    """A cached workflow never waits behind compiles, only for a permit."""
    compiling = [flight(10) for _ in range(9)]
    waiting = [one(10), one(0), one(0), one(0), one(0)]
    assert started(decide(used(0), waiting, compiling, OPEN, BOUNDS, 0.0)) == (1, 2, 3)
    full = compiling + [flight(0) for _ in range(3)]
    hold = held(decide(used(0), waiting, full, OPEN, BOUNDS, 0.0))
    assert (hold.reason, hold.until) == (Reason.WAITING_FOR_TURN, None)
    assert hold.message == "12 of 12 starts are under way; 5 wait"


@pytest.mark.parametrize(("mib", "starts"), [(409, True), (410, False)])
def test_a_cached_start_waits_for_memory_only_above_the_high_watermark(
    mib: int, starts: bool
) -> None:
    """Neither a shut gate nor the peak of a compile holds it, but its own keep must fit."""
    decision = decide(used(mib), [one(0)], [flight(300, keep=0)], SHUT, BOUNDS, 0.0)
    assert bool(started(decision)) is starts


@pytest.mark.parametrize(("beside", "starts"), [(50, True), (51, False)])
def test_what_starts_beside_a_child_stays_within_half_of_what_is_above_the_high_watermark(
    beside: int, starts: bool
) -> None:
    """A child's cap reaches up to the watermark: cached ones must not bring it to the limit."""
    state = replace(OPEN, beside_bytes=beside * MIB)
    running = [flight(100, cap=200)]
    assert bool(started(decide(used(100), [one(0)], running, state, BOUNDS, 0.0))) is starts
    assert started(decide(used(100), [one(0)], [flight(100)], state, BOUNDS, 0.0)) == (0,)


@pytest.mark.parametrize(("mib", "starts"), [(345, True), (346, False)])
def test_one_of_unknown_cost_gambles_alone_from_compile_bytes_min_on(
    mib: int, starts: bool
) -> None:
    """512 MiB may be needed and 64 are there: it is tried, its child dies at what there is."""
    decision = decide(used(mib), [one(512, known=False)], [], OPEN, BOUNDS, 0.0)
    assert bool(started(decision)) is starts
    beside = [flight(10, keep=0)]
    assert not started(decide(used(100), [one(512, known=False)], beside, OPEN, BOUNDS, 0.0))
    assert not started(decide(used(100), [one(512)], [], OPEN, BOUNDS, 0.0))


def test_one_that_fits_in_no_way_holds_nobody_up() -> None:
    """It is parked, and the next one starts in the same decision."""
    decision = decide(used(200), [one(300), one(60)], [], OPEN, BOUNDS, 0.0)
    assert isinstance(decision, Start)
    assert (decision.indexes, decision.parked, decision.passed) == ((1,), (0,), ())


def test_one_that_does_not_fit_beside_others_is_passed_a_bounded_number_of_times() -> None:
    """Small ones use what a big one cannot, but not for ever: then the line waits for it."""
    waiting = [one(200, passes_left=2), *(one(10, 0) for _ in range(5)), one(0, 0)]
    beside = [flight(20, keep=10)]
    decision = decide(used(200), waiting, beside, OPEN, BOUNDS, 0.0)
    assert isinstance(decision, Start)
    assert (decision.indexes, decision.passed) == ((1, 2, 6), (0, 0))
    waited_for = [one(200, passes_left=0), *waiting[1:]]
    assert started(decide(used(200), waited_for, beside, OPEN, BOUNDS, 0.0)) == (6,)
    assert started(decide(used(200), waited_for, [], OPEN, BOUNDS, 0.0))[0] == 0


def test_the_least_patient_of_those_that_are_passed_decides() -> None:
    """The line waits as soon as one of them may be passed no more, whoever came after it."""
    waiting = [one(200, passes_left=1), one(200, passes_left=9), one(10, 0), one(10, 0)]
    decision = decide(used(200), waiting, [flight(20, keep=10)], OPEN, BOUNDS, 0.0)
    assert isinstance(decision, Start)
    assert (decision.indexes, decision.passed) == ((2,), (0, 1))


def test_what_one_batch_keeps_counts_within_it() -> None:
    """Three times 100 MiB fit one after the other, four do not."""
    waiting = [one(0, 100) for _ in range(4)]
    assert started(decide(used(105), waiting, [], OPEN, BOUNDS, 0.0)) == (0, 1, 2)
    compiling = [one(10, 100) for _ in range(4)]
    assert started(decide(used(100), compiling, [], OPEN, BOUNDS, 0.0)) == (0, 1, 2)
    assert started(decide(used(101), compiling, [], OPEN, BOUNDS, 0.0)) == (0, 1)


def test_the_lowest_starts_only_if_nobody_else_could() -> None:
    """A recompilation behind what serves takes no room that a start waits for."""
    lowest, flights = one(10, lowest=True), [flight(20, keep=10)]
    assert not started(decide(used(200), [one(200), lowest], flights, OPEN, BOUNDS, 0.0))
    assert started(decide(used(200), [one(200), one(10)], flights, OPEN, BOUNDS, 0.0)) == (1,)
    parked = one(600, parked=True)
    assert started(decide(used(200), [parked, lowest], flights, OPEN, BOUNDS, 0.0)) == (1,)


def test_a_hold_says_how_much_is_missing_if_nothing_compiles_and_nothing_fits() -> None:
    """An admin reads what the smallest of those that wait lacks, and can act on it."""
    waiting = [one(300), one(60), one(512, known=False)]
    hold = held(decide(used(390), waiting, [], OPEN, BOUNDS, 0.0, waits=38, gave_back=38 * MIB))
    assert hold.missing_bytes == 41 * MIB
    assert hold.message == (
        "memory 390 of 512 MiB after trim (gave back 38 MiB) with no compile under way, high water "
        "410; 41 MiB are missing for the smallest of 38 that wait"
    )


def test_a_shut_gate_says_what_it_waits_for() -> None:
    """The words of the RolloutHeld event."""
    decision = decide(
        used(431, at=7.0), [one(60)], [flight(60)], OPEN, BOUNDS, 7.0, waits=38, gave_back=38 * MIB
    )
    hold = held(decision)
    assert hold.message == (
        "memory 431 of 512 MiB after trim (gave back 38 MiB); "
        "38 workflows wait until it falls to 384"
    )
    assert (hold.reason, hold.until) == (Reason.WAITING_FOR_MEMORY, 7.5)


def test_a_line_that_waits_for_room_says_so() -> None:
    """Nothing is wrong then: what is under way takes the rest."""
    hold = held(decide(used(330), [one(60)], [flight(90)], OPEN, BOUNDS, 0.0, gave_back=None))
    assert hold.message == (
        "memory 330 of 512 MiB, high water 410; no more fit beside the 1 under way; 1 wait"
    )


def test_one_that_waits_reads_what_there_is_and_what_it_needs() -> None:
    """The words of the Admitted condition."""
    assert need_message(used(431), cost(60), BOUNDS) == (
        "pod memory 431 of 512 MiB, high water 410; this start needs about 61 MiB"
    )
    assert need_message(used(431), cost(512, 0, known=False), BOUNDS) == (
        "pod memory 431 of 512 MiB, high water 410; this start may need up to 512 MiB"
    )
    assert turn_message(12, 3, OPEN, BOUNDS) == "12 of 12 starts are under way"
    assert turn_message(10, 9, OPEN, BOUNDS) == "9 of 9 starts that compile are under way"


def test_places_are_counted_as_people_do() -> None:
    """4th in line, and not 4."""
    numbers = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th",
               21: "21st", 111: "111th", 102: "102nd"}  # fmt: skip
    assert {n: ordinal(n) for n in numbers} == numbers


@given(st.integers(17, 1 << 40), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 64))
def test_the_low_watermark_never_lies_above_the_high_one_nor_that_in_the_reserve(
    limit: int, low: float, high: float, reserve: int
) -> None:
    """Whatever an admin sets: fractions the wrong way round, a reserve larger than the pod."""
    bounds = Bounds(low_fraction=low, high_fraction=high, reserve_bytes=reserve)
    assert 0 <= bounds.low(limit) <= bounds.high(limit) <= limit
    assert bounds.high(limit) == max(0, min(int(limit * high), limit - reserve))


def test_the_bounds_are_the_settings() -> None:
    """Each setting reaches the gate under its own name."""
    bounds = Bounds.of(Settings(starts_max=3, memory_low_fraction=0.1, look_again_s=9))
    assert (bounds.starts_max, bounds.low_fraction, bounds.look_again_s) == (3, 0.1, 9)
    assert Bounds.of(Settings()) == Bounds()


_WAITING = st.lists(
    st.builds(
        lambda mib, keep, known, passes: one(mib, keep, known=known, passes_left=passes),
        st.integers(0, 600), st.integers(0, 40), st.booleans(), st.integers(0, 3),
    ),
    max_size=20,
)  # fmt: skip


@given(_WAITING, st.lists(st.integers(0, 200).map(flight), max_size=13), st.integers(0, 600))
def test_a_decision_keeps_to_the_permits_and_asks_for_a_look_where_time_may_bring_something(
    waiting: list[Waiting], flights: list[Flight], mib: int
) -> None:
    """In any state: no permit too many, each started once and in order, no hold without an end."""
    decision = decide(used(mib), waiting, flights, OPEN, BOUNDS, 0.0)
    indexes = started(decision)
    assert not indexes or len(indexes) + len(flights) <= BOUNDS.starts_max
    assert all(a < b for a, b in pairwise(indexes))
    if isinstance(decision, Hold) and decision.reason is Reason.WAITING_FOR_MEMORY:
        assert decision.until == BOUNDS.look_again_s
        assert not set(decision.parked) - set(range(len(waiting)))
    assert decide(used(0), [Waiting(cost=FREE, passes_left=0)], [], OPEN, BOUNDS, 0.0) == Start(
        (0,), OPEN
    )
