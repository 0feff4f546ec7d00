"""What is typed -> checked values, or what is wrong with them, before any work is done."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from sluice.errors import WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import SettingRow, Settings, table

_F = TypeVar("_F", bound=Callable[..., Any])
_INPUT_BYTES_MAX = 1 << 20  # the cluster itself takes no object with more
_THREADS_MAX = 256
# Bounds of what there is only on a cluster: `sluice run` takes them, and does not show them.
_OF_THE_CLUSTER = {
    "status_interval_s", "status_patience_s", "api_writes_max", "resync_s",
    "http_connections_max", "http_bodies_bytes_max", "http_read_s_max", "http_wait_s_max",
    "http_waits_max", "secret_age_s_max", "watch_namespaces", "watches_max",
    "namespace_watches_max", "watched_objects_max", "watch_silence_s_max", "sink_config_map_s",
    "sink_config_map_bytes_max",
}  # fmt: skip


def _name(what: str, form: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that refuses what the API server would, before any work is done."""

    def check(_: click.Context, __: click.Parameter, value: Any) -> Any:
        for text in value if isinstance(value, tuple) else (value,):
            if text is not None and not re.fullmatch(form, text):
                raise click.BadParameter(
                    f'"{shown(text)}" is no name of a {what}; write lower-case letters, digits '
                    "and -, at most 63, the first and the last no -"
                )
        return value

    return check


def shown(text: str) -> str:
    """Return what was typed as every terminal can show it."""
    return text.encode(errors="backslashreplace").decode()[:80]


_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
workflow_name = _name("Workflow", _LABEL)
namespace_name = _name("namespace", _LABEL)


def log_options(command: _F) -> _F:
    """Give a command the flags of its log."""
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


def settings_options(*, cluster: bool) -> Callable[[_F], _F]:
    """Give a command a flag and a variable for every bound of the operator."""

    def give(command: _F) -> _F:
        for row in reversed(table()):
            hidden = not cluster and row.name in _OF_THE_CLUSTER
            command = _settings_option(row, hidden=hidden)(command)
        return command

    return give


def _settings_option(row: SettingRow, *, hidden: bool) -> Callable[[_F], _F]:
    return click.option(
        row.flag,
        row.name,
        envvar=row.variable,
        type=_type(row),
        default=row.default,
        show_default=True,
        show_envvar=True,
        metavar=None if row.choices else row.unit.upper().replace(" ", "-"),
        help=row.purpose,
        hidden=hidden,
    )


def _type(row: SettingRow) -> Any:
    if row.choices:
        return click.Choice(row.choices)
    return click.Path(path_type=Path) if isinstance(row.default, Path) else type(row.default)


def settings(values: dict[str, Any]) -> Settings:
    """Return the bounds that a command was given."""
    for row in table():
        value = values[row.name]
        if isinstance(value, Path | str):
            continue
        if not (value == 0 and row.may_be_0) and not 0 < value < math.inf:
            raise click.UsageError(f"{row.flag} must be more than 0, and a number")
        if value > row.most:
            raise click.UsageError(f"{row.flag} must be at most {row.most:,.0f}")
        if row.unit in {"threads", "processes"} and value > _THREADS_MAX:
            raise click.UsageError(f"{row.flag} must be at most {_THREADS_MAX}")
    return Settings(**{row.name: values[row.name] for row in table()})


def check_unicode(options: dict[str, Any]) -> None:
    """Refuse bytes that no YAML can hold."""
    # Bytes of an argument that are no UTF-8 reach Python as halves of surrogates.
    for name, value in options.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode()
                except UnicodeEncodeError:
                    hint = f"--{name.rstrip('s')}"
                    raise click.BadParameter("is no UTF-8 text", param_hint=hint) from None


def text_of(file: Any) -> str | None:
    """Return what is in a file of text, byte for byte."""
    if file is None:
        return None
    try:
        return str(_bytes(file).decode())
    except UnicodeDecodeError as e:
        raise WorkflowInvalid(
            Reason.INVALID_SPEC, f"{file.name} is no UTF-8 text: byte {e.start} is not"
        ) from None


def json_of(file: Any, hint: str) -> Any:
    """Return what is in a file; refused is what YAML and JSON do not both have a word for."""
    if file is None:
        return None
    try:
        value = json.loads(_bytes(file).decode("utf-8-sig"))
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except RecursionError:
        raise click.BadParameter(f"{file.name} is nested too deeply", param_hint=hint) from None
    except ValueError as e:
        raise click.BadParameter(f"{file.name} is not JSON: {e}", param_hint=hint) from None
    return value


def _bytes(file: Any) -> bytes:
    data: bytes = file.read(_INPUT_BYTES_MAX + 1)
    if len(data) > _INPUT_BYTES_MAX:
        raise WorkflowInvalid(
            Reason.INVALID_SPEC, f"{file.name} has more than {_INPUT_BYTES_MAX:,} bytes"
        )
    return data
