"""One Workflow object as the API server holds it -> frozen values, or a reason.

The schema and the CEL rules in crds/ refuse most mistakes at ``kubectl apply``. What is checked
here again is what a manifest on disk has not been through, and what neither can know.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import durationpy
import msgspec
from cronsim import CronSim, CronSimError

from sluice.errors import WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import Settings

GROUP, VERSION, PLURAL, KIND = "sluice.dev", "v1alpha1", "workflows", "Workflow"
API_VERSION = f"{GROUP}/{VERSION}"
RUN_AT = f"{GROUP}/run-at"
RUN_DATA = f"{GROUP}/run-data"

Encoding = Literal["brotli", "zstd", "gzip", "none"]
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class WorkflowKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Camel case outside, snake case inside, unknown fields refused with their path."""


class PartRef(_Spec):
    """One ConfigMap's key, under ``binaryData`` or ``data``."""

    name: str
    key: str = "part"


class ModuleSpec(_Spec):
    """Where the wasm lies and what it must be once inflated."""

    digest: str
    size: int
    config_maps: tuple[PartRef, ...]
    encoding: Encoding = "brotli"
    text: Literal["base64", "hex"] = "base64"


class EnvVar(_Spec):
    name: str
    value: str = ""


class KeyRef(_Spec):
    name: str
    key: str = "config"


class ConfigFrom(_Spec):
    config_map_key_ref: KeyRef


class CronSpec(_Spec):
    schedule: str
    time_zone: str = "UTC"
    data: Any = None


class ManualSpec(_Spec):
    data: Any = None


class TriggerSpec(_Spec):
    """Exactly one of the kinds; ``name`` tells triggers of one kind apart."""

    name: str
    cron: CronSpec | None = None
    manual: ManualSpec | None = None


class Limits(_Spec):
    """Bounds of one execution, as Kubernetes quantities and durations."""

    memory: str | int = "100Mi"
    timeout: str = "5m"
    response: str | int = "100Ki"
    log: str | int = "64Ki"

    @property
    def memory_bytes(self) -> int:
        return quantity(self.memory)

    @property
    def timeout_s(self) -> float:
        return duration(self.timeout).total_seconds()

    @property
    def response_bytes(self) -> int:
        return quantity(self.response)

    @property
    def log_bytes(self) -> int:
        return quantity(self.log)


class WorkflowSpec(_Spec):
    module: ModuleSpec
    abi: Literal["wasi"] | None = None
    config: str | None = None
    config_from: ConfigFrom | None = None
    env: tuple[EnvVar, ...] = ()
    args: tuple[str, ...] = ()
    suspend: bool = False
    priority: int = 0
    limits: Limits = Limits()
    triggers: tuple[TriggerSpec, ...] = (TriggerSpec(name="manual", manual=ManualSpec()),)


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed object: what the fleet wants alive, and the run that was asked for, if any."""

    key: WorkflowKey
    uid: str
    generation: int
    spec: WorkflowSpec

    @property
    def digest(self) -> str:
        """The sha256 of the raw wasm in hex, without its ``sha256:``."""
        return self.spec.module.digest.removeprefix("sha256:")

    @classmethod
    def parse(cls, body: dict[str, Any], settings: Settings) -> Self:
        """Return the workflow of an object's body.

        Raises:
            WorkflowInvalid: what is wrong, by its path in the object.

        """
        metadata = body["metadata"]
        try:
            spec = msgspec.convert(body.get("spec", {}), WorkflowSpec)
        except msgspec.ValidationError as e:
            raise WorkflowInvalid(Reason.INVALID_SPEC, _with_path(e)) from None
        _check(spec, settings)
        return cls(
            key=WorkflowKey(metadata.get("namespace", "default"), metadata["name"]),
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 1),
            spec=spec,
        )


def quantity(text: str | int) -> int:
    """Return the bytes of a Kubernetes quantity such as ``100Mi``; ValueError if it is none."""
    if isinstance(text, int):
        return text
    digits = text.rstrip("kKMGi")
    try:
        return int(float(digits) * _SUFFIXES[text[len(digits) :]])
    except (KeyError, ValueError):
        raise ValueError(f'"{text}" is no quantity; write for example 64Mi') from None


def duration(text: str) -> timedelta:
    """Return a positive duration such as ``1m30s``; ValueError if it is none."""
    try:
        value = durationpy.from_str(text)
    except durationpy.DurationError:
        value = timedelta()
    if not isinstance(value, timedelta) or value <= timedelta():
        raise ValueError(f'"{text}" is no positive duration; write for example 30s or 5m')
    return value


def schedule_problem(cron: CronSpec) -> str | None:
    """Say what is wrong with a cron trigger, or None."""
    count = len(cron.schedule.split())
    if count not in {5, 6}:
        return (
            f'"{cron.schedule}" has {count} fields; write 5 (minute hour day month weekday) '
            "or 6 with seconds first"
        )
    try:
        ZoneInfo(cron.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f'"{cron.time_zone}" is no IANA time zone; write for example Europe/Zurich'
    try:
        next(CronSim(cron.schedule, datetime.now(UTC)))
    except CronSimError as e:
        return f'"{cron.schedule}": {str(e).lower()}'
    except StopIteration:
        return f'"{cron.schedule}" never falls due'
    return None


def _with_path(error: msgspec.ValidationError) -> str:
    """Put the path first: ``Expected `int`, got `str` - at `$.module.size` `` reads backwards."""
    what, _, path = str(error).partition(" - at `$")
    what = what.replace("`", "")
    where = "spec" + path.rstrip("`")
    return f"{where}: {what[0].lower()}{what[1:]}"


def _check(spec: WorkflowSpec, settings: Settings) -> None:
    _check_module(spec.module, settings)
    _check_config(spec, settings)
    _check_limits(spec.limits)
    names = [t.name for t in spec.triggers]
    for i, trigger in enumerate(spec.triggers):
        _check_trigger(f"spec.triggers[{i}]", trigger, settings)
        if names.count(trigger.name) > 1:
            raise _invalid(f'spec.triggers[{i}].name: "{trigger.name}" stands twice; rename one')
    for i, env in enumerate(spec.env):
        if not env.name or "=" in env.name or "\0" in env.name + env.value:
            raise _invalid(f'spec.env[{i}]: "{env.name}" is no name of a variable')
        if env.name.startswith("SLUICE_"):
            raise _invalid(f"spec.env[{i}]: names that begin with SLUICE_ are the operator's")
    if any("\0" in arg for arg in spec.args):
        raise _invalid("spec.args: an argument holds a NUL byte")


def _check_module(module: ModuleSpec, settings: Settings) -> None:
    algorithm, _, value = module.digest.partition(":")
    hexadecimal = len(value) == 64 and not set(value) - set("0123456789abcdef")
    if algorithm != "sha256" or not hexadecimal:
        raise _invalid(
            "spec.module.digest: write sha256: and 64 hex digits of the raw wasm's sha256"
        )
    if not module.config_maps:
        raise _invalid("spec.module.configMaps: names no part; list at least one")
    if module.size < 1:
        raise _invalid("spec.module.size: write the raw wasm's size in bytes")
    if module.size > settings.binary_bytes_max:
        raise WorkflowInvalid(
            Reason.MODULE_TOO_LARGE,
            f"spec.module.size: {module.size:,} bytes, but this operator takes modules of at "
            f"most {settings.binary_bytes_max:,} (binary_bytes_max)",
        )


def _check_config(spec: WorkflowSpec, settings: Settings) -> None:
    if spec.config is not None and spec.config_from is not None:
        raise _invalid("spec: give config or configFrom, not both")
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
        raise _invalid(f"{where}: holds a NUL byte, which no environment variable can")


def _check_limits(limits: Limits) -> None:
    for name in ("memory", "timeout", "response", "log"):
        try:
            value = getattr(limits, name)
            positive = duration(value) if name == "timeout" else quantity(value) > 0
        except ValueError as e:
            raise _invalid(f"spec.limits.{name}: {e}") from None
        if not positive:
            raise _invalid(f"spec.limits.{name}: must be more than 0")


def _check_trigger(where: str, trigger: TriggerSpec, settings: Settings) -> None:
    kind = trigger.cron or trigger.manual
    if kind is None or (trigger.cron and trigger.manual):
        raise _invalid(f"{where}: give exactly one of cron, manual")
    if len(json.dumps(kind.data).encode()) > settings.event_bytes_max:
        raise _invalid(f"{where}: its data has more than {settings.event_bytes_max:,} bytes")
    if trigger.cron and (problem := schedule_problem(trigger.cron)):
        raise WorkflowInvalid(
            Reason.INVALID_SCHEDULE, f"{where}.cron.schedule: {problem}"
        )


def _invalid(message: str) -> WorkflowInvalid:
    return WorkflowInvalid(Reason.INVALID_SPEC, message)
