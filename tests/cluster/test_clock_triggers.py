"""cron and startup triggers end to end: a real API server, the operator's process, its end."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from ground.manifests import Writing, write
from ground.operator import Operator
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest

StartOperator = Callable[..., Operator]


def _apply(scene: Scene, *triggers: dict[str, Any], guest_name: str = "echo", **spec: Any) -> None:
    given = {"triggers": list(triggers)} | spec
    scene.apply(write(guest(guest_name), Writing(name="hello", spec=given)))
    scene.until_ready("hello")


def _over(operator: Operator, scene: Scene) -> list[dict[str, Any]]:
    """Return all that is over, the oldest first."""
    path = f"/v1/namespaces/{scene.namespace}/workflows/hello/executions?limit=1000"
    found = json.loads(operator._get(path) or '{"executions": []}')["executions"]
    return [one for one in reversed(found) if one["state"] == "Finished"]


def _until(operator: Operator, scene: Scene, trigger: str, count: int) -> list[dict[str, Any]]:
    """Return the executions of a trigger once there are so many."""
    return wait_until(
        lambda: ([one for one in _over(operator, scene) if one["trigger"] == trigger])[count - 1 :]
        and [one for one in _over(operator, scene) if one["trigger"] == trigger],
        60, f"{count} executions of {trigger}",
    )  # fmt: skip


def _event(execution: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(execution["result"])
    return event


@pytest.mark.slow
def test_a_killed_operator_repeats_no_startup_and_no_second(
    scene: Scene, start_operator: StartOperator
) -> None:
    """SIGKILL, a new start, an edit: each revision starts once, each moment of a schedule once."""
    operator = start_operator()
    first = {"name": "first", "startup": {"data": "begin"}}
    tick = {"name": "tick", "cron": {"schedule": "* * * * * *", "startingDeadlineSeconds": 600}}
    _apply(scene, first, tick)
    (began,) = _until(operator, scene, "first", 1)
    assert _event(began)["type"] == "dev.sluice.startup"
    assert _event(began)["data"] == "begin"
    before = _until(operator, scene, "tick", 2)
    operator.kill()
    operator.start()
    scene.until_ready("hello")
    ticks = _until(operator, scene, "tick", len(before) + 3)
    assert len({one["id"] for one in ticks}) == len(ticks)
    times = [datetime.fromisoformat(_event(one)["time"]) for one in ticks]
    assert all(time.microsecond == 0 for time in times)
    assert [one["id"] for one in ticks] == [f"cron@tick-{time:%Y%m%dT%H%M%SZ}" for time in times]
    assert len(_until(operator, scene, "first", 1)) == 1
    scene.patch("hello", {"triggers": [first, {"name": "tick", "manual": {}}]})
    scene.until_ready("hello")
    begins = _until(operator, scene, "first", 2)
    assert len({one["id"] for one in begins}) == len(begins) == 2


@pytest.mark.slow
def test_forbid_never_runs_two_of_a_schedule_at_once(
    scene: Scene, start_operator: StartOperator
) -> None:
    """What falls due while the one before still runs is skipped, and counted."""
    operator = start_operator()
    tick = {"name": "tick", "cron": {"schedule": "* * * * * *", "concurrencyPolicy": "Forbid"}}
    # It spins until its CPU time is over.
    _apply(scene, tick, guest_name="acts", args=["spin"], limits={"cpu": "1500ms"})
    runs = _until(operator, scene, "tick", 3)
    assert {one["outcome"] for one in runs} == {"TimedOut"}
    begun = [datetime.fromisoformat(one["started"]).timestamp() for one in runs]
    over = [at + one["durationSeconds"] for at, one in zip(begun, runs, strict=True)]
    assert all(end <= start for end, start in zip(over, begun[1:], strict=False))
    assert operator.metrics()["sluice_events_total{result=skipped,trigger=cron}"] >= 2
