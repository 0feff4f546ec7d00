"""What a snapshot says to people: conditions, executions and the events a change is worth."""

from dataclasses import replace
from datetime import UTC, datetime

import yaml

from ground.golden import matches_golden
from sluice import status
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.snapshot import Run, Serving, Snapshot, Verdict
from sluice.workflow import WorkflowKey

_DIGEST = "4f1c9a02" * 8
_NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
_LATER = datetime(2026, 11, 24, 12, 5, tzinfo=UTC)
_YES = Verdict(True, Reason.ADMITTED, "admitted")
_SERVING = Serving(_DIGEST, 2, "wasi", 2_527_232, "optimizing")

READY = Snapshot(
    key=WorkflowKey("team", "price-alert"),
    uid="1",
    generation=2,
    digest=_DIGEST,
    ready=Verdict(True, Reason.SERVING, "serving sha256:4f1c9a024f1c… (compiled in 1.1 s)"),
    admitted=_YES,
    source=Verdict(True, Reason.VERIFIED, "the ConfigMaps hold spec.module.digest"),
    serving=_SERVING,
    runs=(),
    handled_run_at=None,
)
STARTING = replace(
    READY,
    ready=Verdict(False, Reason.STARTING, "reading and compiling sha256:4f1c9a024f1c…"),
    serving=None,
)
FAILED = replace(
    READY,
    generation=3,
    ready=Verdict(False, Reason.DIGEST_MISMATCH, "the parts inflate to another digest"),
    source=Verdict(False, Reason.DIGEST_MISMATCH, "the parts inflate to another digest"),
)


def _run(name: str, kind: OutcomeKind, seconds: float = 0.041, **more: object) -> Run:
    outcome = replace(Outcome(kind, duration_s=seconds), **more)  # type: ignore[arg-type]
    return Run(name, "cron", _NOON, outcome)


def _notes(before: Snapshot | None, after: Snapshot) -> list[tuple[bool, str]]:
    told = status.render(before, {}, _NOON) if before else {}
    notes = status.notes(told, status.render(after, told, _LATER))
    return [(note.warning, note.reason) for note in notes]


def test_golden_statuses() -> None:
    """The whole status of each typical moment reads as its golden file has it."""
    ran = replace(
        READY,
        runs=(
            _run("b", OutcomeKind.FAILED, 2.34, message="exit code 3", exit_code=3),
            _run("a", OutcomeKind.COMPLETED, exit_code=0, result=b'{"alert":true}'),
        ),
        handled_run_at="b",
    )
    failing = Verdict(
        False,
        Reason.RUNS_FAILING,
        "the last 5 executions failed, the newest of them Failed: exit code 3",
    )
    moments = {
        "ready": READY,
        "starting": STARTING,
        "failed-edit": FAILED,
        "ran": ran,
        "failing": replace(ran, succeeding=failing),
    }
    for name, snapshot in moments.items():
        text = yaml.safe_dump(
            status.render(snapshot, {}, _NOON), sort_keys=False, allow_unicode=True, width=96
        )
        matches_golden(f"status/{name}.yaml", text)


def test_transition_time_moves_only_with_the_status() -> None:
    """A new message leaves lastTransitionTime alone, a new status sets it."""
    before = status.render(READY, {}, _NOON)
    reworded = replace(READY, ready=replace(READY.ready, message="other words"))
    assert status.render(reworded, before, _LATER)["conditions"][0]["lastTransitionTime"] == (
        "2026-11-24T12:00:00Z"
    )
    assert status.render(FAILED, before, _LATER)["conditions"][0]["lastTransitionTime"] == (
        "2026-11-24T12:05:00Z"
    )


def test_the_same_snapshot_renders_the_same() -> None:
    """Nothing differs when nothing did, so that nothing is written."""
    before = status.render(READY, {}, _NOON)
    assert status.render(READY, before, _LATER) == before


def test_a_start_is_one_event() -> None:
    """From nothing or from starting to Ready is one Normal event; starting itself is none."""
    assert _notes(None, STARTING) == []
    assert _notes(STARTING, READY) == [(False, "Serving")]
    assert _notes(READY, READY) == []


def test_a_failure_is_one_warning() -> None:
    """A failure is told once, however its words change; the recovery is told too."""
    assert _notes(READY, FAILED) == [(True, "DigestMismatch")]
    reworded = replace(FAILED, ready=replace(FAILED.ready, message="again"))
    assert _notes(FAILED, reworded) == []
    assert _notes(FAILED, READY) == [(False, "Serving")]


def test_a_suspension_is_no_warning() -> None:
    """What somebody asked for is Normal."""
    suspended = replace(
        READY, ready=Verdict(False, Reason.SUSPENDED, "spec.suspend is true"), serving=None
    )
    assert _notes(READY, suspended) == [(False, "Suspended")]


def test_drift_is_told_both_ways() -> None:
    """ConfigMaps that change under a Ready workflow are a warning, and mended ones an event."""
    drifted = replace(READY, source=Verdict(False, Reason.CONFIG_MAP_CHANGED, "changed"))
    assert _notes(READY, drifted) == [(True, "ConfigMapChanged")]
    assert _notes(drifted, READY) == [(False, "Verified")]


def test_failed_runs_are_told_on_transitions_only() -> None:
    """The first failure and the first success after it are events; those between are not."""
    one = replace(READY, runs=(_run("1", OutcomeKind.TRAPPED),))
    two = replace(READY, runs=(_run("2", OutcomeKind.TIMED_OUT), *one.runs))
    three = replace(READY, runs=(_run("3", OutcomeKind.COMPLETED), *two.runs))
    assert _notes(READY, one) == [(True, "RunFailed")]
    assert _notes(one, two) == []
    assert _notes(two, three) == [(False, "RunRecovered")]
    assert _notes(READY, replace(READY, runs=(_run("4", OutcomeKind.COMPLETED),))) == []


def test_history_survives_a_restart() -> None:
    """What a status tells of runs, the next process tells in the same words."""
    runs = (
        _run("b", OutcomeKind.TIMED_OUT, 200.4, message="ran longer than limits.timeout 3m20s"),
        _run("a", OutcomeKind.FAILED, 0.0014, exit_code=3, result="kürzer".encode()),
    )
    told = status.render(replace(READY, runs=runs), {}, _NOON)
    again = status.restored_runs(told)
    assert status.render(replace(READY, runs=again), {}, _NOON) == told


def test_what_is_told_is_bounded() -> None:
    """A message of any length is cut to what the API takes, and says that it was."""
    long = replace(READY, ready=replace(READY.ready, message="x" * 5000))
    message = status.render(long, {}, _NOON)["conditions"][0]["message"]
    assert len(message) == 1024
    assert message.endswith("…")


_FAILING = Verdict(False, Reason.RUNS_FAILING, "the last 5 executions failed, the newest …")
_SUCCEEDING = Verdict(True, Reason.RUNS_SUCCEEDING, "fewer than 5 executions in a row failed")


def test_repeated_failures_are_a_condition_and_one_event() -> None:
    """Where it turns there is one warning, where it turns back one event, and none between."""
    runs = [(_run(f"{n}", OutcomeKind.FAILED),) for n in range(3)]
    one = replace(READY, runs=runs[0], succeeding=_SUCCEEDING)
    failing = replace(READY, runs=runs[1], succeeding=_FAILING)
    still = replace(READY, runs=runs[2], succeeding=_FAILING)
    well = replace(READY, runs=(_run("9", OutcomeKind.COMPLETED),), succeeding=_SUCCEEDING)
    assert _notes(one, failing) == [(True, "RunsFailing")]
    assert _notes(failing, still) == []
    assert _notes(still, well) == [(False, "RunsSucceeding")]
    assert _notes(READY, failing) == [(True, "RunsFailing")]
    assert _notes(READY, replace(READY, succeeding=_SUCCEEDING)) == []


def test_what_was_told_of_failures_outlives_the_process() -> None:
    """A restart neither forgets that a workflow fails nor tells of it again."""
    told = status.render(replace(READY, succeeding=_FAILING), {}, _NOON)
    again = status.render(READY, told, _LATER)
    assert again == told
    assert status.notes(told, again) == []
    garbled = {"conditions": [{"type": "Succeeding", "status": "False", "reason": "Nonsense"}]}
    assert len(status.render(READY, garbled, _NOON)["conditions"]) == 4


def test_good_news_of_executions_can_wait() -> None:
    """That executions complete is no reason for a write of its own; that they fail is."""
    before = status.render(READY, {}, _NOON)
    for verdict, waits in ((_SUCCEEDING, True), (_FAILING, False)):
        after = status.render(replace(READY, succeeding=verdict), before, _LATER)
        assert (status.without_runs(after) == status.without_runs(before)) is waits
