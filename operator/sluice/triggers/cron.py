"""A schedule that fires by the wall clock of its time zone."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim

from sluice.event import Event
from sluice.workflow import CronSpec

# A timer of the loop runs by the monotonic clock; looking again each minute follows a wall clock
# that was set, or a machine that slept.
_LOOK_AGAIN_S = 60.0
# A clock that is set back by less waits until it is there again, and nothing fires twice; one
# that is set back by more was wrong, and to wait for a wrong time could take years.
_SET_BACK = timedelta(minutes=5)


def next_due(spec: CronSpec, after: datetime) -> datetime:
    """Return the first moment after ``after`` (aware), in UTC, at which the schedule falls due.

    DST as in Debian's cron, by the library: a time that the change skips is due right after it,
    one that happens twice is due once, the first time.
    """
    local = after.astimezone(ZoneInfo(spec.time_zone))
    # In the second of two hours the library still names the first one's time, which is over.
    moments = (moment.astimezone(UTC) for moment in CronSim(spec.schedule, local))
    return next(due for due in moments if due > after)


def _now() -> datetime:
    return datetime.now(UTC)


class Cron:
    """Fires between ``__enter__`` and ``__exit__``; costs one timer, no thread and no task.

    What fell due while nobody could look (a clock set forward, a machine asleep) fires once.
    """

    def __init__(
        self,
        name: str,
        spec: CronSpec,
        fire: Callable[[Event], None],
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._name, self._spec, self._fire, self._now = name, spec, fire, now
        self._looked = now()
        self._due = next_due(spec, self._looked)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def _arm(self) -> None:
        left_s = (self._due - self._now()).total_seconds()
        pause_s = min(max(left_s, 0.0), _LOOK_AGAIN_S)
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        now, due = self._now(), self._due
        if now >= due or now < self._looked - _SET_BACK:
            self._due = next_due(self._spec, now)
        self._looked = now
        self._arm()  # before it fires: whoever is called may disarm it, or fail
        if now >= due:
            self._fire(Event(kind="cron", trigger=self._name, data=self._spec.data, time=due))
