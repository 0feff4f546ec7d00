"""What was measured, as a table for people and as JSON for programs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sluice.bench.reboot import Course
from sluice.rollout.gate import Bounds
from sluice.settings import MIB, Settings

_LIMIT_STEP_BYTES = 32 * MIB
_COLUMNS = ("strategy", "peak MiB", "of it anonymous", "after MiB", "wall s", "ready")


@dataclass(frozen=True, slots=True)
class Facts:
    """What all the courses had in common."""

    what: str  # the inputs, in words
    workflows: int
    subscribe_wait_s: float
    memory_limit_bytes: int
    settings: Settings

    @property
    def low_bytes(self) -> int:
        return Bounds.of(self.settings).low(self.memory_limit_bytes)

    @property
    def high_bytes(self) -> int:
        return Bounds.of(self.settings).high(self.memory_limit_bytes)

    def limit_for(self, used: int) -> int:
        """Return the least limit, in whole steps, whose high watermark is not below ``used``."""
        settings = self.settings
        least = max(used / settings.memory_high_fraction, used + settings.memory_reserve_bytes)
        return math.ceil(least / _LIMIT_STEP_BYTES) * _LIMIT_STEP_BYTES

    @property
    def waits_s(self) -> float:
        """What the subscription waits take if nothing else does."""
        return math.ceil(self.workflows / self.settings.starts_max) * self.subscribe_wait_s


@dataclass(frozen=True, slots=True)
class Ratio:
    """One measure of one course, as a part of another's."""

    course: str
    measure: str
    of: str
    value: float

    @property
    def text(self) -> str:
        return f"{self.course}: {self.measure} {self.value:.2f} of {self.of}"


class Report:
    """Figures of one run, each ratio out of the figures beside it."""

    def __init__(self, facts: Facts, courses: Sequence[Course]) -> None:
        self.facts, self.courses = facts, courses
        self._named = {course.label: course for course in courses}

    def ratios(self) -> list[Ratio]:
        found = []
        for course in self.courses:
            if course.strategy.startswith("sluice") and not course.died:
                found += self._ratios(course)
        return found

    def _ratios(self, course: Course) -> list[Ratio]:
        wall, optimised = course.seconds("ready"), course.seconds("optimised")
        pairs: list[tuple[str, float | None, str, float | None]] = []
        if other := self._named.get("early-release") or self._named.get("naive"):
            pairs += [
                ("peak", course.peak.total, f"the peak of {other.label}", other.peak.total),
                ("all ready in", wall, f"the wall of {other.label}", other.seconds("ready")),
            ]
            if _s(optimised) != _s(wall):  # else it says the same
                whose = f"the wall of {other.label}"
                pairs.append(("all optimised in", optimised, whose, other.seconds("ready")))
        if course.label.endswith("warm"):
            pairs.append(("all ready in", wall, "its subscription waits", self.facts.waits_s))
        elif alone := self._named.get("compiles-alone"):
            last = wall if optimised is None else optimised
            pairs.append(("all compiled in", last, "compiles-alone", alone.seconds("ready")))
        return [
            Ratio(course.label, measure, of, value / base)
            for measure, value, of, base in pairs
            if value is not None and base
        ]

    def advice(self) -> str:
        """Say which limit these workflows need; empty where our own path did not run or finish."""
        cold = [c for c in self.courses if c.label.endswith(" cold") and not c.died]
        if not cold:
            return ""
        largest = max(int(e["largest_compile_bytes"]) for c in cold for e in c.of("done"))
        # The gate lets the largest one start beside all that serves only if its peak fits there.
        needed = max(max(c.peak.total, c.after.total + largest) for c in cold)
        return (
            f"for these workflows a limit of {self.facts.limit_for(needed) // MIB} MiB is enough; "
            f"the largest compile needs {math.ceil(largest / MIB)} MiB"
        )

    def failures(self) -> list[str]:
        """Return what was wrong, a line each."""
        lines = []
        for course in self.courses:
            if course.died:
                lines.append(f"{course.label}: {course.died}")
            lines += [f"{course.label}: {e['name']}: {e['message']}" for e in course.of("failed")]
        return lines

    def table(self) -> list[str]:
        rows = [_COLUMNS + (("optimised s",) if self._tiers() else ())]
        rows += [self._row(course) for course in self.courses]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *figures in rows:
            cells = [f"{text:>{width}}" for text, width in zip(figures, widths[1:], strict=True)]
            lines.append("  ".join([f"{name:<{widths[0]}}", *cells]))
        lines += [ratio.text for ratio in self.ratios()]
        return [*lines, self.advice()] if self.advice() else lines

    def _row(self, course: Course) -> tuple[str, ...]:
        peak = course.peak
        row = (
            course.label, _mib(peak.total), _mib(peak.anonymous), _mib(course.after.total),
            _s(course.seconds("ready")), str(course.count("ready")),
        )  # fmt: skip
        return (*row, _s(course.seconds("optimised"))) if self._tiers() else row

    def _tiers(self) -> bool:
        return any(course.of("optimised") for course in self.courses)

    def as_json(self) -> dict[str, Any]:
        facts = self.facts
        return {
            "what": facts.what,
            "workflows": facts.workflows,
            "subscribeWaitSeconds": facts.subscribe_wait_s,
            "memoryLimitBytes": facts.memory_limit_bytes,
            "strategies": [_as_json(course) for course in self.courses],
            "ratios": [
                {"strategy": r.course, "measure": r.measure, "of": r.of, "value": round(r.value, 4)}
                for r in self.ratios()
            ],
            "advice": self.advice(),
            "failures": self.failures(),
        }


def _as_json(course: Course) -> dict[str, Any]:
    peak, samples = course.peak, course.samples
    took = samples[-1].at - samples[0].at if samples else 0.0
    return {
        "strategy": course.label,
        "peakBytes": peak.total,
        "anonymousBytesAtPeak": peak.anonymous,
        "peakAnonymousBytes": max((s.anonymous for s in samples), default=0),
        "afterBytes": course.after.total,
        "wallSeconds": _rounded(course.seconds("ready")),
        "optimisedSeconds": _rounded(course.seconds("optimised")),
        "ready": course.count("ready"),
        "optimised": course.count("optimised"),
        "failed": len(course.of("failed")),
        "died": course.died or None,
        "batches": len(course.of("batch")),
        "holds": len(course.of("hold")),
        "samples": {
            "count": len(samples),
            "perSecond": round(len(samples) / took, 1) if took else 0.0,
            "processesMax": max((s.processes for s in samples), default=0),
            "meanBytes": round(sum(s.total for s in samples) / len(samples)) if samples else 0,
        },
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _mib(count: int) -> str:
    return f"{count / MIB:.0f}"


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
