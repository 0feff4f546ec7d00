"""``sluice simulate``; apart from cli.py, which had no room."""

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluice.errors import WorkflowInvalid
from sluice.options import json_of, settings, settings_options, text_of
from sluice.reasons import Reason
from sluice.settings import Settings

if TYPE_CHECKING:
    from sluice.simulate import Cassette, Line, Order, Simulation

_CASSETTE_BYTES_MAX = 64 << 20


@click.command(no_args_is_help=True, short_help="Run a CRE workflow once, without a cluster.")
@click.argument("module", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--config", type=click.File("rb"), help="The workflow's config.")
@click.option("--trigger", default=0, show_default=True, type=click.IntRange(min=0), metavar="N",
              help="The subscription that fires, the first one is 0.")  # fmt: skip
@click.option("--event", help="JSON of what the trigger tells, or @FILE: an http trigger's input; "
              'of a cron trigger {"scheduledExecutionTime": "2026-01-31T12:00:00Z"}.')  # fmt: skip
@click.option("--secrets", type=click.File("rb"),
              help='JSON of secrets: {"ID": "VALUE", "NAMESPACE/ID": "VALUE"}.')  # fmt: skip
@click.option("--memory", help="limits.memory, such as 64Mi.")
@click.option("--timeout", help="limits.timeout, such as 30s.")
@click.option("--record", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="Write what capabilities answer to this file; no secrets.")  # fmt: skip
@click.option("--replay", type=click.File("rb"),
              help="Answer from what was recorded, and ask nobody.")  # fmt: skip
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="text: the result on stdout, all else on stderr.")  # fmt: skip
@settings_options(cluster=False)
def simulate(module: Path, output: str, record: Path | None, **values: Any) -> int:
    """Run the CRE workflow MODULE once, as an operator would, without a cluster.

    Tells what it subscribes to, what it logs, and what it asks of capabilities and how long that
    took. Exits with 1 where the execution failed.
    """
    from sluice import simulate as simulating

    bounds = settings(values)
    order = _order(module, bounds, values)
    told = (lambda _: None) if output == "json" else _tell
    done = asyncio.run(simulating.simulate(order, bounds, told))
    if record:
        record.write_text(done.recorded.dump())
    if output == "json":
        click.echo(json.dumps(_as_json(done), indent=2, ensure_ascii=False))
    else:
        _tell_end(done)
    return 0 if done.outcome.ok else 1


def _order(path: Path, bounds: Settings, values: dict[str, Any]) -> "Order":
    from sluice.simulate import Order

    with path.open("rb") as file:
        wasm = file.read(bounds.binary_bytes_max + 1)
    if not 0 < len(wasm) <= bounds.binary_bytes_max:
        raise WorkflowInvalid(
            Reason.MODULE_TOO_LARGE if wasm else Reason.NOT_WASM,
            f"{path}: has {'more than ' if wasm else ''}"
            f"{bounds.binary_bytes_max if wasm else 0:,} bytes (binary_bytes_max)",
        )
    limits = {name: values[name] for name in ("memory", "timeout") if values[name]}
    return Order(
        wasm=wasm, name=str(path), config=text_of(values["config"]) or "",
        trigger=values["trigger"], event=_event(values["event"]),
        secrets=_secrets(values["secrets"]), limits=limits, replay=_cassette(values["replay"]),
    )  # fmt: skip


def _event(text: str | None) -> Any:
    if text is None:
        return None
    try:
        if text.startswith("@"):
            with open(text[1:], "rb") as file:  # noqa: PTH123 - what json_of reads
                return json_of(file, "--event")
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise click.BadParameter(f"is not JSON: {e}", param_hint="--event") from None


def _secrets(file: Any) -> dict[str, str]:
    found = json_of(file, "--secrets")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise click.BadParameter(
            f'{file.name}: write {{"ID": "VALUE"}}, every value a text', param_hint="--secrets"
        )
    return found


def _cassette(file: Any) -> "Cassette | None":
    if file is None:
        return None
    from sluice.simulate import Cassette

    text = file.read(_CASSETTE_BYTES_MAX).decode(errors="replace")
    return Cassette.load(file.name, text)


def _tell(line: "Line") -> None:
    if line.kind == "trigger":
        click.echo(f"trigger {line.text}", err=True)
        return
    took = "" if line.took_s is None else f"  {line.took_s * 1000:.1f} ms"
    error = f"  {line.error}" if line.error else ""
    told = f"{line.at_s * 1000:9.1f} ms  {line.kind:<7}  {line.text}{took}{error}"
    click.echo(told, err=True)


def _tell_end(done: "Simulation") -> None:
    outcome = done.outcome
    took = f"{outcome.duration_s * 1000:.0f} ms, {outcome.cpu_s * 1000:.0f} ms of CPU"
    message = f": {outcome.message}" if outcome.message else ""
    memory = f"{outcome.memory_bytes / (1 << 20):.0f} MiB"
    click.echo(f"{outcome.kind} in {took}, {memory}{message}", err=True)
    if outcome.result:
        click.echo(outcome.result.decode(errors="replace"))


def _as_json(done: "Simulation") -> dict[str, Any]:
    outcome = done.outcome
    return {
        "triggers": list(done.triggers),
        "lines": [
            {"at": round(line.at_s, 6), "kind": line.kind, "text": line.text}
            | ({} if line.took_s is None else {"took": round(line.took_s, 6)})
            | ({"error": line.error} if line.error else {})
            for line in done.lines
        ],
        "outcome": str(outcome.kind),
        "message": outcome.message,
        "seconds": round(outcome.duration_s, 6),
        "cpuSeconds": round(outcome.cpu_s, 6),
        "memoryBytes": outcome.memory_bytes,
        "result": json.loads(outcome.result) if outcome.result else None,
    }
