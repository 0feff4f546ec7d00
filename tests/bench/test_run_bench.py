import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sluice.bench import guests
from sluice.bench.command import bench
from sluice.bench.load import Figures, percentile
from sluice.bench.profile import Profile
from sluice.bench.race import WAYS, Found, Plan, _done, measure
from sluice.bench.tasks import Order
from sluice.bench.verdicts import RunReport
from sluice.errors import EngineRefused

one_run = pytest.mark.xdist_group("bench run")  # made once, looked at by several tests
_BARE = Figures(
    guest="empty", way="bare", cores=1, per_s=20_000.0, p50_s=4e-5, p99_s=1e-4, cpu_s=5e-5,
    busy=0.99, others=0.0, lag_p99_s=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Give a short run on one core, of all that the command measures."""
    plan = Plan(
        seconds=0.2, cores=(1,), profile=True, neighbours=False,
        work_dir=tmp_path_factory.mktemp("bench"),
    )  # fmt: skip
    return measure(plan, lambda _: None)


def _found(**changes: Any) -> Found:
    """Return figures that are good but for ``changes``, in what the operator does."""
    figures = []
    for guest in ("empty", "100 ms"):
        for way in WAYS:
            one = replace(_BARE, guest=guest, way=way)
            ours = way in {"memory", "durable"}
            ends: dict[str, Any] = {"lag_p99_s": 0.001} | changes
            figures.append(replace(one, **ends) if ours else one)
    queue = {"events": 10_000, "event_bytes": 8192, "memory_bytes": 9 << 20,
             "accepted_per_s": 9000.0, "lag_p99_s": 0.002}  # fmt: skip
    return Found(figures, queue, {"crons": 500, "cpu_none": 0.001, "cpu_armed": 0.0012})


def _missed(found: Found) -> list[str]:
    return [target.what for target in RunReport(found).targets() if not target.met]


@pytest.mark.slow
@one_run
def test_every_guest_is_measured_in_every_way(measured: Found) -> None:
    """Ours stands beside the bare binding, for the same guest in the same run."""
    seen = {(f.guest, f.way) for f in measured.figures}
    assert seen == {(guest, way) for guest in ("empty", "5 ms", "100 ms") for way in WAYS}
    assert all(f.per_s > 0 and f.p50_s <= f.p99_s and f.cpu_s > 0 for f in measured.figures)
    assert {f.way for f in measured.figures if f.lag_p99_s is not None} == {"memory", "durable"}


@pytest.mark.slow
@one_run
def test_the_guests_work_as_long_as_they_are_called_after(measured: Found) -> None:
    """A 100 ms guest takes many times the CPU of a 5 ms one, and that of an empty one."""
    bare = {f.guest: f.cpu_s for f in measured.figures if f.way == "bare"}
    assert bare["100 ms"] > 5 * bare["5 ms"] > 25 * bare["empty"]


@pytest.mark.slow
@one_run
def test_events_that_wait_are_not_in_memory(measured: Found) -> None:
    """Ten thousand of them take a part of what they hold."""
    queue = measured.queue
    assert queue["events"] == 10_000
    assert queue["memory_bytes"] < queue["events"] * queue["event_bytes"] / 2


@pytest.mark.slow
@one_run
def test_a_profile_adds_up(measured: Found) -> None:
    """The steps of an execution and what is left of Python are the whole, each above nothing."""
    assert [profile.guest for profile in measured.profiles] == ["empty", "echo"]
    for profile in measured.profiles:
        assert sum(profile.steps.values()) >= profile.whole_s > 0
        assert min(profile.steps.values()) >= 0


@pytest.mark.slow
@one_run
def test_what_was_measured_can_be_read(measured: Found) -> None:
    """The table has a line for each figure, and the JSON is JSON: no NaN in it."""
    report = RunReport(measured)
    assert len([line for line in report.table() if " durable " in line]) >= 3
    json.dumps(report.as_json(), allow_nan=False)


def test_targets_that_are_met_are_said_to_be() -> None:
    """Good figures miss nothing."""
    assert _missed(_found()) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"busy": 0.80}, "1 cores busy on the 100 ms guest, durable (of it 0 % by others)"),
        ({"cpu_s": 4e-4}, "an execution beyond the bare binding, durable"),
        ({"lag_p99_s": 0.021}, "the loop's lag at p99, the worst of all above"),
    ],
)
def test_a_target_that_is_missed_is_said_to_be(changes: dict[str, float], what: str) -> None:
    """Each bad figure misses its own target, and no other."""
    assert _missed(_found(**changes)) == [what]


def test_a_miss_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores that stood idle are the operator's miss."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    [line] = [line for line in RunReport(_found(busy=0.80)).table() if "MISSED" in line]
    assert "(of it 0 % by others)" in line
    assert line.endswith("80 % (at least 95): MISSED by 15 %")


def test_what_others_took_was_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that others use tells as much: who took the rest is said, and is no miss."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    report = RunReport(_found(busy=0.80, others=0.19))
    assert [target.what for target in report.targets() if not target.met] == []
    assert any("(of it 19 % by others): 99 %" in line for line in report.table())


def test_neighbours_stand_beside_the_one_who_was_alone() -> None:
    """Each offender's line has the ratio to nobody's."""
    found = _found()
    found.neighbours = [
        {"offender": "", "p50_s": 0.005, "p99_s": 0.010, "lag_p99_s": 0.001},
        {"offender": "endless loop", "p50_s": 0.006, "p99_s": 0.025, "lag_p99_s": 0.002},
    ]
    [line] = [line for line in RunReport(found).table() if line.startswith("endless loop")]
    assert line.split() == ["endless", "loop", "6.00", "1.20", "25.00", "2.50", "2.00"]


def test_a_profile_is_shown_with_the_bare_binding() -> None:
    """The profile's table ends with the whole and what the binding alone takes."""
    found = _found()
    found.profiles = [Profile("empty", {"store": 2e-5, "Python": 2e-5}, 4e-5, 3e-5)]
    assert RunReport(found).table()[-2:] == [
        "the whole               40.0  100",
        "the bare binding        30.0   75",
    ]


def test_percentiles_are_of_what_was_seen() -> None:
    """The 99th of a hundred is the second largest; of nothing there is none."""
    values = [float(n) for n in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (49.0, 98.0)
    assert math.isnan(percentile([], 0.5))


def test_a_measurement_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    """No traceback reaches whoever measures."""
    order = Order(task="unknown", data_dir=str(tmp_path), seconds=0.2, guests={})
    with pytest.raises(EngineRefused, match="unknown could not be measured: ended with exit code"):
        _done(order)


def test_a_wrong_time_is_refused() -> None:
    """What could not be measured in is told before anything is."""
    result = CliRunner().invoke(bench, ["run", "--seconds", "0"])
    assert result.exit_code == 2
    assert "--seconds" in result.output


def test_every_offender_can_be_had_as_wasm() -> None:
    """What is measured beside is in the package: no compiler is needed where it is installed."""
    from wasm.lab import whole

    assert all(whole(offender.wat) for offender in guests.OFFENDERS.values())
