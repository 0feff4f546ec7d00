"""The whole fleet on one screen: what ``sluice status`` asks of the operator, and how it reads."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sluice.reasons import Reason
from sluice.rollout.batches import Statistics
from sluice.rollout.gate import Bounds
from sluice.rollout.memory import MemoryReading
from sluice.settings import MIB
from sluice.snapshot import Snapshot

_NAMED_MAX = 10  # of those that start, wait first, or failed
_BAR_CELLS = 24


def overview(
    snapshots: Sequence[Snapshot],
    statistics: Statistics,
    reading: MemoryReading,
    bounds: Bounds,
    journal_failure: str | None = None,
) -> dict[str, Any]:
    """Return what is told as JSON; lists are bounded, the counts are whole."""
    states = Counter(snapshot.state for snapshot in snapshots)
    failed = [s for s in snapshots if s.state == "failed"]
    starting = [s for s in snapshots if s.ready.reason is Reason.STARTING]
    return {
        "memory": {
            "usedBytes": reading.used,
            "workingSetBytes": reading.working_set,
            "limitBytes": reading.limit,
            "lowBytes": bounds.low(reading.limit),
            "highBytes": bounds.high(reading.limit),
        },
        "rollout": {
            "serving": sum(s.serving is not None for s in snapshots),
            "ready": states["ready"],
            "starting": len(starting),
            "waiting": statistics.waiting,
            "failed": len(failed),
            "suspended": states["suspended"],
            "batch": statistics.batch_size,
            "held": statistics.held,
            "message": statistics.hold_message,
            "holdSeconds": {str(k): round(v, 1) for k, v in statistics.hold_seconds.items()},
        },
        "journal": {"failure": journal_failure},
        "tiers": dict(Counter(s.serving.tier for s in snapshots if s.serving)),
        "starting": [str(s.key) for s in starting[:_NAMED_MAX]],
        "failed": [
            {"workflow": str(s.key), "reason": str(s.ready.reason), "message": s.ready.message}
            for s in failed[:_NAMED_MAX]
        ],
    }


def as_text(told: dict[str, Any]) -> str:
    """Return an overview as lines for people."""
    rollout = told["rollout"]
    counts = ", ".join(
        f"{rollout[name]} {name}"
        for name in ("serving", "starting", "waiting", "failed", "suspended")
    )
    lines = [("memory", _memory(told["memory"])), ("rollout", counts)]
    if rollout["waiting"]:
        lines.append(("", rollout["message"]))
    lines.append(("batch", _batch(rollout)))
    if failure := told["journal"]["failure"]:
        lines.append(("journal", failure))
    if told["tiers"]:
        tiers = ", ".join(f"{count} {tier}" for tier, count in sorted(told["tiers"].items()))
        lines.append(("tiers", tiers))
    if told["starting"]:
        lines.append(("starting", ", ".join(told["starting"])))
    failed = [f"{f['workflow']} {f['reason']}: {f['message']}" for f in told["failed"]]
    lines += [("failed" if i == 0 else "", text) for i, text in enumerate(failed)]
    return "\n".join(f"{name:<9} {text}".rstrip() for name, text in lines)


def _batch(rollout: dict[str, Any]) -> str:
    waited = sum(rollout["holdSeconds"].values())
    held = "held by memory" if rollout["held"] else "not held"
    return f"{rollout['batch']} compiles at most, {held}; the line has waited {waited:.0f} s in all"


def _memory(memory: dict[str, Any]) -> str:
    used, limit = memory["usedBytes"], memory["limitBytes"]
    low, high = memory["lowBytes"], memory["highBytes"]
    marks = {round(low / limit * _BAR_CELLS): "|", round(high / limit * _BAR_CELLS): "|"}
    filled = round(used / limit * _BAR_CELLS)
    bar = "".join(marks.get(cell, "#" if cell < filled else ".") for cell in range(_BAR_CELLS))
    return (
        f"{used / MIB:.0f} of {limit / MIB:.0f} MiB  [{bar}]  "
        f"low {low / MIB:.0f}  high {high / MIB:.0f}"
    )
