"""``spec`` of a Workflow, field by field as crds/ has it: frozen values and nothing decided.

The bounds that a type can state stand here; what the fields must be to each other is in checks.py.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sluice.quantities import quantity, seconds

Encoding = Literal["brotli", "zstd", "gzip", "none"]
ConcurrencyPolicy = Literal["Allow", "Forbid", "Replace"]
Change = Literal["Added", "Modified", "Deleted"]
RetryOn = Literal["Failed", "Trapped", "TimedOut", "OutOfMemory", "Refused"]
TriggerKind = Literal["cron", "manual", "startup", "http", "kubernetes"]

# Bounds as crds/ has them.
_Name = Annotated[str, Meta(max_length=253)]
_TriggerName = Annotated[str, Meta(max_length=63)]
_Text = Annotated[str, Meta(max_length=32768)]
_Quantity = Annotated[str, Meta(max_length=20)] | int
_Duration = Annotated[str, Meta(max_length=64)]
_Selector = Annotated[str, Meta(max_length=1024)]
_Claim = Annotated[str, Meta(min_length=1, max_length=256)]
_Seconds = Annotated[int, Meta(ge=0, le=86400)]


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
    concurrency_policy: ConcurrencyPolicy = "Allow"
    starting_deadline_seconds: _Seconds | None = None
    jitter: _Duration = "0s"

    @property
    def jitter_s(self) -> float:
        return seconds(self.jitter)


class ManualSpec(_Spec, frozen=True):
    data: Any = None


class StartupSpec(_Spec, frozen=True):
    data: Any = None


class SecretKeyRef(_Spec, frozen=True):
    """One key of a Secret in the workflow's namespace."""

    name: _Name
    key: _Name


class BearerKeyRef(SecretKeyRef, frozen=True):
    key: _Name = "token"


class HmacKeyRef(SecretKeyRef, frozen=True):
    key: _Name = "secret"


class BearerAuth(_Spec, frozen=True):
    """``Authorization: Bearer`` and the Secret's bytes."""

    secret_key_ref: BearerKeyRef


class HmacAuth(_Spec, frozen=True):
    """``sha256=`` and the HMAC of the raw body in hex, as GitHub's webhooks send it."""

    secret_key_ref: HmacKeyRef
    header: Annotated[str, Meta(max_length=64)] = "X-Hub-Signature-256"


class JwtKey(_Spec, frozen=True):
    """A public key of ES256; ``id`` is the token's ``kid``."""

    pem: Annotated[str, Meta(max_length=1024)]
    id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class JwtAuth(_Spec, frozen=True):
    """``Authorization: Bearer`` and a JWT that one of the keys has signed."""

    keys: Annotated[tuple[JwtKey, ...], Meta(max_length=8)]
    issuer: _Claim | None = None
    audience: _Claim | None = None


class AnonymousAuth(_Spec, frozen=True):
    """Everybody who reaches the port."""


class HttpAuth(_Spec, frozen=True):
    """Exactly one of the ways."""

    bearer: BearerAuth | None = None
    hmac: HmacAuth | None = None
    jwt: JwtAuth | None = None
    anonymous: AnonymousAuth | None = None

    @property
    def secret_key_ref(self) -> SecretKeyRef | None:
        """The Secret that this way needs, if it needs one."""
        way = self.bearer or self.hmac
        return way.secret_key_ref if way else None


class RateSpec(_Spec, frozen=True):
    per_minute: Annotated[int, Meta(ge=1, le=60000)] = 60
    burst: Annotated[int, Meta(ge=1, le=1000)] = 10


class HttpSpec(_Spec, frozen=True):
    auth: HttpAuth
    body: _Quantity = "64Ki"
    rate: RateSpec = RateSpec()

    @property
    def body_bytes(self) -> int:
        return quantity(self.body)


class KubernetesSpec(_Spec, frozen=True):
    api_version: Annotated[str, Meta(max_length=317)]
    kind: Annotated[str, Meta(max_length=63)]
    namespace: Annotated[str, Meta(max_length=63)] | None = None
    label_selector: _Selector | None = None
    field_selector: _Selector | None = None
    on: Annotated[tuple[Change, ...], Meta(max_length=3)] = ("Added", "Modified", "Deleted")


class TriggerSpec(_Spec, frozen=True):
    """Exactly one of the kinds; ``name`` tells triggers of one kind apart."""

    name: _TriggerName
    cron: CronSpec | None = None
    manual: ManualSpec | None = None
    startup: StartupSpec | None = None
    http: HttpSpec | None = None
    kubernetes: KubernetesSpec | None = None


class RetriesSpec(_Spec, frozen=True):
    limit: Annotated[int, Meta(ge=0, le=10)] = 0
    on: Annotated[tuple[RetryOn, ...], Meta(max_length=5)] = ("Failed", "Trapped", "TimedOut")
    backoff: _Duration = "10s"
    backoff_max: _Duration = "5m"

    @property
    def backoff_s(self) -> float:
        return seconds(self.backoff)

    @property
    def backoff_max_s(self) -> float:
        return seconds(self.backoff_max)


class HttpSinkSpec(_Spec, frozen=True):
    url: Annotated[str, Meta(max_length=2048)]


class ConfigMapSinkSpec(_Spec, frozen=True):
    name: _Name
    key: _Name = "result"


class SinkSpec(_Spec, frozen=True):
    """Where each result goes beside the history: exactly one of them."""

    http: HttpSinkSpec | None = None
    config_map: ConfigMapSinkSpec | None = None


# Where a CRE guest looks for a secret if it names no namespace.
CRE_NAMESPACE = "main"


class CreHttpSpec(_Spec, frozen=True):
    """The hosts that requests may go to; ``.example.com`` is all below it. None: every host."""

    allow_hosts: Annotated[tuple[_Name, ...], Meta(max_length=100)] | None = None


class CreSecretSpec(_Spec, frozen=True):
    """What a guest asks for by ``namespace`` and ``id``, and where it lies."""

    id: Annotated[str, Meta(max_length=128)]
    secret_key_ref: SecretKeyRef
    namespace: Annotated[str, Meta(max_length=64)] = CRE_NAMESPACE


class CreSpec(_Spec, frozen=True):
    """What a CRE workflow may reach through its capabilities."""

    http: CreHttpSpec | None = None
    secrets: Annotated[tuple[CreSecretSpec, ...], Meta(max_length=100)] = ()
    metrics: bool = False


class Limits(_Spec, frozen=True):
    """Bounds of one execution, as Kubernetes quantities and durations."""

    memory: _Quantity = "100Mi"
    timeout: _Duration = "5m"
    cpu: _Duration | None = None
    response: _Quantity = "100Ki"
    log: _Quantity = "64Ki"

    @property
    def memory_bytes(self) -> int:
        return quantity(self.memory)

    @property
    def timeout_s(self) -> float:
        return seconds(self.timeout)

    @property
    def cpu_s(self) -> float | None:
        """CPU time; None: no bound but the timeout."""
        return None if self.cpu is None else seconds(self.cpu)

    @property
    def response_bytes(self) -> int:
        return quantity(self.response)

    @property
    def log_bytes(self) -> int:
        return quantity(self.log)


class WorkflowSpec(_Spec, frozen=True):
    module: ModuleSpec
    abi: Literal["wasi", "cre"] | None = None
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
    retries: RetriesSpec = RetriesSpec()
    active_deadline_seconds: Annotated[int, Meta(ge=1, le=86400)] | None = None
    sink: SinkSpec | None = None
    cre: CreSpec | None = None
