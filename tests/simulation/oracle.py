"""What the rules of the rollout allow, said a second time and as simply as it can be."""

from collections import Counter
from collections.abc import Callable, Sequence

from sluice.reasons import Reason
from sluice.rollout.gate import Bounds, Decision, Flight, GateState, Hold, Start, Waiting
from sluice.rollout.gate import decide as real_decide
from sluice.rollout.memory import MemoryReading


class Broken(AssertionError):  # noqa: N818 - it is no error of the simulation's
    """A rule was broken."""


def must(true: object, rule: str) -> None:
    if not true:
        raise Broken(rule)


class Oracle:
    """Takes the place of ``decide``, hands on to it and judges each of its decisions.

    The rollout survives what its pump meets; so ``stop`` is called when a rule is broken.
    """

    def __init__(self, stop: Callable[[], object] = lambda: None) -> None:
        self._stop = stop
        self.broken: Broken | None = None
        self.shut = False
        self.decisions = self.starts = 0
        self._last: MemoryReading | None = None
        self._passed: Counter[Waiting] = Counter()
        self._tried: set[Waiting] = set()

    def decide(
        self,
        reading: MemoryReading,
        waiting: Sequence[Waiting],
        in_flight: Sequence[Flight],
        state: GateState,
        bounds: Bounds,
        now: float,
        *,
        waits: int | None = None,
        gave_back: int | None = 0,
    ) -> Decision:
        decision = real_decide(
            reading, waiting, in_flight, state, bounds, now, waits=waits, gave_back=gave_back
        )
        self.decisions += 1
        try:
            trimmed = gave_back is not None
            self._judge(decision, reading, waiting, in_flight, state, bounds, now, trimmed)
        except Broken as e:
            self.broken = e
            self._stop()
        return decision

    def _judge(
        self,
        decision: Decision,
        reading: MemoryReading,
        waiting: Sequence[Waiting],
        in_flight: Sequence[Flight],
        state: GateState,
        bounds: Bounds,
        now: float,
        trimmed: bool,
    ) -> None:
        must(reading is not self._last, "two decisions on one reading")
        self._last = reading
        if now - reading.at > bounds.reading_age_s_max:
            must(isinstance(decision, Hold), "a start on a stale reading")
            return
        self._look(reading, bounds, trimmed=trimmed)
        must(decision.state.shut == self.shut, "the gate is not where the watermarks say")
        started = decision.indexes if isinstance(decision, Start) else ()
        must(list(started) == sorted(set(started)), "one was started twice, or out of order")
        _Judge(reading, waiting, in_flight, bounds, self.shut, state).go_through(
            started, decision.parked
        )
        self._tried.update(waiting[index] for index in decision.parked)
        if isinstance(decision, Start):
            self.starts += len(started)
            self._count_passes(waiting, decision, bounds)
        else:
            memory = decision.reason is Reason.WAITING_FOR_MEMORY
            must(memory or decision.until is None, "time is waited for that brings nothing")
            must(not memory or decision.until, "memory is not looked at again")

    def _look(self, reading: MemoryReading, bounds: Bounds, *, trimmed: bool) -> None:
        if reading.used > bounds.high(reading.limit) and trimmed:
            self.shut = True
        if reading.used <= bounds.low(reading.limit):
            self.shut = False

    def _count_passes(self, waiting: Sequence[Waiting], start: Start, bounds: Bounds) -> None:
        going = [i for i in start.indexes if waiting[i].cost.compile_bytes]
        counted = Counter(start.passed)
        for index, one in enumerate(waiting):
            if one.cost.compile_bytes and index not in start.indexes + start.parked:
                passes = sum(1 for i in going if i > index)
                must(counted[index] == passes, "passes are not counted")
                must(passes <= max(0, one.passes_left), "one was passed more often than it may be")
                self._passed[one] += passes
                may = self._passed[one] <= bounds.passes_max
                must(
                    may or one in self._tried, "one that was never tried alone was passed too often"
                )


class _Judge:
    """Goes through the line as one would by hand."""

    def __init__(
        self,
        reading: MemoryReading,
        waiting: Sequence[Waiting],
        in_flight: Sequence[Flight],
        bounds: Bounds,
        shut: bool,
        state: GateState,
    ) -> None:
        self.waiting, self.bounds, self.shut = waiting, bounds, shut
        self.high = bounds.high(reading.limit)
        self.used, self.limit = reading.used, reading.limit
        self.keeps = [flight.cost.keep_bytes for flight in in_flight]
        self.peaks = [f.cost.compile_bytes for f in in_flight if not f.done]
        self.child_runs = any(f.cap_bytes for f in in_flight)
        self.beside = state.beside_bytes if self.child_runs else 0
        self.batch = state.batch

    def go_through(self, started: Sequence[int], parked: Sequence[int]) -> None:
        overtaken = False
        for index, one in enumerate(self.waiting):
            compiles = one.cost.compile_bytes > 0
            if index in started:
                must(len(self.keeps) < self.bounds.starts_max, "more starts than permits")
                must(self.may_start(one), f"{one.cost} was started, and may not be")
                must(not (one.lowest and compiles and overtaken), "the lowest went before others")
                self.keeps.append(one.cost.keep_bytes)
                self.beside += one.cost.keep_bytes
                if compiles:
                    self.peaks.append(one.cost.compile_bytes)
            elif len(self.keeps) < self.bounds.starts_max:
                fits = self.may_start(one)
                must(compiles or not fits, "a cached one waits though it fits")
                # One with something to compile may also wait for one before it.
                must(overtaken or self.turned_away(one) or not fits, "one waits though it fits")
                overtaken = overtaken or (compiles and not one.parked and index not in parked)

    def turned_away(self, one: Waiting) -> bool:
        compiles = one.cost.compile_bytes > 0
        parked_before = any(other.parked for other in self.waiting)  # it may be waited for
        return compiles and (len(self.peaks) >= self.batch or parked_before)

    def may_start(self, one: Waiting) -> bool:
        keeps = sum(self.keeps) + one.cost.keep_bytes
        room = self.high - self.used - keeps
        beside = self.beside + one.cost.keep_bytes
        fits_beside = not self.child_runs or beside <= (self.limit - self.high) // 2
        if not one.cost.compile_bytes:
            return room >= 0 and fits_beside
        if self.peaks and (self.shut or len(self.peaks) >= self.bounds.compile_starts_max):
            return False
        peaks = sorted([*self.peaks, one.cost.compile_bytes])[-self.bounds.compiles_max :]
        if sum(peaks) <= room and fits_beside:
            return True
        least = min(one.cost.compile_bytes, self.bounds.compile_bytes_min)
        return not self.peaks and not one.cost.known and least <= room
