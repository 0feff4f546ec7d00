import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import WallClock, in_virtual_time
from sluice.spec import CronSpec
from sluice.triggers.cron import Cron, jitter_of, last_due, next_due
from sluice.triggers.firing import Due
from sluice.workflow import WorkflowKey

ZURICH = "Europe/Zurich"
START = datetime(2026, 3, 2, 12, 0, 0, tzinfo=UTC)


def spec(schedule: str, time_zone: str = "UTC", **given: Any) -> CronSpec:
    return CronSpec(schedule=schedule, time_zone=time_zone, data={"a": 1}, **given)


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
    **given: Any,
) -> list[datetime]:
    """Arm a schedule for some hours, set the clock after the first of them, return what fired."""
    dues: list[Due] = []

    async def live() -> None:
        clock = WallClock(start)
        with Cron("tick", cron, dues.append, now=clock, **given):
            await asyncio.sleep(min(hours, 1) * 3600)
            meanwhile(clock)
            await asyncio.sleep(max(hours - 1, 0) * 3600)
        await asyncio.sleep(7200)  # disarmed: nothing of it may still fire

    in_virtual_time(live())
    return [due.event.time for due in dues]


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
        dues: list[Due] = []

        async def live() -> None:
            with Cron("tick", spec("0 * * * *"), dues.append, now=WallClock(START)):
                await asyncio.sleep(3601)

        in_virtual_time(live())
        [event] = [due.event for due in dues]
        assert (event.kind, event.trigger, event.data) == ("cron", "tick", {"a": 1})
        assert event.time == START + timedelta(hours=1)
        assert event.id == "cron@tick-20260302T130000Z"

    def test_a_clock_set_forward_fires_once_for_all_it_skipped(self) -> None:
        """A machine that slept a day runs an hourly job once when it wakes, then on time."""
        dues = fired(spec("0 * * * *"), 2.5, lambda clock: clock.set(timedelta(hours=24)))
        # 13:00 fires, then the clock says 13:00 of the next day: the newest of the 24.
        assert dues == [START + timedelta(hours=h) for h in (1, 25, 26)]

    def test_what_is_later_than_the_deadline_does_not_start(self) -> None:
        """A machine that slept past the deadline skips what it missed, and goes on on time."""

        def nap(clock: WallClock) -> None:
            clock.set(timedelta(minutes=89))  # it is 14:29 then

        for deadline, dues in ((1800, (1, 2, 3)), (1700, (1, 3))):
            cron = spec("0 * * * *", starting_deadline_seconds=deadline)
            assert fired(cron, 2, nap) == [START + timedelta(hours=h) for h in dues]

    def test_a_deadline_of_nothing_still_starts_on_time(self) -> None:
        """A timer is always a little late; 0 means no making up, and not never."""
        cron = spec("*/10 * * * *", starting_deadline_seconds=0)
        assert fired(cron, 1.01) == every(10, 6)

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
        calls: list[Due] = []
        errors: list[dict[str, object]] = []

        def fire(due: Due) -> None:
            calls.append(due)
            raise RuntimeError("no")

        async def live() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
            with Cron("tick", spec("*/10 * * * *"), fire, now=WallClock(START)):
                await asyncio.sleep(3601)

        in_virtual_time(live())
        assert len(calls) == len(errors) == 6

    def test_a_trigger_disarmed_by_what_it_fired_stays_so(self) -> None:
        """A workflow that is deleted by its own event does not fire from the grave."""
        calls: list[Due] = []

        async def live() -> None:
            cron = Cron("tick", spec("*/10 * * * *"), fire, now=WallClock(START))

            def disarm() -> None:
                cron.__exit__(None, None, None)

            disarms.append(disarm)
            with cron:
                await asyncio.sleep(3601)

        disarms: list[Callable[[], None]] = []

        def fire(due: Due) -> None:
            calls.append(due)
            disarms[0]()

        in_virtual_time(live())
        assert len(calls) == 1

    def test_five_hundred_schedules_cost_a_timer_each_and_no_task(self) -> None:
        """What is armed and not due takes no CPU but a look a minute."""

        async def live() -> None:
            loop = asyncio.get_running_loop()
            with ExitStack() as armed:
                for i in range(500):
                    armed.enter_context(Cron(f"c{i}", spec("0 0 1 1 *"), print, now=clock))
                before = looks[0]
                await asyncio.sleep(3601)
                assert looks[0] - before == 500 * 60 * 2  # to look, and to arm the timer again
                assert len(loop._scheduled) == 500  # type: ignore[attr-defined]
                assert asyncio.all_tasks() == {asyncio.current_task()}

        looks = [0]

        def clock() -> datetime:
            looks[0] += 1
            return START + timedelta(seconds=asyncio.get_running_loop().time())

        in_virtual_time(live())


class TestLastDue:
    @pytest.mark.parametrize(("schedule", "after", "until", "due"), [
        ("0 * * * *", "2026-03-02 12:00:00", "2026-03-02 12:59:59.999999", None),
        ("0 * * * *", "2026-03-02 12:00:00", "2026-03-02 13:00:00", "2026-03-02 13:00:00"),
        ("0 * * * *", "2026-03-02 11:59:59.999999", "2026-03-02 12:30:00", "2026-03-02 12:00:00"),
        ("0 * * * *", "1996-03-02 12:00:00", "2026-03-02 12:30:00", "2026-03-02 12:00:00"),
        ("* * * * * *", "2026-03-02 12:00:00", "2026-03-02 12:00:01", "2026-03-02 12:00:01"),
        ("* * * * * *", "2026-03-02 12:00:00", "2026-03-02 12:00:02", "2026-03-02 12:00:02"),
        ("* * * * * *", "2026-03-01 12:00:00", "2026-03-02 12:00:00.5", "2026-03-02 12:00:00"),
        ("* * 0 * * *", "2026-03-01 12:00:00", "2026-03-02 12:00:00", "2026-03-02 00:59:59"),
        ("0 0 1 1 *", "2026-03-02 12:00:00", "2026-03-02 11:00:00", None),
    ])  # fmt: skip
    def test_the_newest_of_what_was_missed_is_found(
        self, schedule: str, after: str, until: str, due: str | None
    ) -> None:
        """Neither the moment that was fired already, nor one that is still to come."""
        found = last_due(spec(schedule), utc(after), utc(until))
        assert found == (utc(due) if due else None)

    @given(
        st.sampled_from(["30 2 * * *", "*/20 1-3 * * *", "0 0 */2 * * *", "15 0,1,2,3 * * *"]),
        st.sampled_from([ZURICH, "America/Havana", "Australia/Lord_Howe", "UTC"]),
        st.sampled_from(["2025-10-25 12:00", "2026-03-28 12:00", "2026-04-04 12:00"]),
        st.timedeltas(timedelta(0), timedelta(days=2)),
    )
    def test_it_is_the_last_that_would_have_fired_in_turn(
        self, schedule: str, zone: str, after: str, later: timedelta
    ) -> None:
        """A restart names a moment as the operator that was away would have, through any DST."""
        cron, start = spec(schedule, zone), utc(after)
        turns = [due for due, _ in zip(dues(cron, start), range(200), strict=False)]
        passed = [due for due in turns if due <= start + later]
        assert last_due(cron, start, start + later) == (passed[-1] if passed else None)


def cursor(due: datetime, schedule: str, zone: str = "UTC") -> str:
    return f"{due:%Y%m%dT%H%M%SZ} {zone} {schedule}"


class TestMissed:
    """START is 12:00; what an earlier operator fired last is told by the cursor."""

    def test_the_newest_missed_moment_fires_once_if_it_is_recent_enough(self) -> None:
        """Of three nights away one report is made up for, if the deadline still allows it."""
        last = cursor(START - timedelta(hours=3, minutes=30), "30 * * * *")
        newest = START - timedelta(minutes=30)
        for deadline, made_up in ((1800, [newest]), (86400, [newest]), (1799, []), (0, [])):
            cron = spec("30 * * * *", starting_deadline_seconds=deadline)
            assert fired(cron, 0.6, cursor=last) == [*made_up, START + timedelta(minutes=30)]

    def test_without_a_deadline_or_a_past_nothing_is_made_up_for(self) -> None:
        """What was missed stays missed unless the author asks; a new workflow missed nothing."""
        last = cursor(START - timedelta(hours=3, minutes=30), "30 * * * *")
        on_time = [START + timedelta(minutes=30)]
        assert fired(spec("30 * * * *"), 0.6, cursor=last) == on_time
        assert fired(spec("30 * * * *", starting_deadline_seconds=86400), 0.6) == on_time

    def test_what_was_fired_is_not_missed(self) -> None:
        """A restart right after a moment does not start it a second time."""
        last = cursor(START - timedelta(minutes=30), "30 * * * *")
        cron = spec("30 * * * *", starting_deadline_seconds=86400)
        assert fired(cron, 0.6, cursor=last) == [START + timedelta(minutes=30)]

    def test_another_schedule_missed_nothing(self) -> None:
        """An edit of the schedule does not start what it would have started, had it been there."""
        for before in ("0 0 * * *", "30 * * * * "):
            last = cursor(START - timedelta(hours=12), before)
            cron = spec("30 * * * *", starting_deadline_seconds=86400)
            assert fired(cron, 0.6, cursor=last) == [START + timedelta(minutes=30)]
        elsewhere = cursor(START - timedelta(hours=12), "30 * * * *", ZURICH)
        assert fired(cron, 0.6, cursor=elsewhere) == [START + timedelta(minutes=30)]

    def test_a_cursor_from_a_clock_that_was_ahead_does_not_hold_anything_up(self) -> None:
        """A wrong clock's last word is no reason to wait for its time."""
        last = cursor(START + timedelta(days=365), "30 * * * *")
        cron = spec("30 * * * *", starting_deadline_seconds=86400)
        assert fired(cron, 0.6, cursor=last) == [START + timedelta(minutes=30)]

    def test_the_cursor_that_is_told_is_the_one_that_is_understood(self) -> None:
        """What one operator stores is what the next one goes on from."""
        told: list[str] = []

        async def live(start: datetime, last: str | None) -> None:
            cron = spec("0 * * * *", ZURICH, starting_deadline_seconds=86400)
            with Cron("tick", cron, lambda due: told.append(due.cursor), cursor=last,
                      now=WallClock(start)):  # fmt: skip
                await asyncio.sleep(3601)

        in_virtual_time(live(START, None))
        in_virtual_time(live(START + timedelta(hours=4, minutes=10), told[0]))
        assert [text.partition(" ")[0] for text in told] == [
            "20260302T130000Z", "20260302T160000Z", "20260302T170000Z",
        ]  # fmt: skip


class TestJitter:
    def test_a_start_is_late_by_its_part_and_names_the_moment_it_fell_due(self) -> None:
        """The guest reads the hour it is for, whatever minute it is."""
        started: list[datetime] = []
        times: list[datetime] = []

        async def live() -> None:
            clock = WallClock(START)

            def fire(due: Due) -> None:
                started.append(clock())
                times.append(due.event.time)

            with Cron("a", spec("0 * * * *"), fire, jitter=timedelta(minutes=7), now=clock):
                await asyncio.sleep(2 * 3600)

        in_virtual_time(live())
        assert times == [START, START + timedelta(hours=1)]
        assert started == [time + timedelta(minutes=7) for time in times]

    def test_a_jitter_longer_than_the_schedule_skips_nothing(self) -> None:
        """Every minute, half an hour late, is still every minute."""
        dues = fired(spec("* * * * *"), 0.501, jitter=timedelta(minutes=30))
        assert dues == every(1, 30, START - timedelta(minutes=30))

    def test_what_a_restart_finds_within_the_jitter_still_starts(self) -> None:
        """Due at 12:00 and to start at 12:07: an operator that comes at 12:05 starts it."""
        dues = fired(
            spec("0 * * * *"), 0.1, start=START + timedelta(minutes=5), jitter=timedelta(minutes=7)
        )
        assert dues == [START]

    def test_a_thousand_workflows_spread_over_it(self) -> None:
        """None at once, none beyond it, and each at the same time after a restart."""
        cron = spec("0 * * * *", jitter="10m")

        def parts() -> list[float]:
            keys = [WorkflowKey("team", f"w{i}") for i in range(1000)]
            return [jitter_of(cron, key, "uid", "a").total_seconds() for key in keys]

        minutes = [0] * 10
        for part in parts():
            minutes[int(part // 60)] += 1
        assert all(60 < count < 140 for count in minutes), minutes
        assert parts() == parts()
        assert jitter_of(spec("0 * * * *"), WorkflowKey("a", "b"), "uid", "a") == timedelta()
