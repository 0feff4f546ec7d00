"""The command line. Each command parses its words, hands over, and turns errors into one line."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from sluice.errors import SluiceError, SourceUnavailable, WorkflowInvalid
from sluice.settings import SettingRow, Settings, table

_F = TypeVar("_F", bound=Callable[..., Any])
_EXIT_FAILED, _EXIT_INVALID, _EXIT_UNAVAILABLE = 1, 3, 4
_EPILOG = """\b
Exit codes:
  0  done
  1  done, but something failed; the output says what
  2  the command line is wrong
  3  a file, a module or an object is wrong
  4  the cluster cannot be reached or does not allow it
  130  ended by Ctrl-C"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sluice-operator", message="sluice %(version)s")
def cli() -> None:
    """Run WebAssembly workflows on Kubernetes without ever being killed for memory."""


def main() -> NoReturn:
    """Run the command line; whatever goes wrong is one line and an exit code, no traceback."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as e:
        e.show()
        code = e.exit_code
    except SluiceError as e:
        click.echo(f"sluice: {e.message}", err=True)
        code = _EXIT_UNAVAILABLE if isinstance(e, SourceUnavailable) else _EXIT_INVALID
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        click.echo(f"sluice: {where}{e.strerror or e}", err=True)
        code = _EXIT_INVALID
    sys.exit(code if isinstance(code, int) else 0)


def _settings_options(command: _F) -> _F:
    """Give a command a flag and a variable for every bound of the operator."""
    for row in reversed(table()):
        command = _settings_option(row)(command)
    return command


def _settings_option(row: SettingRow) -> Callable[[_F], _F]:
    return click.option(
        row.flag,
        row.name,
        envvar=row.variable,
        type=click.Path(path_type=Path) if isinstance(row.default, Path) else type(row.default),
        default=row.default,
        show_default=True,
        show_envvar=True,
        metavar=row.unit.upper().replace(" ", "-"),
        help=row.purpose,
    )


def _settings(values: dict[str, Any]) -> Settings:
    names = [row.name for row in table()]
    for name in names:
        if not isinstance(values[name], Path) and values[name] <= 0:
            raise click.UsageError(f"--{name.replace('_', '-')} must be more than 0")
    return Settings(**{name: values[name] for name in names})


@cli.command(no_args_is_help=True)
@click.argument("module", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="The Workflow's name.")
@click.option("--namespace", help="Its namespace; without it, that of `kubectl apply`.")
@click.option(
    "--encoding",
    type=click.Choice(["brotli", "zstd", "gzip", "none"]),
    default="brotli",
    show_default=True,
    help="How the module is compressed.",
)
@click.option("--abi", type=click.Choice(["wasi"]), help="Detected from the imports by default.")
@click.option(
    "--part-size",
    default=190_000,
    show_default=True,
    type=click.IntRange(1024, 1 << 20),
    metavar="BYTES",
    help="Compressed bytes in one ConfigMap. More than the default needs "
    "`kubectl apply --server-side`.",
)
@click.option("--cron", "schedule", help='Also run on this schedule, such as "*/5 * * * *".')
@click.option("--time-zone", default="UTC", show_default=True, help="Of --cron.")
@click.option(
    "--data",
    type=click.File(),
    help="JSON that is the data of an event for which nobody gives any.",
)
@click.option("--config", type=click.File(), help="Text that the guest finds in SLUICE_CONFIG.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="May be given several times.")
@click.option("--arg", "args", multiple=True, help="May be given several times.")
@click.option("--memory", help="limits.memory, such as 64Mi.")
@click.option("--timeout", help="limits.timeout, such as 30s.")
@click.option(
    "-o", "--output", type=click.File("w", atomic=True), default="-", help="Instead of stdout."
)
def pack(module: Path, output: Any, **options: Any) -> None:
    """Check MODULE, compress it, cut it into ConfigMaps, and write what `kubectl apply` takes.

    Makes the very checks that the operator will make, the compile included. The same input
    gives the same bytes.
    """
    from sluice import packing

    order = packing.Order(
        wasm=module.read_bytes(),
        name=options["name"],
        namespace=options["namespace"],
        encoding=options["encoding"],
        part_bytes=options["part_size"],
        spec=_spec(options),
    )
    try:
        packed = packing.pack(order, Settings())
    except WorkflowInvalid as e:
        raise type(e)(e.reason, f"{module}: {e.message}") from None
    for text in packed.yaml():
        output.write(text)
    _tell(module.name, len(order.wasm), packed)


def _spec(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the options say of the spec, and nothing that they leave to its defaults."""
    data = _json(options["data"], "--data")
    spec: dict[str, Any] = {
        "abi": options["abi"],
        "config": options["config"].read() if options["config"] else None,
        "env": [_env(text) for text in options["env"]],
        "args": list(options["args"]),
        "limits": {
            name: options[name] for name in ("memory", "timeout") if options[name] is not None
        },
        "triggers": _triggers(options, data),
    }
    return {name: value for name, value in spec.items() if value}


def _triggers(options: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    given = {} if data is None else {"data": data}
    triggers: list[dict[str, Any]] = []
    if options["schedule"]:
        cron = {"schedule": options["schedule"], "timeZone": options["time_zone"]}
        triggers.append({"name": "cron", "cron": cron | given})
    if triggers or given:
        triggers.append({"name": "manual", "manual": given})
    return triggers


def _env(text: str) -> dict[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f'"{text}" is not NAME=VALUE', param_hint="--env")
    return {"name": name, "value": value}


def _json(file: Any, hint: str) -> Any:
    if file is None:
        return None
    try:
        return json.load(file)
    except ValueError as e:
        raise click.BadParameter(f"{file.name} is not JSON: {e}", param_hint=hint) from None


def _tell(name: str, size: int, packed: Any) -> None:
    record, mib = packed.record, 1 << 20
    parts = len(packed.documents) - 1
    lines = (
        (name, f"{size / mib:.2f} MiB, {record['abi']}, {len(record['imports'])} imports"),
        (
            "compile check",
            f"{record['seconds']:.1f} s, peak {record['peak_bytes'] / mib:.0f} MiB, "
            f"compiled {record['compiled_bytes'] / mib:.1f} MiB",
        ),
        (
            packed.documents[-1]["spec"]["module"]["encoding"],
            f"{packed.encoded_bytes / 1024:.0f} KiB in {parts} "
            f"ConfigMap{'s' if parts > 1 else ''}, digest sha256:{packed.digest[:12]}…",
        ),
    )
    width = max(len(what) for what, _ in lines)
    for what, text in lines:
        click.echo(f"{what:<{width}}  {text}", err=True)


def _log_options(command: _F) -> _F:
    style = click.option(
        "--log-format",
        type=click.Choice(["logfmt", "json"]),
        default="logfmt",
        envvar="SLUICE_LOG_FORMAT",
        show_default=True,
        show_envvar=True,
        help="One line an event, on stderr.",
    )
    level = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        envvar="SLUICE_LOG_LEVEL",
        show_default=True,
        show_envvar=True,
    )
    return style(level(command))


@cli.command()
@click.option(
    "-n",
    "--namespace",
    "namespaces",
    multiple=True,
    envvar="SLUICE_NAMESPACES",
    show_envvar=True,
    help="Serve this namespace alone; may be given several times. All of them by default.",
)
@click.option(
    "--http-address", default="0.0.0.0", envvar="SLUICE_HTTP_ADDRESS", show_default=True,
    show_envvar=True, help="Where probes and metrics are answered.",
)  # fmt: skip
@click.option(
    "--http-port", default=8080, envvar="SLUICE_HTTP_PORT", show_default=True, show_envvar=True,
    type=click.IntRange(0, 65535), help="0 takes a free one, told in the log.",
)  # fmt: skip
@_log_options
@_settings_options
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
    )
    asyncio.run(app.operate(options, _settings(values)))


@cli.command(no_args_is_help=True)
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="DIR|FILE…",
    type=click.Path(exists=True, path_type=Path),
)
@click.option("-n", "--namespace", default="default", show_default=True,
              help="For manifests that name none.")  # fmt: skip
@click.option("--once", is_flag=True, help="Until each is ready or failed; run each manual trigger "
              "once, print what it gave, and exit with 1 if anything failed.")  # fmt: skip
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="Of --once, on stdout.")  # fmt: skip
@_log_options
@_settings_options
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
    return 0 if asyncio.run(app.run(options, _settings(values))) else _EXIT_FAILED


@cli.command(no_args_is_help=True)
@click.argument("name")
@click.option("-n", "--namespace", help="Of the current context by default.")
@click.option("--event", type=click.File(), help="JSON that is the data of the event; - is stdin.")
@click.option("--wait", "wait_s", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
              help="Wait for the end, print the result, exit with 1 if it failed.")  # fmt: skip
def trigger(name: str, namespace: str | None, event: Any, wait_s: float | None) -> int:
    """Ask for a run of the workflow NAME.

    Does what `kubectl annotate` could: sets sluice.dev/run-at, and sluice.dev/run-data.
    """
    from sluice import app

    data = _json(event, "--event")
    text = None if event is None else json.dumps(data, ensure_ascii=False)
    ended = asyncio.run(app.trigger(name, namespace, text, wait_s))
    if ended is not None:
        click.echo(ended.text)
    return 0 if ended is None or ended.ok else _EXIT_FAILED
