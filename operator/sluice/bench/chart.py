"""Memory over time, drawn: what one sees at a glance must be what the table says."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sluice.bench.reboot import Course
from sluice.bench.report import Facts, Report
from sluice.settings import MIB

_WIDTH_IN, _HEIGHT_IN, _DPI = 11.0, 7.5, 120
_HEADROOM = 1.12


@dataclass(frozen=True, slots=True)
class _Style:
    """Told apart by dashes and by how dark they are; the hue only helps."""

    colour: str
    dashes: str | tuple[int, tuple[int, ...]]
    width: float


_STYLES = {
    "naive": _Style("#9a9a9a", "-", 1.3),
    "early-release": _Style("#c2571a", (0, (6, 2)), 1.5),
    "compiles-alone": _Style("#8a8a8a", (0, (1, 2)), 1.2),
    "sluice cold": _Style("#08306b", "-", 2.2),
    "sluice warm": _Style("#2171b5", (0, (1, 1)), 2.2),
    "sluice-optimizing cold": _Style("#33691e", (0, (8, 2, 1, 2)), 1.8),
    "sluice-optimizing warm": _Style("#689f38", (0, (3, 1, 1, 1, 1, 1)), 1.8),
}


def draw(report: Report, path: Path) -> None:
    """Write the chart of a report as a PNG."""
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    facts = report.facts
    figure.suptitle(f"Reboot of {facts.what}", fontsize=13)
    upper.set_title(
        f"{facts.settings.starts_max} starts at once, each subscribes for "
        f"{facts.subscribe_wait_s:g} s; memory of the whole process tree",
        fontsize=10,
    )
    for course in report.courses:
        _memory(upper, course)
        _progress(lower, course)
    _limits(upper, facts)
    _axes(upper, lower, report)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, format="png")


def _memory(axes: Axes, course: Course) -> None:
    style = _STYLES[course.label]
    seen = [sample for sample in course.samples if sample.at >= course.begin]
    axes.plot(
        [sample.at - course.begin for sample in seen],
        [sample.total / MIB for sample in seen],
        color=style.colour, linestyle=style.dashes, linewidth=style.width,
        label=f"{course.label} (peak {course.peak.total / MIB:.0f} MiB)",
    )  # fmt: skip
    if seen:
        top = max(seen, key=lambda sample: sample.total)
        axes.plot(top.at - course.begin, top.total / MIB, marker="o", markersize=5,
                  color=style.colour, zorder=5)  # fmt: skip


def _progress(axes: Axes, course: Course) -> None:
    """Draw how many serve, a step each; a tick on the line where a batch began.

    A thin line of the same make: how many of them are optimised.
    """
    style = _STYLES[course.label]
    ready, optimised = _steps(course, "ready"), _steps(course, "optimised")
    for steps, width in ((ready, style.width), (optimised, style.width / 2)):
        if steps:
            axes.plot(*zip(*steps, strict=True), drawstyle="steps-post",
                      color=style.colour, linestyle=style.dashes, linewidth=width)  # fmt: skip
    begun = [event["at"] - course.begin for event in course.of("batch")]
    served = [max((count for at, count in ready if at <= moment), default=0) for moment in begun]
    axes.plot(begun, served, linestyle="none", marker="|", markersize=9,
              color=style.colour)  # fmt: skip


def _steps(course: Course, event: str) -> list[tuple[float, int]]:
    """Return the counts over time, from none at the start to the last at the end."""
    told = [(e["at"] - course.begin, e["count"]) for e in course.of(event)]
    return [(0.0, 0), *told, (course.after.at - course.begin, course.count(event))] if told else []


def _limits(axes: Axes, facts: Facts) -> None:
    for name, value, dashes in (
        ("limit", facts.memory_limit_bytes / MIB, "-"),
        ("high watermark", facts.high_bytes / MIB, "--"),
        ("low watermark", facts.low_bytes / MIB, ":"),
    ):
        axes.axhline(value, color="black", linestyle=dashes, linewidth=0.9, zorder=1)
        axes.annotate(f"{name} {value:.0f} MiB", (1.0, value), xycoords=("axes fraction", "data"),
                      xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=8)  # fmt: skip


def _axes(upper: Axes, lower: Axes, report: Report) -> None:
    highest = max([report.facts.memory_limit_bytes, *(c.peak.total for c in report.courses)])
    upper.set_ylim(0, highest / MIB * _HEADROOM)
    upper.set_ylabel("memory, MiB")
    lower.set_ylabel("ready (thin: optimised)")
    lower.set_ylim(0, report.facts.workflows * _HEADROOM)
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    lower.set_xlabel("seconds since the start (| a batch begins)")
    lower.set_xlim(left=0)
    for axes in (upper, lower):
        axes.grid(visible=True, linewidth=0.3)
