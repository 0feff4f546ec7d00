"""What the line waits for, how often and how long; and the two events of a real hold."""

from collections.abc import Callable
from dataclasses import dataclass

from sluice.reasons import Reason
from sluice.rollout.gate import Decision, Hold, Start, mib
from sluice.rollout.memory import MemoryReading

_REASONS = (Reason.WAITING_FOR_MEMORY, Reason.WAITING_FOR_TURN)


@dataclass(frozen=True, slots=True)
class HoldEvent:
    """A hold has ``begun`` or has ended after ``seconds``; ``message`` says the rest."""

    begun: bool
    reason: Reason
    message: str
    seconds: float


class Holds:
    """Counts and times what the line waits for; tells of a hold when it begins and when it ends.

    A line waits all the time in a rollout, for permits or for room beside what is under way, and
    is timed. An event is worth only what starts cannot end: memory above the watermarks, or too
    little for anybody with no compile under way.
    """

    def __init__(self, told: Callable[[HoldEvent], None]) -> None:
        self._told = told
        self._seconds = dict.fromkeys(_REASONS, 0.0)
        self.counts = dict.fromkeys(_REASONS, 0)
        self.hold: Hold | None = None
        self.latest: Hold | None = None  # what those who still wait are told after a start, too
        self._since = 0.0
        self.held_since: float | None = None

    def seconds(self, now: float) -> dict[Reason, float]:
        seconds = dict(self._seconds)
        if self.hold:
            seconds[self.hold.reason] += now - self._since
        return seconds

    def decided(
        self, decision: Decision, reading: MemoryReading | None, parked: int, now: float
    ) -> None:
        """Take note of a decision on ``reading``; ``parked`` are those that fit in no way."""
        hold = decision if isinstance(decision, Hold) else None
        self._wait(hold, now)
        self.latest = hold or self.latest
        shut = decision.state.shut
        if hold and hold.reason is Reason.WAITING_FOR_MEMORY:
            # Only begun here: one that waits for room beside others may be parked at the next look.
            if self.held_since is None and (shut or hold.missing_bytes):
                self.held_since = now
                self._told(HoldEvent(True, hold.reason, hold.message, 0.0))
        elif not shut and not parked:
            batch = len(decision.indexes) if isinstance(decision, Start) else 0
            self._resume(reading, f"next batch {batch}" if batch else "permits decide again", now)

    def nobody_waits(self, reading: MemoryReading | None, now: float) -> None:
        self._wait(None, now)
        self.latest = None
        self._resume(reading, "nobody waits any more", now)

    def _wait(self, hold: Hold | None, now: float) -> None:
        before, self.hold = self.hold, hold
        if before and hold and before.reason is hold.reason:
            return
        if before:
            self._seconds[before.reason] += now - self._since
        if hold:
            self.counts[hold.reason] += 1
            self._since = now

    def _resume(self, reading: MemoryReading | None, then: str, now: float) -> None:
        if self.held_since is None:
            return
        seconds, self.held_since = now - self.held_since, None
        memory = f"memory {mib(reading.used)} of {mib(reading.limit)} MiB " if reading else ""
        message = f"{memory}after {seconds:.0f} s; {then}"
        self._told(HoldEvent(False, Reason.WAITING_FOR_MEMORY, message, seconds))
