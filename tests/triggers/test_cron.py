import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import WallClock, in_virtual_time, workflow
from sluice import triggers
from sluice.event import Event
from sluice.triggers.cron import Cron, next_due
from sluice.workflow import CronSpec

ZURICH = "Europe/Zurich"
START = datetime(2026, 3, 2, 12, 0, 0, tzinfo=UTC)


def spec(schedule: str, time_zone: str = "UTC") -> CronSpec:
    return CronSpec(schedule=schedule, time_zone=time_zone, data={"a": 1})


def dues(cron: CronSpec, after: datetime) -> Iterator[datetime]:
    while True:
        after = next_due(cron, after)
        yield after


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestNextDue:
    @pytest.mark.parametrize(("schedule", "zone", "after", "due"), [
        ("*/5 * * * *", "UTC", "2026-03-02 12:00:00.000001", "2026-03-02 12:05:00"),
        ("*/5 * * * *", "UTC", "2026-03-02 12:04:59.999999", "2026-03-02 12:05:00"),
        ("*/5 * * * *", "UTC", "2026-03-02 12:05:00", "2026-03-02 12:10:00"),
        ("*/10 * * * * *", "UTC", "2026-03-02 12:05:01", "2026-03-02 12:05:10"),
        ("30 2 * * *", "Asia/Kathmandu", "2026-03-02 12:00:00", "2026-03-02 20:45:00"),
        ("0 9 * * MON", "America/New_York", "2026-03-07 00:00:00", "2026-03-09 13:00:00"),
        ("0 0 29 2 *", "UTC", "2026-03-02 12:00:00", "2028-02-29 00:00:00"),
        ("0 0 * * 7", "UTC", "2026-03-02 12:00:00", "2026-03-08 00:00:00"),
    ])  # fmt: skip
    def test_a_schedule_is_due_at_its_zones_wall_clock(
        self, schedule: str, zone: str, after: str, due: str
    ) -> None:
        """Five fields or six, any zone: the next moment, never the one that is being left."""
        assert next_due(spec(schedule, zone), utc(after)) == utc(due)

    def test_a_time_that_spring_skips_is_due_right_after_it(self) -> None:
        """A nightly job at 02:30 still runs on the night that has no 02:30, once."""
        nightly = dues(spec("30 2 * * *", ZURICH), utc("2026-03-28 12:00"))
        assert [next(nightly) for _ in range(2)] == [
            utc("2026-03-29 01:00"),  # 03:00 in summer time
            utc("2026-03-30 00:30"),
        ]

    def test_a_time_that_autumn_repeats_is_due_once(self) -> None:
        """A nightly job at 02:30 does not run twice on the night that has two."""
        nightly = dues(spec("30 2 * * *", ZURICH), utc("2025-10-25 12:00"))
        assert [next(nightly) for _ in range(2)] == [
            utc("2025-10-26 00:30"),
            utc("2025-10-27 01:30"),
        ]

    def test_a_start_within_the_repeated_hour_does_not_look_back(self) -> None:
        """Armed in the second 02:10, the 02:30 that is over is not due: it once fired for ever."""
        assert next_due(spec("30 2 * * *", ZURICH), utc("2025-10-26 01:10")) == utc(
            "2025-10-27 01:30"
        )

    def test_an_every_hour_job_runs_every_hour_of_every_day(self) -> None:
        """A day of 25 hours has 25 of them, one of 23 has 23."""
        hourly = spec("0 * * * *", ZURICH)
        for day, hours in (("2025-10-26", 25), ("2026-03-29", 23)):
            local = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(ZURICH))
            end = (local + timedelta(days=1)).astimezone(UTC)
            seen = []
            for due in dues(hourly, local.astimezone(UTC) - timedelta(seconds=1)):
                if due >= end:
                    break
                seen.append(due)
            assert len(set(seen)) == len(seen) == hours

    @given(
        st.sampled_from(
            ["30 2 * * *", "0 */2 * * *", "15 0,1,2,3 * * *", "*/20 * * * *", "10 5 1,2,3 * * *",
             "0 0 * * SUN", "0 0 0 * * *", "59 59 23 L * *"]
        ),
        st.sampled_from([ZURICH, "America/Havana", "Africa/Cairo", "Australia/Lord_Howe", "UTC"]),
        st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31)).map(  # noqa: DTZ001
            lambda at: at.replace(tzinfo=UTC)
        ),
        st.timedeltas(timedelta(0), timedelta(hours=3)),
    )  # fmt: skip
    def test_due_times_lie_ahead_and_never_run_backwards(
        self, schedule: str, zone: str, after: datetime, later: timedelta
    ) -> None:
        """Through every change of any zone's clock: no moment of the past, and no step back."""
        due = next_due(spec(schedule, zone), after)
        assert due > after
        assert next_due(spec(schedule, zone), after + later) >= due or after + later >= due


def fired(
    cron: CronSpec,
    hours: float,
    meanwhile: Callable[[WallClock], None] = lambda _: None,
    start: datetime = START,
) -> list[datetime]:
    """Arm a schedule for some hours, set the clock after the first of them, return what fired."""
    events: list[Event] = []

    async def live() -> None:
        clock = WallClock(start)
        with Cron("tick", cron, events.append, now=clock):
            await asyncio.sleep(min(hours, 1) * 3600)
            meanwhile(clock)
            await asyncio.sleep(max(hours - 1, 0) * 3600)
        await asyncio.sleep(7200)  # disarmed: nothing of it may still fire

    in_virtual_time(live())
    return [event.time for event in events]


def every(minutes: int, count: int, start: datetime = START) -> list[datetime]:
    return [start + timedelta(minutes=minutes * (i + 1)) for i in range(count)]


class TestCron:
    def test_it_fires_at_each_due_time_and_not_after_it_is_disarmed(self) -> None:
        """A schedule fires on time and once each, and ends with its block."""
        assert fired(spec("*/10 * * * *"), 1.01) == every(10, 6)

    def test_a_schedule_of_seconds_fires_each_time(self) -> None:
        """Six fields are seconds first."""
        assert len(fired(spec("*/10 * * * * *"), 0.1)) == 36

    def test_an_event_carries_the_trigger_its_data_and_the_due_time(self) -> None:
        """A guest can tell which schedule it was, and for when."""
        events: list[Event] = []

        async def live() -> None:
            with Cron("tick", spec("0 * * * *"), events.append, now=WallClock(START)):
                await asyncio.sleep(3601)

        in_virtual_time(live())
        [event] = events
        assert (event.kind, event.trigger, event.data) == ("cron", "tick", {"a": 1})
        assert event.time == START + timedelta(hours=1)

    def test_a_clock_set_forward_fires_once_for_all_it_skipped(self) -> None:
        """A machine that slept a day runs an hourly job once when it wakes, then on time."""
        dues = fired(spec("0 * * * *"), 2.5, lambda clock: clock.set(timedelta(hours=24)))
        # 13:00 fires, then the clock says 13:00 of the next day.
        assert dues == [
            START + timedelta(hours=1),
            START + timedelta(hours=2),
            START + timedelta(hours=26),
        ]

    def test_a_clock_set_back_a_little_fires_nothing_twice(self) -> None:
        """NTP's corrections never repeat an execution."""
        dues = fired(spec("*/10 * * * *"), 2.1, lambda clock: clock.set(timedelta(minutes=-2)))
        assert dues == every(10, 12)

    def test_a_clock_set_back_far_is_followed(self) -> None:
        """A clock that was a year ahead does not silence a schedule for a year."""
        dues = fired(spec("*/10 * * * *"), 2.1, lambda clock: clock.set(timedelta(days=-365)))
        back = START + timedelta(hours=1) - timedelta(days=365)
        assert dues == every(10, 6) + every(10, 6, back)

    def test_a_trigger_that_fails_once_fires_again(self) -> None:
        """An error in what an event starts does not end its schedule."""
        calls: list[Event] = []
        errors: list[dict[str, object]] = []

        def fire(event: Event) -> None:
            calls.append(event)
            raise RuntimeError("no")

        async def live() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
            with Cron("tick", spec("*/10 * * * *"), fire, now=WallClock(START)):
                await asyncio.sleep(3601)

        in_virtual_time(live())
        assert len(calls) == len(errors) == 6

    def test_a_trigger_disarmed_by_what_it_fired_stays_so(self) -> None:
        """A workflow that is deleted by its own event does not fire from the grave."""
        calls: list[Event] = []

        async def live() -> None:
            cron = Cron("tick", spec("*/10 * * * *"), fire, now=WallClock(START))

            def disarm() -> None:
                cron.__exit__(None, None, None)

            disarms.append(disarm)
            with cron:
                await asyncio.sleep(3601)

        disarms: list[Callable[[], None]] = []

        def fire(event: Event) -> None:
            calls.append(event)
            disarms[0]()

        in_virtual_time(live())
        assert len(calls) == 1


class TestArm:
    def test_all_triggers_are_armed_and_disarmed_together(self) -> None:
        """Closing what ``arm`` gave ends every schedule of the workflow."""
        wanted = workflow(
            b"",
            triggers=[
                {"name": "a", "cron": {"schedule": "* * * * * *"}},
                {"name": "b", "cron": {"schedule": "* * * * * *"}},
                {"name": "now", "manual": {}},
            ],
        )
        seen: list[str] = []

        async def live() -> None:
            loop = asyncio.get_running_loop()
            with triggers.arm(wanted, lambda event: seen.append(event.trigger)):
                assert _timers(loop) == 2
            assert _timers(loop) == 0

        in_virtual_time(live())

    def test_one_that_cannot_be_armed_disarms_the_others(self) -> None:
        """All or none: no schedule of a workflow that failed to start is left running."""
        wanted = workflow(
            b"",
            triggers=[
                {"name": "a", "cron": {"schedule": "* * * * * *"}},
                {"name": "b", "cron": {"schedule": "never"}},
            ],
        )

        async def live() -> None:
            with pytest.raises(Exception, match="fields"):
                triggers.arm(wanted, lambda _: None)
            assert _timers(asyncio.get_running_loop()) == 0

        in_virtual_time(live())


def _timers(loop: asyncio.AbstractEventLoop) -> int:
    return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]
