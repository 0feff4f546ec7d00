"""What a CRE workflow may ask of the world: each thing behind one Protocol, and within bounds.

The guest waits on a thread of its own; the answers are made on the operator's loop. A failure is
an answer too: nothing that a capability does can end an execution but its own deadline.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import DecodeError, Message

from sluice.capabilities.secrets import SecretReader, Vault
from sluice.cre.errors import CapabilityError, Code, Visibility
from sluice.cre.helper import ExecutionHelper
from sluice.cre.proto.sdk_pb2 import (
    CapabilityRequest,
    CapabilityResponse,
    GetSecretsRequest,
    SecretResponses,
)
from sluice.cre.proto.user_metric_pb2 import (
    USER_METRIC_TYPE_COUNTER,
    USER_METRIC_TYPE_GAUGE,
    WorkflowUserMetric,
)
from sluice.metrics import Metrics, UserSeries
from sluice.settings import Settings
from sluice.spec import CreSpec
from sluice.workflow import Workflow, WorkflowKey

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)
_USER_METRICS = {USER_METRIC_TYPE_COUNTER: "counter", USER_METRIC_TYPE_GAUGE: "gauge"}
_NAME_CHARS_MAX = 100  # of a name that a guest gave and an error repeats


@dataclass(frozen=True, slots=True)
class Budget:
    """How many calls one execution may make; capabilities whose ``name`` is one share it.

    The name is a label of a metric too (``metrics.CAPABILITIES``).
    """

    name: str
    calls_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """On whose behalf a call is made, and until when (the loop's time) it must be answered."""

    key: WorkflowKey
    digest: str
    spec: CreSpec
    execution_id: str
    deadline: float
    secrets: SecretReader


class Capability(Protocol):
    """One thing that a guest calls by its ``id``."""

    @property
    def id(self) -> str: ...

    @property
    def budget(self) -> Budget: ...

    async def call(self, method: str, payload: Packed, context: CallContext) -> Packed:
        """Answer one call; raises CapabilityError, and is cancelled when its time is up."""
        ...


def unpack(payload: Packed, kind: type[_M]) -> _M:
    """Return the request in a payload; raises CapabilityError where it is another."""
    wanted = kind.DESCRIPTOR.full_name
    if payload.type_url.rpartition("/")[2] != wanted:
        given = payload.type_url[:_NAME_CHARS_MAX]
        raise CapabilityError(
            Code.INVALID_ARGUMENT, f'the payload is a "{given}"; this method takes a {wanted}'
        )
    try:
        return kind.FromString(payload.value)
    except DecodeError:
        raise CapabilityError(
            Code.INVALID_ARGUMENT, f"the payload cannot be read as a {wanted}"
        ) from None


def pack(message: Message) -> Packed:
    packed = Packed()
    packed.Pack(message)
    return packed


def unknown_method(method: str, known: Iterable[str]) -> CapabilityError:
    there = ", ".join(known)
    return CapabilityError(
        Code.UNIMPLEMENTED, f'there is no method "{method[:_NAME_CHARS_MAX]}"; there is {there}'
    )


class _Lines:
    """How many of one workflow's calls may be under way, over all of its executions."""

    def __init__(self, settings: Settings) -> None:
        self.calls = asyncio.Semaphore(settings.cre_calls_running_max)
        self.secrets = asyncio.Semaphore(settings.cre_secrets_running_max)


class Capabilities:
    """The capabilities of one operator; ``bind`` gives one execution its share of them.

    Used on the loop that answers, but for ``bind`` and its helpers: they are for any thread.
    """

    def __init__(
        self,
        capabilities: Iterable[Capability],
        vault: Vault,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._by_id = {capability.id: capability for capability in capabilities}
        self._vault, self._settings, self._metrics = vault, settings, metrics
        # Kept by those who use it: with a workflow's last execution it goes.
        self._lines: WeakValueDictionary[WorkflowKey, _Lines] = WeakValueDictionary()
        self._lock = threading.Lock()

    def bind(
        self,
        workflow: Workflow,
        execution_id: str,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[str], object] | None = None,
    ) -> ExecutionHelper:
        """Return what one execution calls out to; ``heard`` is given its log, on its thread."""
        with self._lock:
            lines = self._lines.setdefault(workflow.key, _Lines(self._settings))
        bound = _Execution(workflow, execution_id, self._vault, self._settings)
        return _Bound(self, bound, lines, loop, heard)

    async def call(
        self, request: CapabilityRequest, execution: "_Execution", lines: _Lines
    ) -> CapabilityResponse:
        """Answer one call of one execution, whatever becomes of it."""
        capability = self._by_id.get(request.id)
        if capability is None:
            self._metrics.cre_calls.labels("Unknown", "failed").inc()
            return CapabilityResponse(error=self._not_found(request.id).text)
        name = capability.budget.name
        try:
            execution.spend(capability.budget)
            deadline = asyncio.get_running_loop().time() + self._settings.cre_call_s_max
            async with asyncio.timeout_at(deadline), lines.calls:
                context = execution.context(deadline)
                payload = await capability.call(request.method, request.payload, context)
        except Exception as e:  # noqa: BLE001 - a guest's call ends in an answer, whatever failed
            self._metrics.cre_calls.labels(name, "failed").inc()
            return CapabilityResponse(error=self._failure(e, request).text)
        self._metrics.cre_calls.labels(name, "answered").inc()
        return CapabilityResponse(payload=payload)

    async def read_secrets(
        self, request: GetSecretsRequest, execution: "_Execution", lines: _Lines
    ) -> SecretResponses:
        """Read what is asked for; raises CapabilityError where the whole of it is refused."""
        try:
            execution.spend(Budget("Secrets", self._settings.cre_secrets_calls_max))
            async with asyncio.timeout(self._settings.cre_call_s_max), lines.secrets:
                found = await execution.secrets.answer(request.requests)
        except Exception as e:  # noqa: BLE001 - likewise
            self._metrics.cre_calls.labels("Secrets", "failed").inc()
            raise self._failure(e, request) from None
        self._metrics.cre_calls.labels("Secrets", "answered").inc()
        return found

    def count(self, workflow: Workflow, metric: WorkflowUserMetric) -> bool:
        cre = workflow.spec.cre
        if cre is None or not cre.metrics:
            return False
        series = UserSeries(
            *workflow.key, _USER_METRICS.get(metric.type, ""), metric.name,
            tuple(sorted(metric.labels.items())),
        )  # fmt: skip
        return self._metrics.user.count(series, metric.value, self._settings)

    def _not_found(self, id_: str) -> CapabilityError:
        there = ", ".join(sorted(self._by_id))
        return CapabilityError(
            Code.NOT_FOUND, f'there is no capability "{id_[:_NAME_CHARS_MAX]}"; there are {there}'
        )

    def _failure(
        self, e: Exception, request: CapabilityRequest | GetSecretsRequest
    ) -> CapabilityError:
        if isinstance(e, CapabilityError):
            return e
        if isinstance(e, TimeoutError):
            within = self._settings.cre_call_s_max
            return CapabilityError(Code.DEADLINE_EXCEEDED, f"no answer in {within:g} s")
        what = request.id if isinstance(request, CapabilityRequest) else "secrets"
        log.error("a call of %s failed by a mistake of ours", what, exc_info=e)
        return CapabilityError(
            Code.INTERNAL, "the operator failed; its log tells why", Visibility.PRIVATE
        )


class _Execution:
    """What one execution has and has used up. Only the loop's thread spends of it."""

    def __init__(
        self, workflow: Workflow, execution_id: str, vault: Vault, settings: Settings
    ) -> None:
        self.workflow, self.id = workflow, execution_id
        self.secrets = SecretReader(workflow, vault, settings)
        self._spent: Counter[str] = Counter()

    def spend(self, budget: Budget) -> None:
        """Take one call of a budget; raises CapabilityError where there is none left."""
        if self._spent[budget.name] >= budget.calls_max:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED,
                f"an execution has {budget.calls_max} calls of {budget.name}, and all are used up",
            )
        self._spent[budget.name] += 1

    def context(self, deadline: float) -> CallContext:
        return CallContext(
            key=self.workflow.key, digest=self.workflow.digest, execution_id=self.id,
            spec=self.workflow.spec.cre or CreSpec(), secrets=self.secrets, deadline=deadline,
        )  # fmt: skip


class _Bound:
    """An ``ExecutionHelper``: from the guest's thread to the loop."""

    def __init__(
        self,
        capabilities: Capabilities,
        execution: _Execution,
        lines: _Lines,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[str], object] | None,
    ) -> None:
        self._capabilities, self._execution, self._lines = capabilities, execution, lines
        self._loop, self._heard = loop, heard

    @property
    def execution_id(self) -> str:
        return self._execution.id

    def call_capability(self, request: CapabilityRequest) -> Future[CapabilityResponse]:
        future = self._begin(self._capabilities.call(request, self._execution, self._lines))
        if future is None:
            future = Future()
            future.set_result(CapabilityResponse(error=_stopping().text))
        return future

    def get_secrets(self, request: GetSecretsRequest) -> Future[SecretResponses]:
        work = self._capabilities.read_secrets(request, self._execution, self._lines)
        future = self._begin(work)
        if future is None:
            future = Future()
            future.set_exception(_stopping())
        return future

    def node_time_ns(self) -> int:
        return time.time_ns()

    def don_time_ns(self) -> int:
        return time.time_ns()

    def user_log(self, text: str) -> None:
        if self._heard:
            self._heard(text)

    def user_metric(self, metric: WorkflowUserMetric) -> bool:
        return self._capabilities.count(self._execution.workflow, metric)

    def _begin(self, work: Coroutine[Any, Any, _T]) -> Future[_T] | None:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop is closed, and nobody is left to answer
            work.close()
            return None


def _stopping() -> CapabilityError:
    return CapabilityError(Code.UNAVAILABLE, "the operator is stopping")
