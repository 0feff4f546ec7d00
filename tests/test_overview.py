"""One screen tells an admin how memory stands, what waits and why, and what failed."""

import json
from dataclasses import replace

from ground.golden import matches_golden
from sluice.overview import as_text, overview
from sluice.reasons import Reason
from sluice.rollout.batches import Statistics
from sluice.rollout.gate import Bounds
from sluice.rollout.memory import MemoryReading
from sluice.snapshot import Serving, Snapshot, Verdict
from sluice.workflow import WorkflowKey

_MIB = 1 << 20
_READING = MemoryReading(
    at=0.0, used=431 * _MIB, limit=512 * _MIB, working_set=470 * _MIB, anonymous=300 * _MIB,
    kind="cgroup-v2",
)  # fmt: skip
_STATISTICS = Statistics(
    waiting=37, in_flight=1, batches=9, batch_size=3, held=True,
    hold_reason=Reason.WAITING_FOR_MEMORY,
    hold_message="memory 431 of 512 MiB; 37 workflows wait until it falls to 358",
    hold_seconds={Reason.WAITING_FOR_MEMORY: 14.0, Reason.WAITING_FOR_TURN: 58.04},
    holds={}, trims=4, trimmed_bytes=0, reading=_READING,
)  # fmt: skip


def _snapshot(name: str, ready: Verdict, serving: Serving | None = None) -> Snapshot:
    return Snapshot(
        key=WorkflowKey("team", name), uid=name, generation=1, digest="0" * 64, ready=ready,
        admitted=ready, source=ready, serving=serving, runs=(), handled_run_at=None,
    )  # fmt: skip


_SERVES = Serving("0" * 64, 1, "wasi", 1000, "baseline")
_SNAPSHOTS = [
    _snapshot("a", Verdict(True, Reason.SERVING, "serving"), _SERVES),
    _snapshot("b", Verdict(True, Reason.SERVING, "serving"), replace(_SERVES, tier="optimizing")),
    _snapshot("c", Verdict(False, Reason.STARTING, "reading and compiling")),
    _snapshot("d", Verdict(False, Reason.DIGEST_MISMATCH, "the parts inflate to another digest")),
    _snapshot("e", Verdict(False, Reason.SUSPENDED, "suspended")),
]


def test_overview_reads_as_its_golden_file() -> None:
    """Text for people, JSON for programs, the same figures in both."""
    told = overview(_SNAPSHOTS, _STATISTICS, _READING, Bounds())
    matches_golden("overview.txt", as_text(told) + "\n")
    matches_golden("overview.json", json.dumps(told, indent=2) + "\n")


def test_overview_of_nothing() -> None:
    """An operator without a workflow has an overview too."""
    nothing = replace(_STATISTICS, waiting=0, held=False, hold_message="", hold_seconds={})
    assert "0 serving, 0 starting, 0 waiting" in as_text(overview([], nothing, _READING, Bounds()))


def test_overview_is_bounded() -> None:
    """A thousand failures are counted, and ten of them named."""
    failed = [_snapshot(f"w{i}", _SNAPSHOTS[3].ready) for i in range(1000)]
    told = overview(failed, _STATISTICS, _READING, Bounds())
    assert told["rollout"]["failed"] == 1000
    assert len(told["failed"]) == 10


def test_a_journal_that_fails_is_said() -> None:
    """An admin who asks how things are hears that no execution is accepted, and why."""
    lines = as_text(overview([], _STATISTICS, _READING, Bounds(), "the disk is full")).splitlines()
    assert "journal   the disk is full" in lines
    assert "journal" not in as_text(overview([], _STATISTICS, _READING, Bounds()))
