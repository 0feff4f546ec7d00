"""``sluice bench run``: the same guests in four ways, each in a process of its own, in turn."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sluice.bench import guests
from sluice.bench.load import Figures
from sluice.bench.place import Place
from sluice.bench.profile import Profile
from sluice.bench.reboot import last_words
from sluice.bench.tasks import Order
from sluice.errors import EngineRefused
from sluice.reasons import Reason

WAYS = ("bare", "engine", "memory", "durable")
_WORK_MS = (5, 100)
_PROBE_ROUNDS = 4_000_000
_STALL_S = 120  # beyond what the measuring itself takes

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured; ``work_dir`` is the caller's to remove."""

    seconds: float
    cores: Sequence[int]
    profile: bool
    neighbours: bool
    work_dir: Path


@dataclass(slots=True)
class Found:
    """All figures of one run."""

    figures: list[Figures] = field(default_factory=list)
    queue: dict[str, Any] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)
    neighbours: list[dict[str, Any]] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)


def measure(plan: Plan, told: Told) -> Found:
    """Measure one thing after the other, so that none is beside another."""
    told("guests: measured and compiled")
    programs = _programs(plan.work_dir)
    found = Found()
    for cores in plan.cores:
        for way in WAYS:
            told(f"{way}: {cores} of {max(plan.cores)} cores")
            order = _order(plan, way, programs, cores=cores)
            found.figures += [Figures(**each) for each in _done(order)]
    told("at rest: events that wait, schedules that are not due")
    [found.queue] = _done(_order(plan, "queue", {}, cores=max(plan.cores)))
    [found.rest] = _done(_order(plan, "rest", {}))
    if plan.neighbours:
        for offender in ("", *guests.OFFENDERS):
            told(f"neighbours: beside {offender or 'nobody'}")
            order = _order(plan, "neighbours", programs, cores=max(plan.cores), offender=offender)
            found.neighbours += _done(order)
    if plan.profile:
        told("profile: an empty guest and an echo")
        order = _order(plan, "profile", {"empty": guests.EMPTY, "echo": guests.ECHO})
        found.profiles = [Profile(**each) for each in _done(order)]
    return found


def _programs(work_dir: Path) -> dict[str, str]:
    """Return the guests by name, those that work long enough on this machine."""
    place = Place(work_dir / "probe")
    try:
        once = place.bare(guests.work(_PROBE_ROUNDS))
        took = []
        for _ in range(5):
            began = time.thread_time()
            once()
            took.append(time.thread_time() - began)
    finally:
        place.close()
    per_ms = _PROBE_ROUNDS / (statistics.median(took) * 1000)
    working = {f"{ms} ms": guests.work(int(ms * per_ms)) for ms in _WORK_MS}
    return {"empty": guests.EMPTY, **working}


def _order(plan: Plan, task: str, programs: dict[str, str], **more: Any) -> Order:
    # One directory for all: each guest is compiled once.
    return Order(
        task=task, data_dir=str(plan.work_dir / "data"), seconds=plan.seconds, guests=programs,
        **more,
    )  # fmt: skip


def _done(order: Order) -> list[dict[str, Any]]:
    # Long for a machine that is busy with something else as well.
    limit_s = _STALL_S + 20 * order.seconds
    with tempfile.TemporaryFile() as log:
        done = subprocess.run(
            [sys.executable, "-m", "sluice.bench.worker", json.dumps(asdict(order))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, timeout=limit_s,
            check=False,
        )  # fmt: skip
        if done.returncode:
            words = last_words(done.returncode, log)
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"{order.task} could not be measured: {words}"
            )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
