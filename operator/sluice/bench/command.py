"""``sluice bench …``: parses its words, and imports the rest when it is asked for."""

import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.bench.report import Report

_STRATEGIES = ("naive", "early-release", "compiles-alone", "sluice", "sluice-optimizing")
_DEFAULT = "naive,early-release,sluice,sluice-optimizing"
_WORKFLOWS = 60
_EXAMPLES = Path("examples")
_EXIT_FAILED = 1


@click.group()
def bench() -> None:
    """Measure on this machine what a start costs, and an execution."""


def _strategies(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    if unknown := [name for name in names if name not in _STRATEGIES]:
        raise click.BadParameter(f'"{unknown[0]}" is none of {", ".join(_STRATEGIES)}')
    return tuple(dict.fromkeys(names))


def _bytes(_: click.Context, __: click.Parameter, value: str) -> int:
    from sluice.workflow import quantity

    try:
        count = quantity(value)
    except ValueError as e:
        raise click.BadParameter(str(e)) from None
    if count < 1:
        raise click.BadParameter("must be more than 0")
    return count


def _chart(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Refuse before minutes of measuring what would fail after them."""
    if value is None:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        raise click.BadParameter("needs matplotlib: pip install 'sluice-operator[bench]'")
    if value.suffix != ".png" or not value.parent.is_dir():
        raise click.BadParameter(f"{value} is no .png in a directory that exists")
    return value


@bench.command(short_help="Start many workflows at once, in several ways.")
@click.argument("directory", metavar="[DIR]", required=False,
                type=click.Path(exists=True, path_type=Path))  # fmt: skip
@click.option("--workflows", type=click.IntRange(1, 10_000), metavar="N",
              help="The first N, or as many copies as it takes; no two are the same module.  "
              f"[default: those of DIR as they are; {_WORKFLOWS} without DIR]")  # fmt: skip
@click.option("--subscribe-wait", "wait_s", default=2.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(0, 3600),
              help="How long each workflow subscribes once it is compiled.")  # fmt: skip
@click.option("--strategies", default=_DEFAULT, show_default=True, callback=_strategies,
              metavar="LIST", help="Which, and in which order.")  # fmt: skip
@click.option(
    "--memory-limit",
    "limit_bytes",
    default="512Mi",
    show_default=True,
    callback=_bytes,
    metavar="QUANTITY",
    help="Of the pod: what the operator keeps below.",
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--chart", callback=_chart, metavar="FILE.png",
              type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="Memory over time, drawn (needs the extra `bench`).")  # fmt: skip
def reboot(directory: Path | None, output: str, chart: Path | None, **options: Any) -> int:
    """Start many workflows at once, in several ways; measure memory and time of each.

    Takes the workflows of DIR, or of ./examples those that are large enough to tell. Each way is
    a process of its own with the same inputs: naive and early-release compile in threads, as such
    software usually does; sluice is this operator, cold and then warm from its cache;
    sluice-optimizing is the same without its baseline compiler. One more, compiles-alone, is the
    least that a cold start can take.
    """
    if directory is None and not _EXAMPLES.is_dir():
        raise click.UsageError("there is no ./examples here; give a DIR with your Workflows")
    # A kill is a Ctrl-C: what was started and written is cleared away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _progress() as told:
        report = _measured(directory, options, told)
        if chart:
            from sluice.bench.chart import draw

            draw(report, chart)
    text = json.dumps(report.as_json(), indent=2) if output == "json" else None
    click.echo(text or "\n".join(report.table()))
    for line in report.failures():
        click.echo(f"sluice: {line}", err=True)
    return _EXIT_FAILED if report.failures() else 0


@bench.command("run", short_help="Run guests in several ways, beside the bare binding.")
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=2.0, show_default=True,
              help="For each figure.")  # fmt: skip
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--neighbours", is_flag=True,
              help="Also: how long a workflow waits beside each that breaks a limit.")  # fmt: skip
@click.option("--profile", is_flag=True, help="Also: where the time of an execution goes.")
def run(seconds: float, output: str, neighbours: bool, profile: bool) -> int:
    """Run an empty guest, one of 5 ms and one of 100 ms; measure rate, latency and CPU of each.

    On one core and on all, each in four ways: bare is the binding in a loop; engine adds the
    limits; memory adds triggers, queue and history; durable is what the operator does, with all of
    it on disk. Then what 10,000 waiting events hold of memory, and 500 armed schedules of a CPU.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from sluice.bench import race
    from sluice.bench.verdicts import RunReport

    with _progress() as told, _work_dir() as work:
        cores = sorted({1, len(os.sched_getaffinity(0))})
        plan = race.Plan(
            seconds=seconds, cores=cores, profile=profile, neighbours=neighbours, work_dir=work
        )
        report = RunReport(race.measure(plan, told))
    text = json.dumps(report.as_json(), indent=2) if output == "json" else None
    click.echo(text or "\n".join(report.table()))
    return 0


@contextlib.contextmanager
def _work_dir() -> Iterator[Path]:
    # On a disk: compiled modules on a tmpfs would count as memory that nobody can have back, and
    # a journal there would be synced for nothing.
    base = Settings().data_dir.parent
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as work:
        yield Path(work)


def _measured(
    directory: Path | None, options: dict[str, Any], told: Callable[[str], None]
) -> "Report":
    from sluice.bench import inputs, reboot
    from sluice.bench.report import Facts, Report

    with _work_dir() as work:
        folder = work / "inputs"
        folder.mkdir()
        workflows = options["workflows"] or (None if directory else _WORKFLOWS)
        gathered = inputs.gather(
            directory or _EXAMPLES, workflows, folder, real_only=directory is None,
            told=lambda done, count: told(f"preparing workflow {done} of {count}"),
        )  # fmt: skip
        plan = reboot.Plan(
            strategies=options["strategies"],
            inputs=folder,
            work_dir=work,
            subscribe_wait_s=options["wait_s"],
            memory_limit_bytes=options["limit_bytes"],
        )
        courses = reboot.measure(plan, told)
    facts = Facts(
        what=inputs.words(gathered.all),
        workflows=len(gathered.all),
        subscribe_wait_s=options["wait_s"],
        memory_limit_bytes=options["limit_bytes"],
        settings=Settings(),
    )
    return Report(facts, courses)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Yield who is told of each step: on a terminal one line that changes, else one per stage."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield status.update
        return
    stage = ""

    def tell(text: str) -> None:
        nonlocal stage
        begun, _, _ = text.partition(":")
        if begun.split(" workflow ")[0] != stage:
            stage = begun.split(" workflow ")[0]
            click.echo(f"sluice: {stage}", err=True)

    yield tell
