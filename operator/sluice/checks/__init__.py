"""What the fields of a spec must be, alone and to each other: the rules that crds/ says in CEL.

In a room of their own because they are many; the two say yes and no to the same specs, and
tests/cluster/test_crd_agreement.py holds them together.
"""

import re

from sluice.checks.cre import check_cre
from sluice.checks.forms import (
    check_bytes,
    check_choices,
    check_duration,
    check_form,
    check_key,
    check_names,
    check_one_of,
    invalid,
)
from sluice.checks.triggers import check_trigger
from sluice.errors import WorkflowInvalid
from sluice.quantities import duration
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import EnvVar, Limits, ModuleSpec, RetriesSpec, SinkSpec, WorkflowSpec

# 4Gi is all that 32-bit wasm can address; the others are held in this process's memory.
_BYTES_MAX = {"memory": "4Gi", "response": "16Mi", "log": "16Mi"}
_NUL = "holds a NUL byte, which no environment variable can; remove it"
# No credentials (an object's readers would read them) and no fragment (nobody is sent it).
_PORT = "[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_URL = (
    r"https?://([A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    rf"(:({_PORT}))?([/?][!$-;=?-Z\[\]_a-z~]*)?"
)


def check(spec: WorkflowSpec, settings: Settings) -> None:
    """Raise WorkflowInvalid for what the types of the fields could not refuse."""
    _check_module(spec.module, settings)
    _check_config(spec, settings)
    _check_limits(spec.limits)
    if not spec.triggers:
        raise invalid("spec.triggers: is empty; list at least one, or leave it out")
    for i, trigger in enumerate(spec.triggers):
        check_trigger(f"spec.triggers[{i}]", trigger, settings)
    for i, env in enumerate(spec.env):
        _check_env(f"spec.env[{i}]", env)
    for where, items in (("spec.triggers", spec.triggers), ("spec.env", spec.env)):
        check_names(where, [item.name for item in items])
    for i, arg in enumerate(spec.args):
        if "\0" in arg:
            raise invalid(f"spec.args[{i}]: holds a NUL byte, which no argument can; remove it")
    _check_retries(spec.retries)
    if spec.sink:
        _check_sink(spec.sink)
    if spec.cre:
        check_cre("spec.cre", spec.cre)


def _check_module(module: ModuleSpec, settings: Settings) -> None:
    algorithm, _, value = module.digest.partition(":")
    hexadecimal = len(value) == 64 and not set(value) - set("0123456789abcdef")
    if algorithm != "sha256" or not hexadecimal:
        raise invalid(
            "spec.module.digest: write sha256: and 64 hex digits of the raw wasm's sha256"
        )
    if not module.config_maps:
        raise invalid("spec.module.configMaps: names no part; list at least one")
    for i, part in enumerate(module.config_maps):
        check_key(f"spec.module.configMaps[{i}]", part)
    if module.size < 1:
        raise invalid("spec.module.size: write the raw wasm's size in bytes")
    if module.size > settings.binary_bytes_max:
        raise WorkflowInvalid(
            Reason.MODULE_TOO_LARGE,
            f"spec.module.size: {module.size:,} bytes, but this operator takes modules of at "
            f"most {settings.binary_bytes_max:,} (binary_bytes_max)",
        )


def _check_config(spec: WorkflowSpec, settings: Settings) -> None:
    if spec.config is not None and spec.config_from is not None:
        raise invalid("spec.configFrom: spec.config is given too; keep one, not both")
    if spec.config_from is not None:
        check_key("spec.configFrom.configMapKeyRef", spec.config_from.config_map_key_ref)
    if spec.config is not None:
        check_config_size("spec.config", spec.config, settings)


def check_config_size(where: str, config: str, settings: Settings) -> None:
    """Raise WorkflowInvalid where a config is too large to be handed to a guest."""
    size = len(config.encode())
    if size > settings.config_bytes_max:
        raise WorkflowInvalid(
            Reason.CONFIG_TOO_LARGE,
            f"{where}: {size:,} bytes, but a config has at most {settings.config_bytes_max:,} "
            "(config_bytes_max)",
        )
    if "\0" in config:
        raise invalid(f"{where}: {_NUL}")


def _check_limits(limits: Limits) -> None:
    for name, most in _BYTES_MAX.items():
        check_bytes(f"spec.limits.{name}", getattr(limits, name), most)
    check_duration("spec.limits.timeout", limits.timeout, "24h")
    if limits.cpu is not None:
        check_duration("spec.limits.cpu", limits.cpu, "24h")


def _check_env(where: str, env: EnvVar) -> None:
    what = "name of a variable; write letters, digits, _, - and ., the first no digit"
    check_form(f"{where}.name", env.name, "[-._a-zA-Z][-._a-zA-Z0-9]*", what)
    if env.name.startswith("SLUICE_"):
        raise invalid(
            f'{where}.name: "{env.name}" begins with SLUICE_, as the operator\'s own do; choose '
            "another name"
        )
    if "\0" in env.value:
        raise invalid(f"{where}.value: {_NUL}")


def _check_retries(retries: RetriesSpec) -> None:
    check_choices("spec.retries.on", retries.on)
    check_duration("spec.retries.backoff", retries.backoff, "1h")
    check_duration("spec.retries.backoffMax", retries.backoff_max, "24h")
    if duration(retries.backoff) > duration(retries.backoff_max):
        raise invalid(
            f'spec.retries.backoff: "{retries.backoff}" is longer than backoffMax, '
            f'"{retries.backoff_max}"; write a shorter backoff or a longer backoffMax'
        )


def _check_sink(sink: SinkSpec) -> None:
    given: dict[str, object | None] = {"http": sink.http, "configMap": sink.config_map}
    check_one_of("spec.sink", given, "(leave sink out for none)")
    if sink.http and not re.fullmatch(_URL, sink.http.url):
        # Not repeated: what is wrong with it may be a password in it.
        raise invalid(
            "spec.sink.http.url: is no URL to send to; write for example "
            "https://example.org/results, without a user, a password or a #"
        )
    if sink.config_map:
        check_key("spec.sink.configMap", sink.config_map)
