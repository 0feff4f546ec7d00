"""A snapshot -> the object's status, and the events that the change is worth. Pure."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.snapshot import UNDER_WAY, Run, Snapshot, Verdict

_MESSAGE_CHARS_MAX = 1024
_RUN_MESSAGE_CHARS_MAX = 256
# What is under way is shown by the conditions; an event for each would be a flood.
_SUCCEEDING = "Succeeding"
_QUIET = UNDER_WAY | {Reason.ADMITTED, Reason.NOT_STARTED}

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """One event: ``warning`` or normal, and what was being done."""

    warning: bool
    reason: str
    action: str
    message: str


def render(snapshot: Snapshot, before: Status, now: datetime) -> Status:
    """Return the whole status; transition times come from ``before`` where nothing changed."""
    verdicts = {
        "Ready": _with_previous(snapshot),
        "Serving": _serving(snapshot),
        "Admitted": snapshot.admitted,
        "Source": snapshot.source,
    }
    old = {c["type"]: c for c in before.get("conditions", ())}
    if succeeding := snapshot.succeeding or _told_before(old.get(_SUCCEEDING)):
        verdicts[_SUCCEEDING] = succeeding
    status: Status = {
        "observedGeneration": snapshot.generation,
        "conditions": [
            _condition(kind, verdict, snapshot.generation, old.get(kind), now)
            for kind, verdict in verdicts.items()
        ],
    }
    if serving := snapshot.serving:
        status["serving"] = {
            "digest": f"sha256:{serving.digest}",
            "generation": serving.generation,
            "abi": serving.abi,
            "size": serving.size_bytes,
            "tier": serving.tier,
        }
    if snapshot.handled_run_at:
        status["lastHandledRunAt"] = snapshot.handled_run_at
    if snapshot.runs:
        status["lastRun"] = str(snapshot.runs[0].outcome.kind)
        status["executions"] = [_execution(run) for run in snapshot.runs]
    return status


def without_runs(status: Status) -> Status:
    """Return what of a status is worth telling at once."""
    told = {k: v for k, v in status.items() if k not in {"executions", "lastRun"}}
    good = ("True", _SUCCEEDING)  # that all is as it should be can wait as well
    told["conditions"] = [
        c for c in status.get("conditions", ()) if (c["status"], c["type"]) != good
    ]
    return told


def reasons(status: Status) -> Status:
    """Return what of a status is worth a write while a start is under way."""
    told = {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", ())}
    return told | {"generation": status.get("observedGeneration"), "serving": status.get("serving")}


def settled(status: Status) -> bool:
    """Whether a status tells of no start that is under way."""
    return _find(status, "Ready").get("reason") not in UNDER_WAY


def notes(before: Status, after: Status) -> list[Note]:
    """Return the events that the way from one status to the next is worth."""
    found = []
    ready, was_ready = _find(after, "Ready"), _find(before, "Ready")
    revised = after.get("serving", {}).get("generation") != before.get("serving", {}).get(
        "generation"
    )
    moved = any(ready[name] != was_ready.get(name) for name in ("status", "reason"))
    if ready["reason"] not in _QUIET and (moved or (revised and ready["status"] == "True")):
        warning = ready["status"] == "False" and ready["reason"] != Reason.SUSPENDED
        found.append(Note(warning, ready["reason"], "Start", ready["message"]))
    elif ready["status"] == "True":
        source, was_source = _find(after, "Source"), _find(before, "Source")
        looked = was_source.get("reason", Reason.NOT_STARTED) not in _QUIET
        if looked and source["reason"] != was_source["reason"]:
            drifted = source["status"] == "False"
            found.append(Note(drifted, source["reason"], "Verify", source["message"]))
    return found + _succeeding_notes(before, after) + _run_notes(before, after)


def restored_runs(status: Status) -> tuple[Run, ...]:
    """Return the runs that a status tells of, for the history of a process that has just begun.

    Whoever may edit a status may have written anything: what cannot be read is left out.
    """
    runs = []
    for told in status.get("executions", ()):
        with contextlib.suppress(KeyError, ValueError):
            runs.append(_run(told))
    return tuple(runs)


def duration_text(seconds: float) -> str:
    """Return a duration as people read it: 41ms, 2.3s, 3m20s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


def _with_previous(snapshot: Snapshot) -> Verdict:
    serving, ready = snapshot.serving, snapshot.ready
    if ready.ok or serving is None:
        return ready
    return Verdict(
        ready.ok,
        ready.reason,
        f"{ready.message}; generation {serving.generation} (sha256:{serving.digest[:12]}…) "
        "keeps serving",
    )


def _told_before(condition: Status | None) -> Verdict | None:
    """Return what an earlier process told, until an execution tells anew."""
    if condition is None:
        return None
    with contextlib.suppress(KeyError, ValueError):
        reason = Reason(condition["reason"])
        return Verdict(condition["status"] == "True", reason, condition["message"])
    return None


def _serving(snapshot: Snapshot) -> Verdict:
    serving = snapshot.serving
    if serving is None:
        suspended = snapshot.ready.reason is Reason.SUSPENDED
        reason = Reason.SUSPENDED if suspended else Reason.NOT_STARTED
        return Verdict(False, reason, "no executions are run")
    message = f"generation {serving.generation}, sha256:{serving.digest[:12]}…"
    current = serving.generation == snapshot.generation
    return Verdict(True, Reason.SERVING if current else Reason.PREVIOUS_REVISION, message)


def _condition(
    kind: str, verdict: Verdict, generation: int, before: Status | None, now: datetime
) -> Status:
    value = "True" if verdict.ok else "False"
    unchanged = before is not None and before["status"] == value
    return {
        "type": kind,
        "status": value,
        "reason": str(verdict.reason),
        "message": _cut(verdict.message, _MESSAGE_CHARS_MAX),
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if unchanged and before else _time(now),
    }


def _execution(run: Run) -> Status:
    outcome = run.outcome
    told: Status = {
        "id": run.id,
        "trigger": run.trigger,
        "started": _time(run.started),
        "duration": duration_text(outcome.duration_s),
        "outcome": str(outcome.kind),
        "message": _cut(outcome.message, _RUN_MESSAGE_CHARS_MAX),
        "result": outcome.result.decode(errors="replace"),
    }
    if outcome.exit_code is not None:
        told["exitCode"] = outcome.exit_code
    return {name: value for name, value in told.items() if value != ""}


def _run(told: Status) -> Run:
    outcome = Outcome(
        OutcomeKind(told["outcome"]),
        told.get("message", ""),
        exit_code=told.get("exitCode"),
        result=told.get("result", "").encode(),
        duration_s=_seconds(told["duration"]),
    )
    return Run(told["id"], told["trigger"], datetime.fromisoformat(told["started"]), outcome)


def _seconds(text: str) -> float:
    if text.endswith("ms"):
        return float(text[:-2]) / 1000
    minutes, _, seconds = text.rpartition("m")
    return 60 * float(minutes or 0) + float(seconds.rstrip("s"))


def _turned(before: Status, after: Status) -> bool:
    """Whether the executions of a workflow began to fail, or to complete again."""
    was, is_ = (_find(status, _SUCCEEDING).get("status", "True") for status in (before, after))
    return bool(was != is_)


def _succeeding_notes(before: Status, after: Status) -> list[Note]:
    if not _turned(before, after):
        return []
    told = _find(after, _SUCCEEDING)
    return [Note(told["status"] == "False", told["reason"], "Run", told["message"])]


def _run_notes(before: Status, after: Status) -> list[Note]:
    runs = after.get("executions", [])
    if not runs or runs[0]["id"] in {run["id"] for run in before.get("executions", ())}:
        return []
    failed, failed_before = (
        status.get("lastRun", OutcomeKind.COMPLETED) != OutcomeKind.COMPLETED
        for status in (after, before)
    )
    if failed == failed_before:
        return []
    newest = runs[0]
    if _turned(before, after):
        return []  # the condition's own event says it better
    if not failed:
        text = f"execution {newest['id']} completed, as the ones before it did not"
        return [Note(False, Reason.RUN_RECOVERED, "Run", text)]
    text = f"execution {newest['id']}: {newest['outcome']}: {newest.get('message', '')}"
    return [Note(True, Reason.RUN_FAILED, "Run", text)]


def _find(status: Status, kind: str) -> Status:
    return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
