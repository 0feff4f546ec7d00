"""What asks for executions of a workflow, and what is told of their ends."""

from functools import partial
from pathlib import Path

import pytest

from fakes import until
from fleet.stage import OpenStage
from sluice.desire import RunRequest
from sluice.errors import EngineRefused
from sluice.event import Event
from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from sluice.snapshot import Verdict


async def test_a_request_runs_once(open_stage: OpenStage) -> None:
    """Each new token runs once, after the start if need be; the same token never again."""
    stage = await open_stage()
    request = RunRequest("monday", {"n": 1})
    key = stage.want("hello", "answer", "one", run=request)
    await until(lambda: stage.fleet.snapshot(key).handled_run_at == "monday")  # type: ignore[union-attr]
    stage.want("hello", "answer", "one", run=request, generation=2)
    await stage.until_reason(key, Reason.SERVING)
    stage.want("hello", "answer", "one", run=RunRequest("tuesday"), generation=2)
    await until(lambda: stage.fleet.snapshot(key).handled_run_at == "tuesday")  # type: ignore[union-attr]
    snapshot = stage.fleet.snapshot(key)
    assert snapshot is not None
    assert [run.id for run in snapshot.runs] == ["tuesday", "monday"]


async def test_a_handled_request_is_not_run_again(open_stage: OpenStage) -> None:
    """What an earlier process has finished is not run by the next one."""
    stage = await open_stage()
    desire = stage.desire("hello", "answer", "one", run=RunRequest("monday"))
    stage.fleet.want(desire, handled="monday")
    await stage.until_reason(desire.key, Reason.SERVING)
    snapshot = stage.fleet.snapshot(desire.key)
    assert snapshot is not None
    assert snapshot.runs == ()


@pytest.mark.parametrize(
    ("spec", "request_", "words"),
    [
        ({"suspend": True}, RunRequest("x"), "suspended"),
        ({}, RunRequest("x", problem="is not JSON"), "is not JSON"),
        ({"triggers": [{"name": "c", "cron": {"schedule": "0 0 1 1 *"}}]}, RunRequest("x"),
         "no manual trigger"),
    ],
)  # fmt: skip
async def test_a_request_that_cannot_be_is_refused(
    open_stage: OpenStage, spec: dict[str, object], request_: RunRequest, words: str
) -> None:
    """A run that cannot be is told as an event and counts as handled."""
    stage = await open_stage()
    key = stage.want("hello", "answer", run=request_, **spec)
    await until(lambda: stage.fleet.snapshot(key).handled_run_at == "x")  # type: ignore[union-attr]
    assert [(name, note.reason) for name, note in stage.told.events] == [
        ("hello", Reason.RUN_REFUSED)
    ]
    assert words in stage.told.events[0][1].message


async def test_history_is_bounded(open_stage: OpenStage) -> None:
    """Only the last few runs are kept, their results cut, whatever a guest writes."""
    stage = await open_stage(runs_kept_max=2, result_bytes_max=10)
    key = stage.want("hello", "stdout", "50000")
    await stage.until_reason(key, Reason.SERVING)
    for _ in range(3):
        run = await stage.fleet.run_manually(key)
        assert run is not None
        assert (await run).outcome.kind is OutcomeKind.COMPLETED
    snapshot = stage.fleet.snapshot(key)
    assert snapshot is not None
    assert [len(run.outcome.result) for run in snapshot.runs] == [10, 10]


async def test_a_request_that_is_over_is_not_run_again(
    open_stage: OpenStage, tmp_path: Path
) -> None:
    """Where a process ended before it could say that a run is over, the next one only says it."""
    stage = await open_stage(journal=tmp_path / "executions.db")
    key = stage.want("hello", "answer", "one", run=RunRequest("monday"))
    await until(lambda: stage.fleet.snapshot(key).handled_run_at == "monday")  # type: ignore[union-attr]
    stage.fleet._lives[key].requested = stage.fleet._lives[key].handled = None
    stage.want("hello", "answer", "one", run=RunRequest("monday"))
    await until(lambda: stage.fleet.snapshot(key).handled_run_at == "monday")  # type: ignore[union-attr]
    recent = await stage.fleet.executions.recent(key, 10)
    assert recent is not None
    assert [run.id for run in recent] == ["monday"]


async def test_repeated_failures_are_told_where_they_turn(open_stage: OpenStage) -> None:
    """A workflow that keeps failing has a condition, and it turns with the first success."""
    stage = await open_stage(failures_max=2)
    key = stage.want("hello", "exit", "3")
    await stage.until_reason(key, Reason.SERVING)

    def succeeding() -> Verdict | None:
        snapshot = stage.fleet.snapshot(key)
        assert snapshot is not None
        return snapshot.succeeding

    await stage.result(key)
    assert succeeding() is None
    await stage.result(key)
    told = succeeding()
    assert told is not None
    assert (told.ok, told.reason) == (False, Reason.RUNS_FAILING)
    assert "the last 2 executions failed, the newest of them Failed: exit code 3" in told.message
    await stage.result(key)
    assert succeeding() == told  # more of the same is no news
    stage.want("hello", "answer", "42", generation=2)
    await until(lambda: stage.fleet.snapshot(key).serving.generation == 2)  # type: ignore[union-attr]
    await stage.result(key)
    told = succeeding()
    assert told is not None
    assert told.reason is Reason.RUNS_SUCCEEDING


async def test_a_trigger_that_is_too_fast_is_told_once(open_stage: OpenStage) -> None:
    """A flood of refused events is one event of the workflow, and each is counted."""
    stage = await open_stage(accepted_max=1)
    key = stage.want("hello", "rest", "200")
    await stage.until_reason(key, Reason.SERVING)
    fire = partial(stage.fleet._runs.fire, stage.fleet._lives[key])
    accepted = await fire(Event(kind="cron", trigger="c"))
    for _ in range(20):
        with pytest.raises(EngineRefused, match="accepted_max"):
            await fire(Event(kind="cron", trigger="c"))
    assert [note.reason for _, note in stage.told.events] == [Reason.QUEUE_FULL]
    labels = {"trigger": "cron", "result": "refused"}
    assert stage.metrics.registry.get_sample_value("sluice_events_total", labels) == 20
    assert accepted.finished is not None
    await accepted.finished


async def test_triggers_are_armed_all_or_none(open_stage: OpenStage) -> None:
    """One trigger that cannot be armed: it is said, none fires, and what served goes on."""
    stage = await open_stage()
    key = stage.want("hello", "answer", "one")
    await stage.until_reason(key, Reason.SERVING)
    hook = {"name": "hook", "http": {"auth": {"anonymous": {}}}}
    startup = {"name": "now", "startup": {}}
    stage.want("hello", "answer", "two", generation=2, triggers=[startup, hook])
    await stage.until_reason(key, Reason.INVALID_SPEC)
    assert "trigger hook" in stage.ready(key).message
    assert await stage.result(key) == "one"
    stage.want("hello", "answer", "three", generation=3, triggers=[startup])
    await until(lambda: len(stage.fleet.snapshot(key).runs) == 2)  # type: ignore[union-attr]
    runs = stage.fleet.snapshot(key).runs  # type: ignore[union-attr]
    assert (runs[0].trigger, runs[0].outcome.result) == ("now", b"three")


async def test_closing_lets_runs_end(open_stage: OpenStage) -> None:
    """What runs when the end is asked for runs to its end."""
    stage = await open_stage()
    key = stage.want("hello", "rest", "300")
    await stage.until_reason(key, Reason.SERVING)
    run = await stage.fleet.run_manually(key)
    assert run is not None
    await until(lambda: stage.metrics.registry.get_sample_value("sluice_executions_running"))
    assert await stage.fleet.close()
    assert run.result().outcome.result == b"rested"
