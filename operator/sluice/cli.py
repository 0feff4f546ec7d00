"""The command line. Each command parses its words, hands over, and turns errors into one line."""

import asyncio
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from sluice.bench.command import bench
from sluice.errors import SluiceError, SourceUnavailable, WorkflowInvalid
from sluice.options import (
    check_unicode,
    json_of,
    log_options,
    namespace_name,
    settings,
    settings_options,
    shown,
    text_of,
    workflow_name,
)
from sluice.queries import executions, logs, status
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.simulate_command import simulate

_EXIT_FAILED, _EXIT_INVALID, _EXIT_UNAVAILABLE, _EXIT_INTERRUPTED = 1, 3, 4, 130
# A plain `kubectl apply` repeats the object, base64 and all, in an annotation of at most 262,144
# bytes: 190,000 raw ones are 253,336 of base64, and leave room for the rest of the object. The API
# server refuses ConfigMaps over 1 MiB of raw bytes.
_PART_BYTES, _PART_BYTES_MIN, _PART_BYTES_MAX = 190_000, 1024, 1 << 20
_EPILOG = """\b
Exit codes:
  0  done
  1  done, but something failed; the output says what
  2  the command line is wrong
  3  a file, a directory, a module or an object is wrong
  4  the cluster cannot be reached or does not allow it
  130  ended by Ctrl-C"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sluice-operator", message="sluice %(version)s")
def cli() -> None:
    """Run WebAssembly workflows on Kubernetes without ever being killed for memory."""


for command in (bench, executions, logs, simulate, status):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; whatever goes wrong is one line and an exit code, no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what its terminal cannot show, it shows escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()  # here a full disk still has an exit code
    except click.exceptions.Abort:
        code = _EXIT_INTERRUPTED
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except SluiceError as e:
        _tell_error(e.message)
        code = _EXIT_UNAVAILABLE if isinstance(e, SourceUnavailable) else _EXIT_INVALID
    except BrokenPipeError:
        code = _EXIT_FAILED  # whoever read the output, `head` perhaps, has had enough
    except OSError as e:
        _tell_error(
            f"{e.filename}: {e.strerror}" if e.filename else f"input or output: {e.strerror or e}"
        )
        code = _EXIT_INVALID
    _leave(code if isinstance(code, int) else 0)


def _tell_error(message: str) -> None:
    click.echo(f"sluice: {' '.join(message.split())}", err=True)


def _leave(code: int) -> NoReturn:
    # Python would wait for its threads, and a guest that was cut off runs on in one, for ever.
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


@cli.command(no_args_is_help=True, short_help="Make of a wasm file what `kubectl apply` takes.")
@click.argument("module", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, callback=workflow_name, help="The Workflow's name.")
@click.option(
    "--namespace",
    callback=namespace_name,
    help="Its namespace; without it, that of `kubectl apply`.",
)
@click.option(
    "--encoding",
    type=click.Choice(["brotli", "zstd", "gzip", "none"]),
    default="brotli",
    show_default=True,
    help="How the module is compressed.",
)
@click.option(
    "--abi", type=click.Choice(["wasi", "cre"]), help="Detected from the imports by default."
)
@click.option(
    "--part-size",
    default=_PART_BYTES,
    show_default=True,
    type=click.IntRange(_PART_BYTES_MIN, _PART_BYTES_MAX),
    metavar="BYTES",
    help="Compressed bytes in one ConfigMap. More than the default needs "
    "`kubectl apply --server-side`.",
)
@click.option("--cron", "schedule", help='Also run on this schedule, such as "*/5 * * * *".')
@click.option("--time-zone", help="Of --cron, such as Europe/Zurich.  [default: UTC]")
@click.option(
    "--data",
    type=click.File("rb"),
    help="JSON that is the data of an event for which nobody gives any.",
)
@click.option("--config", type=click.File("rb"), help="Text that the guest finds in SLUICE_CONFIG.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="May be given several times.")
@click.option("--arg", "args", multiple=True, help="May be given several times.")
@click.option("--memory", help="limits.memory, such as 64Mi.")
@click.option("--timeout", help="limits.timeout, such as 30s.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    default="-",
    help="Instead of stdout.",
)
def pack(module: Path, output: Path, **options: Any) -> None:
    """Check MODULE, compress it, cut it into ConfigMaps, and write what `kubectl apply` takes.

    Makes the very checks that the operator will make, the compile included. The same input
    gives the same bytes.
    """
    from sluice import packing

    if not output.parent.is_dir():
        raise click.BadParameter(f"{output.parent} is no directory", param_hint="--output")
    bounds = Settings()
    order = packing.Order(
        wasm=_module(module, bounds.binary_bytes_max),
        name=options["name"],
        namespace=options["namespace"],
        encoding=options["encoding"],
        part_bytes=options["part_size"],
        spec=_spec(options),
    )
    try:
        with _progress(order.encoding, len(order.wasm)) as told:
            packed = packing.pack(order, bounds, told)
    except WorkflowInvalid as e:
        raise type(e)(e.reason, f"{module}: {e.message}") from None
    _write(output, packed.yaml())
    _tell(module.name, len(order.wasm), packed)


def _module(path: Path, bytes_max: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise WorkflowInvalid(
            Reason.MODULE_TOO_LARGE,
            f"{path}: has more than the {bytes_max:,} bytes that an operator takes "
            "(binary_bytes_max)",
        )
    return data


@contextlib.contextmanager
def _progress(what: str, size: int) -> Iterator[Callable[[int], None]]:
    """Yield what is to be told of each byte that is done: on a terminal a bar shows it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=size)
        yield lambda done: bar.advance(task, done)


def _write(output: Path, texts: Iterable[str]) -> None:
    """Write all or nothing, but where the output is no file: what is no file stays what it is."""
    if str(output) == "-":
        sys.stdout.writelines(texts)
        sys.stdout.flush()
    elif output.exists() and not output.is_file():
        with output.open("w") as file:
            file.writelines(texts)
    else:
        target = output.resolve()  # a link stays one
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with part.open("w") as file:
                file.writelines(texts)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _spec(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the options say of the spec, and nothing that they leave to its defaults."""
    data = json_of(options["data"], "--data")
    spec: dict[str, Any] = {
        "abi": options["abi"],
        "config": text_of(options["config"]),
        "env": [_env(text) for text in options["env"]],
        "args": list(options["args"]),
        "limits": {
            name: options[name] for name in ("memory", "timeout") if options[name] is not None
        },
        "triggers": _triggers(options, data),
    }
    check_unicode(options)
    return {name: value for name, value in spec.items() if value}


def _triggers(options: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    given = {} if data is None else {"data": data}
    triggers: list[dict[str, Any]] = []
    schedule, time_zone = options["schedule"], options["time_zone"]
    if schedule is not None:
        cron = {"schedule": schedule, "timeZone": time_zone or "UTC"}
        triggers.append({"name": "cron", "cron": cron | given})
    elif time_zone is not None:
        raise click.UsageError("--time-zone is that of --cron; give both or none")
    if triggers or given:
        triggers.append({"name": "manual", "manual": given})
    return triggers


def _env(text: str) -> dict[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f'"{shown(text)}" is not NAME=VALUE', param_hint="--env")
    return {"name": name, "value": value}


def _tell(name: str, size: int, packed: Any) -> None:
    record, mib = packed.record, 1 << 20
    parts = len(packed.documents) - 1
    lines = (
        (name, f"{_size(size)}, {record['abi']}, {_count(len(record['imports']), 'import')}"),
        (
            "compile check",
            f"{record['seconds']:.1f} s, peak {record['peak_bytes'] / mib:.0f} MiB, "
            f"compiled {_size(record['compiled_bytes'])}",
        ),
        (
            packed.documents[-1]["spec"]["module"]["encoding"],
            f"{_size(packed.encoded_bytes)} in {_count(parts, 'ConfigMap')}, "
            f"digest sha256:{packed.digest[:12]}…",
        ),
    )
    width = max(len(what) for what, _ in lines)
    for what, text in lines:
        click.echo(f"{what:<{width}}  {text}", err=True)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    return f"{count / 1024:.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.2f} MiB"


@cli.command()
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    envvar="SLUICE_NAMESPACES",
    show_envvar=True,
    callback=namespace_name,
    help="Serve this namespace alone; may be given several times. All of them by default.",
)
@click.option(
    "--http-address", default="0.0.0.0", envvar="SLUICE_HTTP_ADDRESS", show_default=True,  # noqa: S104
    show_envvar=True, help="Where probes and metrics are answered.",
)  # fmt: skip
@click.option(
    "--http-port", default=8080, envvar="SLUICE_HTTP_PORT", show_default=True, show_envvar=True,
    type=click.IntRange(0, 65535), help="0 takes a free one, told in the log.",
)  # fmt: skip
@click.option(
    "--trigger-address", default="0.0.0.0", envvar="SLUICE_TRIGGER_ADDRESS", show_default=True,  # noqa: S104
    show_envvar=True, help="Where http triggers are called.",
)  # fmt: skip
@click.option(
    "--trigger-port", default=8081, envvar="SLUICE_TRIGGER_PORT", show_default=True,
    show_envvar=True, type=click.IntRange(0, 65535), help="0 takes a free one, told in the log.",
)  # fmt: skip
@log_options
@settings_options(cluster=True)
def operator(namespaces: tuple[str, ...], log_format: str, log_level: str, **values: Any) -> None:
    """Run the operator, in a cluster or beside one (KUBECONFIG).

    Serves the Workflows of the cluster until SIGTERM; then what runs may end within the grace.
    """
    from sluice import app, logs

    logs.configure(log_format, log_level)
    options = app.Operator(
        namespaces=namespaces,
        http_address=values.pop("http_address"),
        http_port=values.pop("http_port"),
        trigger_address=values.pop("trigger_address"),
        trigger_port=values.pop("trigger_port"),
    )
    asyncio.run(app.operate(options, settings(values)))


@cli.command(no_args_is_help=True)
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="DIR|FILE…",
    type=click.Path(exists=True, path_type=Path),
)
@click.option("-n", "--namespace", default="default", show_default=True, callback=namespace_name,
              help="For manifests that name none.")  # fmt: skip
@click.option("--once", is_flag=True, help="Until each is ready or failed; run each manual trigger "
              "once, print what it gave, and exit with 1 if anything failed.")  # fmt: skip
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="Of --once, on stdout.")  # fmt: skip
@log_options
@settings_options(cluster=False)
def run(paths: tuple[Path, ...], log_format: str, log_level: str, **values: Any) -> int:
    """Run the workflows of manifests on disk, without a cluster.

    The same code as the operator's. Without --once it goes on until Ctrl-C, and sees files that
    change.
    """
    from sluice import app, logs

    logs.configure(log_format, log_level)
    options = app.Run(
        paths=paths,
        namespace=values.pop("namespace"),
        once=values.pop("once"),
        output=values.pop("output"),
    )
    return 0 if asyncio.run(app.run(options, settings(values))) else _EXIT_FAILED


@cli.command(no_args_is_help=True)
@click.argument("name", callback=workflow_name)
@click.option(
    "-n", "--namespace", callback=namespace_name, help="Of the current context by default."
)
@click.option(
    "--event", type=click.File("rb"), help="JSON that is the data of the event; - is stdin."
)
@click.option("--wait", "wait_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="Wait for the end, print the result, exit with 1 if it failed.")  # fmt: skip
def trigger(name: str, namespace: str | None, event: Any, wait_s: float | None) -> int:
    """Ask for a run of the workflow NAME.

    Does what `kubectl annotate` could: sets sluice.dev/run-at, and sluice.dev/run-data.
    """
    from sluice import app

    data = json_of(event, "--event")
    text = None if event is None else json.dumps(data, ensure_ascii=False)
    ended = asyncio.run(app.trigger(name, namespace, text, wait_s))
    click.echo(ended.text)
    return 0 if ended.ok else _EXIT_FAILED
