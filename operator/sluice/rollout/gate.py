"""Who may start now, and what the others are told. Pure: numbers in, a decision and its words out.

The rules, in order:

1. At most ``starts_max`` starts are under way. Those that have something to compile take at most
   three quarters of the permits, so that cached ones never wait behind compiles.
2. A cached start needs its keep below the high watermark, and nothing else.
3. A start with something to compile is admitted if its predicted peak fits under the high
   watermark with what is under way: used + the ``compiles_max`` largest peaks + every keep. What
   a running child uses already is in ``used`` too and is counted twice: too much is safe.
4. Above the high watermark the gate shuts, and opens again at the low one. Between the two it
   lets compiles through one at a time: with none under way nothing would bring memory down, and
   the line would stand for ever.
5. One whose cost is not known may gamble if no other compiles: its child is capped at what there
   is. One that is known not to fit then is parked: it holds nobody up.
6. A later start that fits may pass an earlier one that does not, a bounded number of times; then
   the line waits for the earlier one. After a failed try it may be passed twice as often.
7. The number of compiles under way at once halves when the gate shuts and doubles after a batch
   that met no want of memory.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from sluice.reasons import Reason
from sluice.rollout.costs import Cost
from sluice.rollout.memory import MemoryReading
from sluice.settings import MIB, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    starts_max: int = 12
    compiles_max: int = 1
    compile_bytes_max: int = 512 * MIB
    compile_bytes_min: int = 64 * MIB  # less is no try worth making for an unknown module
    low_fraction: float = 0.70
    high_fraction: float = 0.80
    reserve_bytes: int = 16 * MIB
    reading_age_s_max: float = 1.0
    look_again_s: float = 0.5
    passes_max: int = 24

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            starts_max=settings.starts_max,
            compiles_max=settings.compiles_max,
            compile_bytes_max=settings.compile_memory_bytes_max,
            compile_bytes_min=settings.compile_bytes_min,
            low_fraction=settings.memory_low_fraction,
            high_fraction=settings.memory_high_fraction,
            reserve_bytes=settings.memory_reserve_bytes,
            reading_age_s_max=settings.reading_age_s_max,
            look_again_s=settings.look_again_s,
        )

    @property
    def compile_starts_max(self) -> int:
        """Starts at once that have not compiled yet; more would only wait for the slot."""
        return max(1, self.starts_max - max(1, self.starts_max // 4))

    def high(self, limit: int) -> int:
        return max(0, min(int(limit * self.high_fraction), limit - self.reserve_bytes))

    def low(self, limit: int) -> int:
        # In proportion where the reserve decides, or the low one could lie above the high one.
        return int(self.high(limit) * min(1.0, self.low_fraction / self.high_fraction))

    def beside(self, limit: int) -> int:
        """Return what may be kept beside a child whose cap reaches up to the high watermark."""
        return (limit - self.high(limit)) // 2


@dataclass(eq=False, slots=True, kw_only=True)
class Waiting:
    """One that waits; ``passes_left``: how many later ones may still go before it."""

    cost: Cost
    passes_left: int
    lowest: bool = False  # starts only if nobody else could
    parked: bool = False  # was found not to fit even by itself

    def least(self, bounds: Bounds) -> int:
        """Return the least memory that a start is worth trying with."""
        compile_bytes = self.cost.compile_bytes
        if not self.cost.known:
            compile_bytes = min(compile_bytes, bounds.compile_bytes_min)
        return compile_bytes + self.cost.keep_bytes


@dataclass(eq=False, slots=True, kw_only=True)
class Flight:
    """A start under way."""

    cost: Cost
    done: bool = False  # its compile is over
    cap_bytes: int = 0  # what its child may take, while it runs

    @property
    def outstanding(self) -> int:
        """The peak still to come."""
        return 0 if self.done else self.cost.compile_bytes


@dataclass(frozen=True, slots=True)
class GateState:
    """What one decision hands to the next."""

    batch: int  # compiles under way at once, for now; at most bounds.compile_starts_max
    shut: bool = False  # above the high watermark, and not yet below the low one
    strained: bool = False  # memory was wanting since the last batch settled
    beside_bytes: int = 0  # admitted beside a child since the last cap was given; then 0 again

    @classmethod
    def first(cls, bounds: Bounds) -> Self:
        return cls(batch=bounds.compile_starts_max)

    def after_batch(self, bounds: Bounds) -> Self:
        if self.strained:
            return replace(self, strained=False)
        return replace(self, batch=min(self.batch * 2, bounds.compile_starts_max))


@dataclass(frozen=True, slots=True)
class Start:
    """Release these of the line as one batch; ``passed`` names who was passed, once for each."""

    indexes: tuple[int, ...]
    state: GateState
    passed: tuple[int, ...] = ()
    parked: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Hold:
    """Release nobody and look again at ``until``; ``message`` is told of the whole line.

    ``missing_bytes``: with no compile under way the one that needs least still lacks so much.
    """

    reason: Reason
    message: str
    until: float | None  # None: no time brings it, only what settles
    missing_bytes: int
    state: GateState
    parked: tuple[int, ...] = ()


Decision = Start | Hold


def decide(
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
    """Return which of ``waiting``, the first in its order, start now.

    ``waits`` is the length of the line if ``waiting`` is but its head. ``gave_back`` is what the
    trim before the reading gave back; None: there was none, and the reading only overestimates,
    so it may let some start but is no reason to shut the gate or to park anybody.
    """
    waits = len(waiting) if waits is None else waits
    if now - reading.at > bounds.reading_age_s_max:
        message = f"the last reading of memory is {now - reading.at:.1f} s old; {waits} wait"
        again = now + bounds.look_again_s
        return Hold(Reason.WAITING_FOR_MEMORY, message, again, 0, state)
    round_ = _Round(
        reading=reading,
        bounds=bounds,
        state=_opened(state, reading, bounds, gave_back),
        trimmed=gave_back is not None,
        free=headroom(reading, in_flight, bounds),
        peaks=[flight.outstanding for flight in in_flight if flight.outstanding],
        permits=bounds.starts_max - len(in_flight),
        guarded=any(flight.cap_bytes for flight in in_flight),
    )
    for index, candidate in enumerate(waiting):
        if round_.permits <= 0:
            break
        round_.consider(index, candidate)
    return _outcome(round_, waiting, now, waits, gave_back)


def headroom(reading: MemoryReading, in_flight: Collection[Flight], bounds: Bounds) -> int:
    """Return what lies below the high watermark when all under way keep what they will keep."""
    keeps = sum(flight.cost.keep_bytes for flight in in_flight)
    return bounds.high(reading.limit) - reading.used - keeps


def _opened(
    state: GateState, reading: MemoryReading, bounds: Bounds, gave_back: int | None
) -> GateState:
    """Return the state after the watermarks were looked at."""
    if state.shut:
        return replace(state, shut=reading.used > bounds.low(reading.limit))
    if gave_back is None or reading.used <= bounds.high(reading.limit):
        return state
    return replace(state, shut=True, batch=max(1, state.batch // 2))


@dataclass(slots=True)
class _Round:
    """What is left to give while the line is gone through once."""

    reading: MemoryReading
    bounds: Bounds
    state: GateState
    trimmed: bool
    free: int
    peaks: list[int]  # of the compiles to come, the largest first
    permits: int
    guarded: bool  # a child runs whose cap reaches up to the high watermark
    chosen: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)
    parked: list[int] = field(default_factory=list)
    patience: int = 0  # how often those that were skipped may still be passed
    behind: bool = False  # one was skipped that is not parked
    wanting: bool = False  # somebody would start if there were more memory
    closed: bool = False  # nobody else with something to compile starts

    def consider(self, index: int, candidate: Waiting) -> None:
        if not candidate.cost.compile_bytes:
            if self._beside(candidate):
                self._take(index, candidate)
            else:
                self.wanting = True
        elif not self.closed:
            self._compile(index, candidate)

    def _compile(self, index: int, candidate: Waiting) -> None:
        if len(self.peaks) >= self.state.batch or (candidate.lowest and self.behind):
            self.closed = True
        elif self.state.shut and self.peaks:
            self.wanting = self.closed = True
        elif self._fits(candidate) or self._gambles(candidate):
            self._pass()
            self._take(index, candidate)
        else:
            self.wanting = True
            self._stays(index, candidate)

    def _pass(self) -> None:
        if self.skipped:
            self.passed += self.skipped
            self.patience -= 1
            self.closed = self.patience <= 0

    def _stays(self, index: int, candidate: Waiting) -> None:
        if self.peaks and candidate.passes_left > 0:
            left = candidate.passes_left
            self.patience = min(self.patience, left) if self.skipped else left
            self.skipped.append(index)
            self.behind |= not candidate.parked
        elif not self.peaks and self.trimmed and self.free > 0:
            self.parked.append(index)
        else:
            self.closed = True  # the line waits for it, or for a reading that is to be relied on

    def _beside(self, candidate: Waiting) -> bool:
        beside = self.bounds.beside(self.reading.limit) - self.state.beside_bytes
        keep = candidate.cost.keep_bytes
        return keep <= self.free and (not self.guarded or keep <= beside)

    def _fits(self, candidate: Waiting) -> bool:
        peaks = sorted([*self.peaks, candidate.cost.compile_bytes], reverse=True)
        need = sum(peaks[: self.bounds.compiles_max]) + candidate.cost.keep_bytes
        return need <= self.free and self._beside(candidate)

    def _gambles(self, candidate: Waiting) -> bool:
        alone = not self.peaks and not candidate.cost.known
        return alone and candidate.least(self.bounds) <= self.free

    def _take(self, index: int, candidate: Waiting) -> None:
        self.chosen.append(index)
        self.permits -= 1
        self.free -= candidate.cost.keep_bytes
        if self.guarded:
            beside = self.state.beside_bytes + candidate.cost.keep_bytes
            self.state = replace(self.state, beside_bytes=beside)
        if candidate.cost.compile_bytes:
            self.peaks.append(candidate.cost.compile_bytes)


def _outcome(
    round_: _Round, waiting: Sequence[Waiting], now: float, waits: int, gave_back: int | None
) -> Decision:
    state, bounds = round_.state, round_.bounds
    state = replace(state, strained=state.strained or round_.wanting)
    parked = tuple(round_.parked)
    if round_.chosen:
        return Start(tuple(round_.chosen), state, tuple(round_.passed), parked)
    if not round_.wanting:
        message = turn_message(bounds.starts_max - round_.permits, len(round_.peaks), state, bounds)
        return Hold(Reason.WAITING_FOR_TURN, f"{message}; {waits} wait", None, 0, state, parked)
    missing = 0
    if round_.trimmed and not round_.peaks:
        missing = max(0, min(w.least(bounds) for w in waiting) - round_.free)
    message = _memory_message(round_, waits, missing, gave_back)
    until = now + bounds.look_again_s
    return Hold(Reason.WAITING_FOR_MEMORY, message, until, missing, state, parked)


def _memory_message(round_: _Round, waits: int, missing: int, gave_back: int | None) -> str:
    reading, bounds = round_.reading, round_.bounds
    high = bounds.high(reading.limit)
    trim = "" if gave_back is None else f" after trim (gave back {mib(gave_back)} MiB)"
    memory = f"memory {mib(reading.used)} of {mib(reading.limit)} MiB{trim}"
    if missing:
        return (
            f"{memory} with no compile under way, high water {mib(high)}; "
            f"{mib(missing)} MiB are missing for the smallest of {waits} that wait"
        )
    if round_.state.shut:
        low = mib(bounds.low(reading.limit))
        return f"{memory}; {waits} workflows wait until it falls to {low}"
    count = bounds.starts_max - round_.permits
    return (
        f"{memory}, high water {mib(high)}; no more fit beside the {count} under way; {waits} wait"
    )


def turn_message(in_flight: int, compiling: int, state: GateState, bounds: Bounds) -> str:
    """Return why a permit is not free, or one for a start with something to compile is not."""
    if in_flight >= bounds.starts_max:
        return f"{in_flight} of {bounds.starts_max} starts are under way"
    return f"{compiling} of {state.batch} starts that compile are under way"


def need_message(reading: MemoryReading, cost: Cost, bounds: Bounds) -> str:
    """Return what one that waits for memory is told: what there is, and what it needs."""
    need, high = mib(cost.compile_bytes + cost.keep_bytes), mib(bounds.high(reading.limit))
    about = f"needs about {need} MiB" if cost.known else f"may need up to {need} MiB"
    memory = f"pod memory {mib(reading.used)} of {mib(reading.limit)} MiB, high water {high}"
    return f"{memory}; this start {about}"


def mib(bytes_: int) -> int:
    return round(bytes_ / MIB)


def ordinal(place: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{'th' if 11 <= place % 100 <= 13 else ending}"
