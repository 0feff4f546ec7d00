"""One execution of a CRE workflow on its author's machine, with all that it asked for on the way.

The same engine and the same capabilities as an operator's, without a cluster. What the
capabilities answered can be recorded, and given again in place of the world: in a test nothing is
asked of anybody. Secrets are not recorded.
"""

import asyncio
import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from sluice.capabilities import Capabilities
from sluice.cre.helper import ExecutionHelper
from sluice.cre.proto.sdk_pb2 import (
    CapabilityRequest,
    CapabilityResponse,
    GetSecretsRequest,
    SecretResponses,
    TriggerSubscription,
)
from sluice.cre.proto.user_metric_pb2 import WorkflowUserMetric
from sluice.equipment import Equipment
from sluice.errors import EngineRefused, WorkflowInvalid
from sluice.executions.pool import Pool
from sluice.metrics import Metrics
from sluice.outcome import Outcome
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import CRE_NAMESPACE, SecretKeyRef, TriggerSpec
from sluice.triggers import cre
from sluice.wasm.compilation import Source
from sluice.wasm.config import Tier
from sluice.wasm.cre_engine import CreEngine, CreExecution
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import API_VERSION, KIND, Workflow

_T = TypeVar("_T")
_CASSETTE = 1  # the form of what is recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be simulated; ``secrets`` are values by id, or by namespace/id."""

    wasm: bytes
    name: str
    config: str = ""
    trigger: int = 0
    event: Any = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    replay: "Cassette | None" = None


@dataclass(frozen=True, slots=True)
class Line:
    """What happened ``at_s`` after the guest began: a log, a call, a metric or a read of secrets.

    Before that: its triggers, and what it logs while it tells them.

    ``took_s`` is how long its answer took; None: it has none.
    """

    at_s: float
    kind: str
    text: str
    took_s: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Simulation:
    """What came of it."""

    triggers: tuple[str, ...]
    lines: list[Line]
    outcome: Outcome
    recorded: "Cassette"


@dataclass(slots=True)
class Cassette:
    """Answers of capabilities, in the order of the calls of each method."""

    calls: list[dict[str, Any]] = field(default_factory=list)

    def add(self, request: CapabilityRequest) -> Callable[[CapabilityResponse], None]:
        """Take note of a call, in its place; return what takes its answer."""
        said: dict[str, Any] = {"id": request.id, "method": request.method}
        said["request"] = _fingerprint(request)
        self.calls.append(said)

        def answered(response: CapabilityResponse) -> None:
            said["response"] = base64.b64encode(response.SerializeToString()).decode()

        return answered

    def dump(self) -> str:
        """Return what ``load`` reads; what was never answered is not in it."""
        calls = [call for call in self.calls if "response" in call]
        return json.dumps({"version": _CASSETTE, "calls": calls}, indent=1) + "\n"

    @classmethod
    def load(cls, name: str, text: str) -> "Cassette":
        """Return what was recorded; raises WorkflowInvalid where it is something else."""
        try:
            told = json.loads(text)
            if told["version"] != _CASSETTE:
                raise ValueError  # noqa: TRY301 - as one that is no such file
            for call in told["calls"]:
                _ = call["id"] + call["method"]
                CapabilityResponse.FromString(base64.b64decode(call["response"]))
            return cls(told["calls"])
        except (ValueError, TypeError, KeyError, DecodeError, RecursionError):
            raise WorkflowInvalid(
                Reason.INVALID_SPEC, f"{name}: is nothing that `sluice simulate --record` wrote"
            ) from None


async def simulate(
    order: Order, settings: Settings, told: Callable[[Line], object] = bool
) -> Simulation:
    """Run one execution; ``told`` is given each line when it is there, on any thread.

    Raises:
        WorkflowInvalid: the module, or what it subscribes to, would be refused by an operator.
        EngineRefused: there is no such trigger, or it has no such event.

    """
    with _runtime(settings) as runtime:
        pool, given = Pool(1), _Given(order.secrets)
        try:
            async with aclosing(Equipment(runtime.settings, Metrics(), given)) as equipment:
                desk = _Desk(order, runtime, pool, equipment.capabilities, told)
                return await desk.simulate()
        finally:
            pool.close()


@contextmanager
def _runtime(settings: Settings) -> Iterator[Runtime]:
    """Give a runtime that finds what was compiled last time; one of its own where that is taken."""
    with tempfile.TemporaryDirectory(prefix="sluice-simulate-") as directory:
        try:
            runtime = Runtime(replace(settings, data_dir=settings.data_dir / "simulate"))
        except EngineRefused:
            runtime = Runtime(replace(settings, data_dir=Path(directory)))
        try:
            yield runtime
        finally:
            runtime.close()


class _Desk:
    """The steps of one simulation."""

    def __init__(
        self,
        order: Order,
        runtime: Runtime,
        pool: Pool,
        capabilities: Capabilities,
        told: Callable[[Line], object],
    ) -> None:
        self._order, self._runtime, self._settings = order, runtime, runtime.settings
        self._pool, self._capabilities, self._told = pool, capabilities, told

    async def simulate(self) -> Simulation:
        order = self._order
        module = await asyncio.to_thread(self._compiled)
        if module.entry.record["abi"] != "cre":
            raise WorkflowInvalid(
                Reason.ABI_UNSUPPORTED,
                f"{order.name}: is a WASI command, not a CRE workflow; `sluice run` runs it",
            )
        workflow = _workflow(order, self._settings)
        engine = CreEngine(self._runtime, module, workflow, order.config)
        heard = lambda text: self._told(Line(0.0, "log", text))  # noqa: E731 - a line's name
        subscriptions = await self._on_thread(partial(engine.subscribe, heard))
        served = cre.served(workflow, subscriptions, self._settings)
        triggers = tuple(map(_described, subscriptions, served.spec.triggers))
        for number, text in enumerate(triggers):
            self._told(Line(0.0, "trigger", f"{number}  {text}"))
        trigger = cre.given(order.trigger, order.event, subscriptions)
        loop = asyncio.get_running_loop()
        watched = Watched(
            self._capabilities.bind(served, _execution_id(order), loop),
            order.replay, self._told,
        )  # fmt: skip
        execution = CreExecution(trigger=trigger.id, payload=trigger.payload, helper=watched)
        outcome = await self._on_thread(partial(engine.run, execution))
        return Simulation(triggers, watched.lines, outcome, watched.recorded)

    def _compiled(self) -> Module:
        wasm = self._order.wasm
        digest = hashlib.sha256(wasm).hexdigest()
        if module := self._runtime.module(digest, Tier.OPTIMIZING):
            return module
        path = self._settings.work_dir / "module.part"
        path.write_bytes(wasm)
        source = Source(path, "none", digest, len(wasm), self._order.name)
        job = self._runtime.compilation(source, Tier.OPTIMIZING)
        try:
            return job.run()
        except WorkflowInvalid as e:
            raise type(e)(e.reason, f"{self._order.name}: {e.message}") from None
        finally:
            job.cancel()

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        """Run a guest where its recursion has the stack for it."""
        done: asyncio.Future[_T | Exception] = asyncio.get_running_loop().create_future()

        def caught() -> _T | Exception:
            try:
                return work()
            except Exception as e:  # noqa: BLE001 - a thread of the pool never raises
                return e

        self._pool.run(caught, done.set_result)
        answer = await done
        if isinstance(answer, Exception):
            raise answer
        return answer


class Watched:
    """A helper that tells of all that goes through it, and may answer from what was recorded."""

    def __init__(
        self, helper: ExecutionHelper, replay: Cassette | None, told: Callable[[Line], object]
    ) -> None:
        self._helper, self._told = helper, told
        self._replay = list(replay.calls) if replay else None
        self._began = time.monotonic()
        self.lines: list[Line] = []
        self.recorded = Cassette()

    @property
    def execution_id(self) -> str:
        return self._helper.execution_id

    def call_capability(self, request: CapabilityRequest) -> Future[CapabilityResponse]:
        at_s, what = self._now(), f"{request.id} {request.method}"
        record = self.recorded.add(request)
        if self._replay is None:
            answer = self._helper.call_capability(request)
        else:
            answer = Future()
            recorded, note = self._recorded(request)
            what += note
            answer.set_result(recorded)

        def over(done: Future[CapabilityResponse]) -> None:
            if not done.cancelled():
                record(done.result())
                self._tell(Line(at_s, "call", what, self._now() - at_s, done.result().error))

        answer.add_done_callback(over)
        return answer

    def get_secrets(self, request: GetSecretsRequest) -> Future[SecretResponses]:
        at_s = self._now()
        wanted = ", ".join(f"{r.namespace or CRE_NAMESPACE}/{r.id}" for r in request.requests)
        answer = self._helper.get_secrets(request)

        def over(done: Future[SecretResponses]) -> None:
            if done.cancelled():
                return
            problem = done.exception()
            errors = [] if problem else [r.error.error for r in done.result().responses]
            error = str(problem) if problem else "; ".join(filter(None, errors))
            self._tell(Line(at_s, "secrets", wanted, self._now() - at_s, error))

        answer.add_done_callback(over)
        return answer

    def node_time_ns(self) -> int:
        return self._helper.node_time_ns()

    def don_time_ns(self) -> int:
        return self._helper.don_time_ns()

    def user_log(self, text: str) -> None:
        self._tell(Line(self._now(), "log", text))

    def user_metric(self, metric: WorkflowUserMetric) -> bool:
        labels = "".join(f" {name}={value}" for name, value in sorted(metric.labels.items()))
        self._tell(Line(self._now(), "metric", f"{metric.name} {metric.value:g}{labels}"))
        return self._helper.user_metric(metric)

    def _recorded(self, request: CapabilityRequest) -> tuple[CapabilityResponse, str]:
        """Return the answer to the next call of this method that was recorded, and a remark."""
        assert self._replay is not None
        for call in self._replay:
            if (call["id"], call["method"]) == (request.id, request.method):
                self._replay.remove(call)
                same = call.get("request") == _fingerprint(request)
                note = "" if same else " (not the request recorded)"
                return CapabilityResponse.FromString(base64.b64decode(call["response"])), note
        error = "Public:User:NotFound:no answer was recorded for this call; record it anew"
        return CapabilityResponse(error=error), ""

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _tell(self, line: Line) -> None:
        self.lines.append(line)
        self._told(line)


class _Given:
    """A ``Vault`` of values that were given."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._values = list(secrets.values())

    async def read(self, namespace: str, ref: SecretKeyRef) -> bytes:  # noqa: ARG002 - a Vault
        return self._values[int(ref.key)].encode()


def _fingerprint(request: CapabilityRequest) -> str:
    # Not the request: a guest may have written a secret into it.
    return hashlib.sha256(request.payload.SerializeToString()).hexdigest()


def _full(name: str) -> str:
    return name if "/" in name else f"{CRE_NAMESPACE}/{name}"


def _workflow(order: Order, settings: Settings) -> Workflow:
    """Return the object that an operator would have, with every secret that was given."""
    secrets = [
        {"namespace": name.partition("/")[0], "id": name.partition("/")[2],
         "secretKeyRef": {"name": "given", "key": str(number)}}
        for number, name in enumerate(map(_full, order.secrets))
    ]  # fmt: skip
    spec = {
        "module": {
            "digest": f"sha256:{hashlib.sha256(order.wasm).hexdigest()}", "size": len(order.wasm),
            "encoding": "none", "configMaps": [{"name": "none"}],
        },
        "config": order.config,
        "limits": dict(order.limits),
        "cre": {"metrics": True, "secrets": secrets},
    }  # fmt: skip
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "simulated"}}
    return Workflow.parse(body | {"spec": spec}, settings)


def _execution_id(order: Order) -> str:
    # The same for the same order, so that chance, which is seeded by it, is the same too.
    event = json.dumps(order.event, sort_keys=True)
    said = f"{hashlib.sha256(order.wasm).hexdigest()} {order.trigger} {event}"
    return hashlib.sha256(said.encode()).hexdigest()


def _described(subscription: TriggerSubscription, trigger: TriggerSpec) -> str:
    what = f"{subscription.id} {subscription.method}"
    if trigger.cron:
        return f"{what}  {trigger.cron.schedule}  {trigger.cron.time_zone}"
    return what
