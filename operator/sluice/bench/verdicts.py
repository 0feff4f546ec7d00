"""What ``sluice bench run`` found, as a table for people and as JSON for programs."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sluice.bench.load import Figures
from sluice.bench.race import Found
from sluice.settings import MIB

# What the operator is held to.
_BUSY_MIN, _OVER_BARE_S_MAX, _LAG_S_MAX, _REST_MAX = 0.95, 300e-6, 0.020, 0.001
_COLUMNS = (
    "guest", "cores", "way", "per s", "of bare", "p50 ms", "p99 ms", "CPU us", "over bare us",
    "busy %", "others %", "lag p99 ms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that the operator is held to, and what was found of it."""

    what: str
    found: float
    bound: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    @property
    def text(self) -> str:
        way = "at least" if self.at_least else "at most"
        end = "met" if self.met else f"MISSED by {abs(self.found - self.bound):.3g} {self.unit}"
        return f"{self.what}: {self.found:.3g} {self.unit} ({way} {self.bound:.3g}): {end}"


class RunReport:
    """Figures of one run; each ratio is out of two figures beside each other."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._at = {(f.guest, f.cores, f.way): f for f in found.figures}

    def targets(self) -> list[Target]:
        cores = max(f.cores for f in self._found.figures)
        seen = [f.lag_p99_s for f in self._found.figures] + [self._found.queue["lag_p99_s"]]
        lags = [lag for lag in seen if lag is not None]
        busy, empty = self._at["100 ms", cores, "durable"], self._at["empty", 1, "durable"]
        over, rest = self._over_bare(empty), self._found.rest
        # What others took was not idle: work that waits for a core is not the operator's to find.
        others = busy.others if cores == os.cpu_count() else 0.0
        return [
            Target(
                f"{cores} cores busy on the 100 ms guest, durable (of it {100 * others:.0f} % by "
                "others)", 100 * (busy.busy + others), 100 * _BUSY_MIN, "%", at_least=True,
            ),
            Target(
                "an execution beyond the bare binding, durable", 1e6 * over,
                1e6 * _OVER_BARE_S_MAX, "us of CPU",
            ),
            Target(
                "the loop's lag at p99, the worst of all above", 1e3 * max(lags),
                1e3 * _LAG_S_MAX, "ms",
            ),
            Target(
                f"{rest['crons']} armed crons at rest, beyond none",
                100 * (rest["cpu_armed"] - rest["cpu_none"]), 100 * _REST_MAX, "% of a core",
            ),
        ]  # fmt: skip

    def _over_bare(self, figures: Figures) -> float:
        return figures.cpu_s - self._at[figures.guest, figures.cores, "bare"].cpu_s

    def table(self) -> list[str]:
        lines = aligned([_COLUMNS, *(self._row(figures) for figures in self._sorted())])
        lines += ["", self._queue(), *(target.text for target in self.targets())]
        if self._found.neighbours:
            lines += ["", *aligned(list(self._neighbours()))]
        for profile in self._found.profiles:
            lines += ["", *aligned(list(_profile_rows(profile)))]
        return lines

    def _sorted(self) -> list[Figures]:
        # Side by side what is compared; each way comes in the order it was measured in.
        guests = list(dict.fromkeys(f.guest for f in self._found.figures))
        return sorted(self._found.figures, key=lambda f: (guests.index(f.guest), f.cores))

    def _row(self, f: Figures) -> tuple[str, ...]:
        bare = self._at[f.guest, f.cores, "bare"]
        return (
            f.guest, str(f.cores), f.way, f"{f.per_s:.0f}" if f.per_s > 100 else f"{f.per_s:.1f}",
            f"{f.per_s / bare.per_s:.2f}", _ms(f.p50_s), _ms(f.p99_s), f"{1e6 * f.cpu_s:.0f}",
            "" if f is bare else f"{1e6 * self._over_bare(f):+.0f}", f"{100 * f.busy:.1f}",
            f"{100 * f.others:.0f}", "" if f.lag_p99_s is None else _ms(f.lag_p99_s),
        )  # fmt: skip

    def _queue(self) -> str:
        queue = self._found.queue
        events, size = queue["events"], queue["event_bytes"]
        return (
            f"{events:,} events of {size:,} bytes wait in {queue['memory_bytes'] / MIB:.1f} MiB of "
            f"memory; accepted {queue['accepted_per_s']:.0f} a second, lag at p99 "
            f"{_ms(queue['lag_p99_s'])} ms"
        )

    def _neighbours(self) -> Iterator[tuple[str, ...]]:
        alone, *beside = self._found.neighbours
        yield ("a 5 ms guest beside", "p50 ms", "of alone", "p99 ms", "of alone", "lag p99 ms")
        yield ("nobody", _ms(alone["p50_s"]), "", _ms(alone["p99_s"]), "", _ms(alone["lag_p99_s"]))
        for one in beside:
            yield (
                one["offender"], _ms(one["p50_s"]), f"{one['p50_s'] / alone['p50_s']:.2f}",
                _ms(one["p99_s"]), f"{one['p99_s'] / alone['p99_s']:.2f}", _ms(one["lag_p99_s"]),
            )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        found = self._found
        return {
            "figures": [_finite(asdict(f)) for f in found.figures],
            "queue": found.queue,
            "rest": found.rest,
            "neighbours": found.neighbours,
            "profiles": [asdict(profile) for profile in found.profiles],
            "targets": [asdict(t) | {"met": t.met} for t in self.targets()],
        }


def _profile_rows(profile: Any) -> Iterator[tuple[str, ...]]:
    yield (f"one {profile.guest} on an engine", "us", "%")
    for step, seconds in profile.steps.items():
        yield (step, f"{1e6 * seconds:.1f}", f"{100 * seconds / profile.whole_s:.0f}")
    yield ("the whole", f"{1e6 * profile.whole_s:.1f}", "100")
    if profile.bare_s:
        part = f"{100 * profile.bare_s / profile.whole_s:.0f}"
        yield ("the bare binding", f"{1e6 * profile.bare_s:.1f}", part)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines: words to the left in the first column, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([f"{row[0]:<{widths[0]}}",
                   *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]  # fmt: skip


def _ms(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{1000 * seconds:.2f}"


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    # JSON has no NaN: what was not seen within the time is null.
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in figures.items()
    }
