"""One revision of a CRE workflow alive: what it subscribes to, and a run for each trigger of it.

It shares with the engine of WASI commands all but what is asked and answered: limits, cancel,
ticker, and a fresh store for each request.
"""

import base64
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from sluice.cre.helper import ExecutionHelper
from sluice.cre.proto.sdk_pb2 import (
    ExecuteRequest,
    ExecutionResult,
    Trigger,
    TriggerSubscription,
)
from sluice.cre.restrictions import restricted
from sluice.cre.subscribing import SubscribingHelper
from sluice.cre.values import InvalidValue, to_json
from sluice.errors import EngineRefused, SluiceError, WorkflowInvalid
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.wasm import verdict
from sluice.wasm.abi.cre import Session
from sluice.wasm.abi.pending import Slots
from sluice.wasm.abi.wasi import current
from sluice.wasm.interrupt import Bounds, Cancel, Leash, Why
from sluice.wasm.lending import Lending
from sluice.wasm.runtime import Module, Runtime
from sluice.wasm.store import End, Store, Told
from sluice.workflow import Workflow

# CRE counts memory in these, and drops what is left over of one.
_MEGABYTE = 1_000_000
_ERROR_CHARS_MAX = 1024  # of a guest's own error: it is shown where a result is not
_COMPLETED = Outcome(OutcomeKind.COMPLETED)
_NO_ANSWER = "could not find response for execution"
# CRE's host looks at the answer only behind an exit; so that nobody wonders where it is.
_RETURNED = "it returned without an exit status, and so without an answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreExecution:
    """One firing of one trigger; ``trigger`` is the place of its subscription."""

    trigger: int
    payload: AnyMessage
    helper: ExecutionHelper


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one request may take, and who answers for it."""

    helper: ExecutionHelper
    bounds: Bounds
    response_bytes_max: int
    cancel: Cancel


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of one request: ``result`` only where the guest has completed and sent one."""

    outcome: Outcome
    result: ExecutionResult | None = None


class CreEngine(Lending):
    """Runs one revision's executions; safe to be called from several threads at once.

    Its threads need stacks as those of ``Engine`` do.
    """

    def __init__(self, runtime: Runtime, module: Module, workflow: Workflow, config: str) -> None:
        super().__init__(module)
        self._runtime, self._settings = runtime, runtime.settings
        self._config = config.encode()
        self._limits = limits = workflow.spec.limits
        # Parsed once: they are texts in the spec.
        self._bounds = verdict.bounds(limits)
        self._judge = verdict.Judge(limits, limits.memory_bytes // _MEGABYTE * _MEGABYTE)
        self._response_bytes_max, self._log_bytes_max = limits.response_bytes, limits.log_bytes
        self._slots = Slots(runtime.settings.cre_pending_calls_max)
        self._subscriptions: tuple[TriggerSubscription, ...] | None = None

    @property
    def subscriptions(self) -> tuple[TriggerSubscription, ...] | None:
        """What it subscribes to; None: nobody has asked it, nor remembered."""
        return self._subscriptions

    def remember(self, subscriptions: Sequence[TriggerSubscription]) -> None:
        """Take over what the same module said under the same config, in place of asking it."""
        self._subscriptions = tuple(subscriptions)

    def subscribe(
        self, heard: Callable[[str], object] = bool, cancel: Cancel | None = None
    ) -> tuple[TriggerSubscription, ...]:
        """Ask the guest what it subscribes to; ``heard`` is given each line that it logs.

        Raises:
            WorkflowInvalid: it answered with an error, or with what cannot be had here.
            EngineRefused: it did not answer in time, was cancelled, or the host failed.

        """
        limit_s = self._settings.cre_subscribe_s_max
        late = f"it did not say what it subscribes to within cre_subscribe_s_max {limit_s:g} s"
        run = _Run(
            helper=SubscribingHelper(heard),
            bounds=Bounds(limit_s, Why(OutcomeKind.TIMED_OUT, late)),
            response_bytes_max=self._settings.cre_request_bytes_max,
            cancel=cancel or Cancel(),
        )
        answer = self._ask(ExecuteRequest(config=self._config, subscribe=Empty()), run)
        self._subscriptions = _subscribed(answer, self._settings.cre_subscriptions_max)
        return self._subscriptions

    def run(self, execution: CreExecution, cancel: Cancel | None = None) -> Outcome:
        """Run the guest for one firing and say what became of it; blocks within its time limits.

        ``cancel`` ends it sooner: at the next tick, and before it begins if it came before. The
        result is JSON.

        Raises:
            EngineRefused: the host failed, not the guest; or no module is mapped.

        """
        started, cpu = time.monotonic(), time.thread_time()
        outcome = self._run(execution, cancel or Cancel())
        return replace(
            outcome,
            duration_s=time.monotonic() - started,
            cpu_s=time.thread_time() - cpu,
        )

    def _run(self, execution: CreExecution, cancel: Cancel) -> Outcome:
        if refused := _refused(execution.trigger, self._subscriptions):
            return refused
        assert self._subscriptions is not None
        helper, log = execution.helper, b""
        trigger = Trigger(id=execution.trigger, payload=execution.payload)
        if self._subscriptions[execution.trigger].pre_hook:
            hooked = self._ask(ExecuteRequest(pre_hook=trigger), self._hook(helper, cancel))
            outcome = _triggered(hooked, "a pre-hook", {"restrictions"})
            if not outcome.ok:
                return outcome
            log = outcome.log
            if hooked.result and hooked.result.HasField("restrictions"):
                helper = restricted(helper, hooked.result.restrictions)
        run = _Run(
            helper=helper,
            bounds=self._bounds,
            response_bytes_max=self._response_bytes_max,
            cancel=cancel,
        )
        outcome = _triggered(
            self._ask(ExecuteRequest(config=self._config, trigger=trigger), run),
            "a trigger",
            {"value"},
        )
        return replace(outcome, log=(log + outcome.log)[-self._log_bytes_max :])

    def _hook(self, helper: ExecutionHelper, cancel: Cancel) -> _Run:
        limit_s = self._settings.cre_pre_hook_s_max
        late = f"its pre-hook ran longer than cre_pre_hook_s_max {limit_s:g} s"
        return _Run(
            helper=helper,
            bounds=replace(
                self._bounds, timeout_s=limit_s, timed_out=Why(OutcomeKind.TIMED_OUT, late)
            ),
            response_bytes_max=self._settings.cre_request_bytes_max,
            cancel=cancel,
        )

    def _ask(self, request: ExecuteRequest, run: _Run) -> _Answer:
        """Run the guest once for one request."""
        leash = Leash(run.bounds, run.cancel)
        if leash.over() and leash.why:
            return _Answer(Outcome(*leash.why))
        session = self._session(run, leash)
        request.max_response_size = self._settings.cre_response_bytes_max
        told = Told(["wasi", base64.b64encode(request.SerializeToString()).decode()], ())
        try:
            with (
                self.lent() as module,
                self._runtime.ticker.running(),
                Store(module.engine) as store,
                current(session),
            ):
                store.limit(self._judge.memory_bytes)
                store.tell(told)
                end = store.run(module.pre, leash)
                memory_bytes = store.memory_bytes()
        finally:
            session.close()
        outcome = self._outcome(end, session, run, memory_bytes)
        outcome = replace(outcome, log=session.log, memory_bytes=memory_bytes)
        # Behind an exit alone, which is what a normal end of _start is not.
        sent = session.result if outcome.ok and session.exit_code == 0 else None
        return _Answer(outcome, sent)

    def _session(self, run: _Run, leash: Leash) -> Session:
        return Session(
            memoryview(b""),
            run.response_bytes_max,
            self._log_bytes_max,
            self._settings.log_lines_max,
            leash,
            helper=run.helper,
            settings=self._settings,
            slots=self._slots,
        )

    def _outcome(self, end: End | None, session: Session, run: _Run, memory_bytes: int) -> Outcome:
        """Judge in the order in which one explains the other, as ``Engine`` does."""
        if session.host_error:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"the host failed the guest: {session.host_error!r}"
            ) from session.host_error
        if session.overflowed:
            said = f"answered with more than the {run.response_bytes_max:,} bytes it may"
            return Outcome(OutcomeKind.FAILED, said)
        code = session.exit_code
        if code == 0:
            return _COMPLETED if session.result else Outcome(OutcomeKind.FAILED, _NO_ANSWER)
        # Before its exit code: who is told that its time is over may well end itself for it.
        if session.leash.why:
            return Outcome(*session.leash.why)
        if code is None and end is None:
            return Outcome(OutcomeKind.COMPLETED, _RETURNED)
        if code is None:
            failed = self._judge.failure(str(end))
        else:
            failed = Outcome(OutcomeKind.FAILED, f"exit code {code}", exit_code=code)
        return self._judge.named(failed, memory_bytes, session.log)


def _subscribed(answer: _Answer, most: int) -> tuple[TriggerSubscription, ...]:
    outcome, result = answer.outcome, answer.result
    if outcome.kind in {OutcomeKind.TIMED_OUT, OutcomeKind.CANCELLED}:
        raise EngineRefused(Reason.SUBSCRIBE_FAILED, outcome.message)
    invalid = functools.partial(WorkflowInvalid, Reason.SUBSCRIBE_FAILED)
    if not outcome.ok or result is None:
        said = f"{outcome.kind}: {outcome.message}"
        raise invalid(f"asked what it subscribes to, the guest ended as {said}")
    kind = result.WhichOneof("result")
    if kind == "error":
        raise invalid(
            f"asked what it subscribes to, it answered: {result.error[:_ERROR_CHARS_MAX]}"
        )
    if kind != "trigger_subscriptions":
        raise invalid(f"asked what it subscribes to, it answered with {kind or 'nothing'}")
    found = tuple(result.trigger_subscriptions.subscriptions)
    if len(found) > most:
        raise invalid(f"it subscribes to {len(found)} triggers; at most {most} are allowed")
    for index, subscription in enumerate(found):
        if unmet := _unmet(index, subscription):
            raise unmet
    return found


def _unmet(index: int, subscription: TriggerSubscription) -> SluiceError | None:
    wanted = subscription.requirements
    if not wanted.ByteSize():  # a requirement of tomorrow has a size, though no name here
        return None
    what = "a trusted execution environment" if wanted.HasField("tee") else "what is unknown here"
    return WorkflowInvalid(
        Reason.REQUIREMENTS_UNMET,
        "cannot find a runner that can satisfy the requirements for trigger "
        f"{index}: {subscription.id} asks for {what}",
    )


def _refused(index: int, known: tuple[TriggerSubscription, ...] | None) -> Outcome | None:
    if known is None:
        said = "cannot trigger before gathering subscriptions"
    elif index >= len(known):
        said = f"cannot trigger {index}: it subscribes to {len(known)} triggers"
    elif unmet := _unmet(index, known[index]):
        said = unmet.message
    else:
        return None
    return Outcome(OutcomeKind.REFUSED, said)


def _triggered(answer: _Answer, asked: str, wanted: set[str]) -> Outcome:
    """Return what the answer to a trigger, or to its pre-hook, makes of the outcome."""
    outcome, result = answer.outcome, answer.result
    if result is None:
        return outcome
    kind = result.WhichOneof("result")
    if kind == "error":
        return replace(outcome, kind=OutcomeKind.FAILED, message=result.error[:_ERROR_CHARS_MAX])
    if kind is not None and kind not in wanted:
        said = f"it answered {asked} with {kind}"
        return replace(outcome, kind=OutcomeKind.FAILED, message=said)
    if kind == "value":
        try:
            return replace(outcome, result=to_json(result.value))
        except InvalidValue as e:
            said = f"it answered with a value that has no JSON: {e}"
            return replace(outcome, kind=OutcomeKind.FAILED, message=said)
    return outcome
