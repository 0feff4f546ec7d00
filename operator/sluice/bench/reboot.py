"""Every strategy on the same inputs, one after the other, each in a fresh process tree."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from sluice.bench.sampler import Sample, Sampler
from sluice.bench.stage import Order

_SETTLE_S = 0.5  # after the last engine serves, until what stays in memory is read
_STALL_S = 600  # twice what one compile may take: without a word for so long, it will not end
_WORDS_BYTES_MAX = 4096
_NOTHING = Sample(0.0, 0, 0, 0)

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured; ``work_dir`` is the caller's to remove."""

    strategies: Sequence[str]
    inputs: Path
    work_dir: Path
    subscribe_wait_s: float
    memory_limit_bytes: int


@dataclass(slots=True)
class Course:
    """One run of one strategy, as it was seen from outside."""

    label: str
    strategy: str
    samples: list[Sample] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    died: str = ""

    @property
    def begin(self) -> float:
        """The moment from which seconds count: all is imported, nothing is read yet."""
        return next((float(e["at"]) for e in self.events), 0.0)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    def count(self, event: str) -> int:
        """Return how many workflows are ready, or optimised, at the end."""
        return max((int(e["count"]) for e in self.of(event)), default=0)

    def seconds(self, event: str) -> float | None:
        """Return when the last event of a kind was; None where there was none."""
        found = self.of(event)
        return float(found[-1]["at"]) - self.begin if found else None

    @property
    def peak(self) -> Sample:
        return max(self.samples, key=lambda sample: sample.total, default=_NOTHING)

    @property
    def after(self) -> Sample:
        return self.samples[-1] if self.samples else _NOTHING


def measure(plan: Plan, told: Told) -> list[Course]:
    """Return the courses: what keeps a cache runs cold, and then warm in a new process."""
    courses = []
    for strategy in plan.strategies:
        data_dir = plan.work_dir / f"data-{strategy}"
        order = Order(
            strategy=strategy,
            inputs=str(plan.inputs),
            data_dir=str(data_dir),
            subscribe_wait_s=plan.subscribe_wait_s,
            memory_limit_bytes=plan.memory_limit_bytes,
        )
        ours = strategy.startswith("sluice")
        labels = (f"{strategy} cold", f"{strategy} warm") if ours else (strategy,)
        courses += [_course(label, order, told) for label in labels]
        shutil.rmtree(data_dir, ignore_errors=True)
    return courses


def _course(label: str, order: Order, told: Told) -> Course:
    course = Course(label, order.strategy)
    with tempfile.TemporaryFile() as log, _child(order, log) as process:
        with Sampler(process.pid) as sampler:
            course.samples = sampler.samples
            done = _follow(process, course, told)
            if done:
                time.sleep(_SETTLE_S)
        if done:
            _release(process)
        code = process.wait()
        if code or not done:
            course.died = last_words(code, log)
    return course


@contextlib.contextmanager
def _child(order: Order, log: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a strategy; it and what it started are gone after the block, however it ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sluice.bench.child", json.dumps(asdict(order))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,  # Ctrl-C is for the parent, which ends the child
    )
    with process:
        try:
            yield process
        finally:
            process.kill()  # its compile children die with it: they asked the kernel for that


def _follow(process: "subprocess.Popen[bytes]", course: Course, told: Told) -> bool:
    """Read what the child tells until all is ready; return whether it came so far."""
    while line := _line(process):
        event = json.loads(line)
        course.events.append(event)
        if event["event"] == "done":
            return True
        told(f"{course.label}: {course.count('ready')} ready")
    return False


def _line(process: "subprocess.Popen[bytes]") -> bytes:
    # Whoever stalls is killed, and the pipe ends.
    timer = threading.Timer(_STALL_S, process.kill)
    timer.start()
    try:
        return cast("IO[bytes]", process.stdout).readline()
    finally:
        timer.cancel()


def _release(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(BrokenPipeError):
        cast("IO[bytes]", process.stdin).write(b"end\n")
        cast("IO[bytes]", process.stdin).flush()


def last_words(code: int, log: IO[bytes]) -> str:
    end = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    log.seek(max(0, log.seek(0, 2) - _WORDS_BYTES_MAX))
    lines = log.read().decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return f"ended with {end}: {last}"
