"""A schedule that fires by the wall clock of its time zone."""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim

from sluice.event import Event
from sluice.spec import CronSpec
from sluice.triggers.firing import Due
from sluice.workflow import WorkflowKey

# A timer of the loop runs by the monotonic clock; looking again each minute follows a wall clock
# that was set, or a machine that slept.
_LOOK_AGAIN_S = 60.0
# A clock that is set back by less waits until it is there again, and nothing fires twice; one
# that is set back by more was wrong, and to wait for a wrong time could take years.
_SET_BACK = timedelta(minutes=5)
# So late is a busy machine, whatever the deadline says; with 0 nothing would ever start.
_PUNCTUAL = timedelta(seconds=10)
_STAMP = "%Y%m%dT%H%M%SZ"  # RFC 3339 without its punctuation: it stands in ids


def next_due(spec: CronSpec, after: datetime) -> datetime:
    """Return the first moment after ``after`` (aware), in UTC, at which the schedule falls due.

    DST as in Debian's cron, by the library: a time that the change skips is due right after it,
    one that happens twice is due once, the first time.
    """
    local = after.astimezone(ZoneInfo(spec.time_zone))
    # In the second of two hours the library still names the first one's time, which is over.
    moments = (moment.astimezone(UTC) for moment in CronSim(spec.schedule, local))
    return next(due for due in moments if due > after)


def last_due(spec: CronSpec, after: datetime, until: datetime) -> datetime | None:
    """Return the last moment after ``after`` and not after ``until`` that is due, or None.

    Found by halving, with ``next_due`` alone: to list all that was missed would take as long as a
    clock is wrong (Kubernetes warns of that beyond 100), and the library's way backwards through a
    change of the clock is not the way forwards.
    """
    due = next_due(spec, after)
    if due > until:
        return None
    low, high = due, until
    while high - low >= timedelta(seconds=1):
        middle = low + (high - low) / 2
        if (found := next_due(spec, middle)) <= until:
            due = low = found
        else:
            high = middle
    return due


def jitter_of(spec: CronSpec, key: WorkflowKey, uid: str, name: str) -> timedelta:
    """Return how much later this trigger starts than it falls due: less than ``spec.jitter``.

    By a hash, so that a restart finds the same; by the trigger and not by the moment, so that the
    order and the distance of what falls due stay, however long the jitter is.
    """
    digest = hashlib.sha256(f"{key}/{uid}/{name}".encode()).digest()
    part = int.from_bytes(digest[:6]) / (1 << 48)
    return timedelta(seconds=part * spec.jitter_s)


def _now() -> datetime:
    return datetime.now(UTC)


class Cron:
    """Fires between ``__enter__`` and ``__exit__``; costs one timer, no thread and no task.

    Of what fell due while nobody could look only the newest fires: up to
    ``starting_deadline_seconds`` late, if a ``cursor`` tells what came last before a restart or if
    the clock was set forward or the machine slept. Then only, no deadline means whenever.
    """

    def __init__(
        self,
        name: str,
        spec: CronSpec,
        fire: Callable[[Due], None],
        *,
        jitter: timedelta = timedelta(),
        cursor: str | None = None,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._name, self._spec, self._fire = name, spec, fire
        # All in here goes by a clock that is slow by the jitter: what falls due starts by so much
        # later, and every rule below holds as it stands.
        self._now: Callable[[], datetime] = lambda: now() - jitter
        self._looked = self._now()
        self._due = self._missed(cursor) or next_due(spec, self._looked)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def _missed(self, cursor: str | None) -> datetime | None:
        """Return what has to be made up for since ``cursor``."""
        stamp, _, schedule = (cursor or "").partition(" ")
        deadline = self._spec.starting_deadline_seconds
        if deadline is None or schedule != self._schedule:
            return None  # by another schedule nothing was missed: it was not this one's to fire
        fired = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
        oldest = self._looked - timedelta(seconds=deadline, microseconds=1)
        return last_due(self._spec, max(fired, oldest), self._looked)

    @property
    def _schedule(self) -> str:
        return f"{self._spec.time_zone} {self._spec.schedule}"

    def _arm(self) -> None:
        left_s = (self._due - self._now()).total_seconds()
        pause_s = min(max(left_s, 0.0), _LOOK_AGAIN_S)
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        now, due = self._now(), self._due
        if now >= due:
            self._due = next_due(self._spec, due)
            if self._due <= now:  # more than one: the newest stands for all
                due = last_due(self._spec, due, now) or due
                self._due = next_due(self._spec, now)
        elif now < self._looked - _SET_BACK:
            self._due = next_due(self._spec, now)
        self._looked = now
        self._arm()  # before it fires: whoever is called may disarm it, or fail
        if due <= now and self._may_start(due):
            self._fire(Due(self._event(due), f"{due:{_STAMP}} {self._schedule}", self._again(due)))

    def _may_start(self, due: datetime) -> bool:
        deadline = self._spec.starting_deadline_seconds
        late = self._now() - due
        return deadline is None or late <= max(timedelta(seconds=deadline), _PUNCTUAL)

    def _again(self, due: datetime) -> Callable[[], bool]:
        """Return whether a refused start may be tried again: until the next, in its deadline."""
        tried_again = bool(self._spec.starting_deadline_seconds)
        return lambda: tried_again and self._now() < self._due and self._may_start(due)

    def _event(self, due: datetime) -> Event:
        # The id says what fell due when: handed in twice, by two processes or two revisions, it is
        # accepted once. No HTTP caller can take it before: the ids that one may choose have no @.
        return Event(
            kind="cron", trigger=self._name, data=self._spec.data, time=due,
            id=f"cron@{self._name}-{due:{_STAMP}}",
        )  # fmt: skip
