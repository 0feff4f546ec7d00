"""CRE guests on a lab: scripts for the guest of many acts, and a helper that answers as it is told.

The helper has the interface of the real one, and its answers come from threads at the test's will.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from guests.build import has_go
from sluice.cre.proto import sdk_pb2 as sdk
from sluice.cre.proto.user_metric_pb2 import WorkflowUserMetric
from sluice.outcome import Outcome
from sluice.wasm.cre_engine import CreEngine, CreExecution
from sluice.wasm.interrupt import Cancel
from wasm.lab import Lab, workflow

needs_go = pytest.mark.skipif(not has_go(), reason="Go is missing: guests cannot be built")
ACTS = "cre/acts"


def any_of(text: str, name: str = "test.Payload") -> AnyMessage:
    return AnyMessage(type_url=f"type.googleapis.com/{name}", value=text.encode())


def echo(request: sdk.CapabilityRequest) -> Future[sdk.CapabilityResponse]:
    """Answer at once with the method and the payload."""
    text = f"{request.method}({request.payload.value.decode(errors='replace')})"
    return done(sdk.CapabilityResponse(payload=any_of(text)))


def done(response: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(response)
    return future


def reveal(request: sdk.GetSecretsRequest) -> Future[sdk.SecretResponses]:
    """Answer at once with a value made of each secret's name; what is called no is refused."""
    return done(sdk.SecretResponses(responses=map(_revealed, request.requests)))


def _revealed(asked: sdk.SecretRequest) -> sdk.SecretResponse:
    name = {"id": asked.id, "namespace": asked.namespace}
    if asked.id == "no":
        return sdk.SecretResponse(error=sdk.SecretError(**name, error="there is none"))
    return sdk.SecretResponse(secret=sdk.Secret(**name, value=f"{asked.namespace}.{asked.id}!"))


@dataclass
class Helper:
    """An ExecutionHelper whose every answer is the test's."""

    execution_id: str = "execution-1"
    call: Callable[[sdk.CapabilityRequest], Future[sdk.CapabilityResponse]] = echo
    secrets: Callable[[sdk.GetSecretsRequest], Future[sdk.SecretResponses]] = reveal
    node_ns: Callable[[], int] = time.time_ns
    don_ns: Callable[[], int] = lambda: 1_700_000_000_123_456_789
    metrics_wanted: bool = True
    logged: list[str] = field(default_factory=list)
    metrics: list[WorkflowUserMetric] = field(default_factory=list)
    calls: list[sdk.CapabilityRequest] = field(default_factory=list)

    def call_capability(self, request: sdk.CapabilityRequest) -> Future[sdk.CapabilityResponse]:
        self.calls.append(request)
        return self.call(request)

    def get_secrets(self, request: sdk.GetSecretsRequest) -> Future[sdk.SecretResponses]:
        return self.secrets(request)

    def node_time_ns(self) -> int:
        return self.node_ns()

    def don_time_ns(self) -> int:
        return self.don_ns()

    def user_log(self, text: str) -> None:
        self.logged.append(text)

    def user_metric(self, metric: WorkflowUserMetric) -> bool:
        if self.metrics_wanted:
            self.metrics.append(metric)
        return self.metrics_wanted


class Held:
    """Calls that are answered when the test says so, in any order, from any thread."""

    def __init__(self) -> None:
        self._futures: dict[int, Future[sdk.CapabilityResponse]] = {}
        self._changed = threading.Condition()

    def __call__(self, request: sdk.CapabilityRequest) -> Future[sdk.CapabilityResponse]:
        future: Future[sdk.CapabilityResponse] = Future()
        with self._changed:
            self._futures[request.callback_id] = future
            self._changed.notify_all()
        return future

    @property
    def count(self) -> int:
        return len(self._futures)

    def future(self, callback: int) -> Future[sdk.CapabilityResponse]:
        """Return a call's future, when the guest has made the call."""
        with self._changed:
            assert self._changed.wait_for(lambda: callback in self._futures, 30)
            return self._futures[callback]

    def answer(self, callback: int, text: str = "answered") -> None:
        self.future(callback).set_result(sdk.CapabilityResponse(payload=any_of(text)))


@dataclass
class Cre:
    """Engines of CRE guests on a lab."""

    lab: Lab

    def engine(
        self, wasm: str | bytes = ACTS, *, config: str = "", subscribed: bool = True, **spec: Any
    ) -> CreEngine:
        """Return an engine that is taken to subscribe to one plain trigger."""
        module = self.lab.module(wasm)
        engine = CreEngine(self.lab.runtime, module, workflow(module, [], spec), config)
        if subscribed:
            engine.remember([sdk.TriggerSubscription(id="basic-trigger@1.0.0", method="Trigger")])
        return engine

    def run(
        self,
        *script: str,
        helper: Helper | None = None,
        wasm: str | bytes = ACTS,
        cancel: Cancel | None = None,
        **spec: Any,
    ) -> Outcome:
        """Let the guest of many acts do what each line of a script says."""
        engine = self.engine(wasm, **spec)
        return engine.run(firing(*script, helper=helper), cancel)

    def said(self, *script: str, helper: Helper | None = None, **spec: Any) -> list[str]:
        """Return what came of each line of a script that the guest did to its end."""
        outcome = self.run(*script, helper=helper, **spec)
        assert outcome.ok, outcome
        return text(outcome).split("\n")


def text(outcome: Outcome) -> str:
    found = json.loads(outcome.result)
    assert isinstance(found, str)
    return found


def firing(*script: str, helper: Helper | None = None, trigger: int = 0) -> CreExecution:
    payload = any_of("\n".join(script))
    return CreExecution(trigger=trigger, payload=payload, helper=helper or Helper())
