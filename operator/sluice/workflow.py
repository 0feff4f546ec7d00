"""One Workflow object as the API server holds it -> frozen values, or a reason.

The schema and the CEL rules in crds/ refuse most mistakes at ``kubectl apply``. What is checked
here again is what a manifest on disk has not been through, and what neither can know.
"""

import json
import math
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import durationpy
import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta

from sluice.errors import WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import Settings

GROUP, VERSION, PLURAL, KIND = "sluice.dev", "v1alpha1", "workflows", "Workflow"
API_VERSION = f"{GROUP}/{VERSION}"
RUN_AT = f"{GROUP}/run-at"
RUN_DATA = f"{GROUP}/run-data"

Encoding = Literal["brotli", "zstd", "gzip", "none"]
_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMG]|[KMG]i)?")
_DURATION = re.compile(r"([0-9]{1,5}(\.[0-9]{1,3})?(h|m|s|ms)){1,4}")
_TIMEOUT_MAX = timedelta(hours=24)
# 4Gi is all that 32-bit wasm can address; the others are held in this process's memory.
_LIMITS_MAX = {"memory": "4Gi", "response": "16Mi", "log": "16Mi"}

_NUL = "holds a NUL byte, which no environment variable can; remove it"

# Bounds as crds/ has them.
_Name = Annotated[str, Meta(max_length=253)]
_TriggerName = Annotated[str, Meta(max_length=63)]
_Text = Annotated[str, Meta(max_length=32768)]
_Quantity = Annotated[str, Meta(max_length=20)] | int


class WorkflowKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Camel case outside, snake case inside, unknown fields refused with their path."""


class PartRef(_Spec, frozen=True):
    """One ConfigMap's key, under ``binaryData`` or ``data``."""

    name: _Name
    key: _Name = "part"


class ModuleSpec(_Spec, frozen=True):
    """Where the wasm lies and what it must be once inflated."""

    digest: str
    size: int
    config_maps: Annotated[tuple[PartRef, ...], Meta(max_length=1000)]
    encoding: Encoding = "brotli"
    text: Literal["base64", "hex"] = "base64"


class EnvVar(_Spec, frozen=True):
    name: _Name
    value: _Text = ""


class KeyRef(_Spec, frozen=True):
    name: _Name
    key: _Name = "config"


class ConfigFrom(_Spec, frozen=True):
    config_map_key_ref: KeyRef


class CronSpec(_Spec, frozen=True):
    schedule: Annotated[str, Meta(max_length=100)]
    time_zone: Annotated[str, Meta(max_length=64)] = "UTC"
    data: Any = None


class ManualSpec(_Spec, frozen=True):
    data: Any = None


class TriggerSpec(_Spec, frozen=True):
    """Exactly one of the kinds; ``name`` tells triggers of one kind apart."""

    name: _TriggerName
    cron: CronSpec | None = None
    manual: ManualSpec | None = None


class Limits(_Spec, frozen=True):
    """Bounds of one execution, as Kubernetes quantities and durations."""

    memory: _Quantity = "100Mi"
    timeout: Annotated[str, Meta(max_length=64)] = "5m"
    response: _Quantity = "100Ki"
    log: _Quantity = "64Ki"

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


class WorkflowSpec(_Spec, frozen=True):
    module: ModuleSpec
    abi: Literal["wasi"] | None = None
    config: str | None = None
    config_from: ConfigFrom | None = None
    env: Annotated[tuple[EnvVar, ...], Meta(max_length=100)] = ()
    args: Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=100)] = ()
    suspend: bool = False
    tiers: Literal["auto", "optimizing", "baseline"] | None = None
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    limits: Limits = Limits()
    triggers: Annotated[tuple[TriggerSpec, ...], Meta(max_length=32)] = (
        TriggerSpec(name="manual", manual=ManualSpec()),
    )


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
            spec = msgspec.convert(_without_nulls(body.get("spec", {})), WorkflowSpec)
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
    """Return the bytes of a quantity such as ``100Mi``, rounded up as Kubernetes does.

    Raises:
        ValueError: it is none.

    """
    if isinstance(text, int):
        return text
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text}" is no quantity; write for example 64Mi')
    return math.ceil(Decimal(found[1]) * _SUFFIXES[found[2] or ""])


def duration(text: str) -> timedelta:
    """Return a duration such as ``1m30s``; ValueError if it is none."""
    value = durationpy.from_str(text) if _DURATION.fullmatch(text) else None
    if not isinstance(value, timedelta):
        raise ValueError(f'"{text}" is no duration; write for example 30s or 1m30s')  # noqa: TRY004
    return value


def _schedule_problem(cron: CronSpec) -> str | None:
    """Say what is wrong with a schedule in a good time zone, or None."""
    count = len(cron.schedule.split())
    if cron.schedule.startswith("@"):
        return "is a nickname; write the fields out, for example 0 0 * * * for once a day"
    if count not in {5, 6}:
        return (
            f"has {count} fields; write 5 (minute hour day month weekday) or 6 with seconds first"
        )
    if re.search(r"[^0-9A-Za-z*/,# \t-]|[0-9]{3}", cron.schedule):
        return (
            "holds what no schedule does; write numbers of one or two digits, names such as MON "
            "or JAN, and * , - / #"
        )
    try:
        next(CronSim(cron.schedule, datetime.now(ZoneInfo(cron.time_zone))))
    except CronSimError as e:
        return f"has a {str(e).lower()}"
    except StopIteration:
        return "never falls due"
    return None


def _without_nulls(spec: Any) -> Any:
    """Leave out what is null, as the API server does: there it means that a field is not given.

    The data of a trigger is the user's own: a null in it is one.
    """
    if isinstance(spec, list):
        return [_without_nulls(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    return {
        name: value if name == "data" else _without_nulls(value)
        for name, value in spec.items()
        if value is not None
    }


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
    if not spec.triggers:
        raise _invalid("spec.triggers: is empty; list at least one, or leave it out")
    for i, trigger in enumerate(spec.triggers):
        _check_trigger(f"spec.triggers[{i}]", trigger, settings)
    for i, env in enumerate(spec.env):
        _check_env(f"spec.env[{i}]", env)
    for where, items in (("spec.triggers", spec.triggers), ("spec.env", spec.env)):
        _check_unique(where, [item.name for item in items])
    for i, arg in enumerate(spec.args):
        if "\0" in arg:
            raise _invalid(f"spec.args[{i}]: holds a NUL byte, which no argument can; remove it")


def _check_form(where: str, value: str, form: str, what: str) -> None:
    if not re.fullmatch(form, value):
        raise _invalid(f'{where}: "{value}" is no {what}')


def _check_key(where: str, ref: PartRef | KeyRef) -> None:
    label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    what = "name of a ConfigMap; write lower-case letters, digits, - and ."
    _check_form(f"{where}.name", ref.name, rf"{label}(\.{label})*", what)
    what = "key of a ConfigMap; write letters, digits, -, _ and ."
    _check_form(f"{where}.key", ref.key, "[-._a-zA-Z0-9]+", what)


def _check_env(where: str, env: EnvVar) -> None:
    what = "name of a variable; write letters, digits, _, - and ., the first no digit"
    _check_form(f"{where}.name", env.name, "[-._a-zA-Z][-._a-zA-Z0-9]*", what)
    if env.name.startswith("SLUICE_"):
        raise _invalid(
            f'{where}.name: "{env.name}" begins with SLUICE_, as the operator\'s own do; choose '
            "another name"
        )
    if "\0" in env.value:
        raise _invalid(f"{where}.value: {_NUL}")


def _check_unique(where: str, names: list[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise _invalid(f'{where}[{i}].name: "{name}" stands twice; rename one')


def _check_module(module: ModuleSpec, settings: Settings) -> None:
    algorithm, _, value = module.digest.partition(":")
    hexadecimal = len(value) == 64 and not set(value) - set("0123456789abcdef")
    if algorithm != "sha256" or not hexadecimal:
        raise _invalid(
            "spec.module.digest: write sha256: and 64 hex digits of the raw wasm's sha256"
        )
    if not module.config_maps:
        raise _invalid("spec.module.configMaps: names no part; list at least one")
    for i, part in enumerate(module.config_maps):
        _check_key(f"spec.module.configMaps[{i}]", part)
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
        raise _invalid("spec.configFrom: spec.config is given too; keep one, not both")
    if spec.config_from is not None:
        _check_key("spec.configFrom.configMapKeyRef", spec.config_from.config_map_key_ref)
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
        raise _invalid(f"{where}: {_NUL}")


def _check_limits(limits: Limits) -> None:
    for name in ("memory", "timeout", "response", "log"):
        try:
            good = _limit_is_good(limits, name)
        except ValueError as e:
            raise _invalid(f"spec.limits.{name}: {e}") from None
        if not good:
            most = _LIMITS_MAX.get(name, "24h")
            raise _invalid(f"spec.limits.{name}: must be more than 0 and at most {most}")


def _limit_is_good(limits: Limits, name: str) -> bool:
    if name == "timeout":
        return timedelta() < duration(limits.timeout) <= _TIMEOUT_MAX
    return 0 < quantity(getattr(limits, name)) <= quantity(_LIMITS_MAX[name])


def _check_trigger(where: str, trigger: TriggerSpec, settings: Settings) -> None:
    what = "name of a trigger; write lower-case letters, digits and -"
    _check_form(f"{where}.name", trigger.name, "[a-z0-9]([-a-z0-9]*[a-z0-9])?", what)
    kind = trigger.cron or trigger.manual
    if kind is None or (trigger.cron and trigger.manual):
        raise _invalid(f"{where}: give exactly one of cron, manual (manual: {{}} is enough)")
    if len(json.dumps(kind.data).encode()) > settings.event_bytes_max:
        raise _invalid(f"{where}: its data has more than {settings.event_bytes_max:,} bytes")
    if trigger.cron:
        _check_cron(f"{where}.cron", trigger.cron)


def _check_cron(where: str, cron: CronSpec) -> None:
    try:
        ZoneInfo(cron.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise WorkflowInvalid(
            Reason.INVALID_SCHEDULE,
            f'{where}.timeZone: "{cron.time_zone}" is no IANA time zone; write for example '
            "Europe/Zurich",
        ) from None
    if problem := _schedule_problem(cron):
        raise WorkflowInvalid(
            Reason.INVALID_SCHEDULE, f'{where}.schedule: "{cron.schedule}" {problem}'
        )


def _invalid(message: str) -> WorkflowInvalid:
    return WorkflowInvalid(Reason.INVALID_SPEC, message)
