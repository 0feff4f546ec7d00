"""What a pre-hook allows the run behind it: calls are counted before they reach a capability."""

from concurrent.futures import Future

from sluice.cre.errors import CapabilityError, Code
from sluice.cre.helper import ExecutionHelper
from sluice.cre.proto.sdk_pb2 import (
    RESTRICTION_TYPE_CLOSED,
    CapabilityRequest,
    CapabilityResponse,
    CapabilityRestrictions,
    GetSecretsRequest,
    Restrictions,
    SecretError,
    SecretPrefixRestriction,
    SecretRequest,
    SecretResponse,
    SecretResponses,
    SecretsRestritions,
)
from sluice.cre.proto.user_metric_pb2 import WorkflowUserMetric

_DENIED = "denied by user pre-hook restrictions"


def restricted(helper: ExecutionHelper, restrictions: Restrictions) -> ExecutionHelper:
    """Return a helper that serves only what ``restrictions`` allow."""
    return _Restricted(helper, restrictions)


class _Restricted:
    def __init__(self, helper: ExecutionHelper, restrictions: Restrictions) -> None:
        self._helper = helper
        calls, secrets = restrictions.capabilities, restrictions.secrets
        self._calls = _CallBudget(calls) if restrictions.HasField("capabilities") else None
        self._secrets = _SecretBudget(secrets) if restrictions.HasField("secrets") else None

    @property
    def execution_id(self) -> str:
        return self._helper.execution_id

    def call_capability(self, request: CapabilityRequest) -> Future[CapabilityResponse]:
        if self._calls is None or self._calls.spend(request):
            return self._helper.call_capability(request)
        error = CapabilityError(
            Code.LIMIT_EXCEEDED, f"call {_DENIED}: {request.id} {request.method}"
        )
        denied: Future[CapabilityResponse] = Future()
        denied.set_result(CapabilityResponse(error=error.text))
        return denied

    def get_secrets(self, request: GetSecretsRequest) -> Future[SecretResponses]:
        if self._secrets is None:
            return self._helper.get_secrets(request)
        spend = self._secrets.spend
        denied = {n: _denied(asked) for n, asked in enumerate(request.requests) if not spend(asked)}
        allowed = [asked for n, asked in enumerate(request.requests) if n not in denied]
        if not allowed:
            return _done(SecretResponses(responses=denied.values()))
        asked = GetSecretsRequest(requests=allowed, callback_id=request.callback_id)
        return _merged(self._helper.get_secrets(asked), denied)

    def node_time_ns(self) -> int:
        return self._helper.node_time_ns()

    def don_time_ns(self) -> int:
        return self._helper.don_time_ns()

    def user_log(self, text: str) -> None:
        self._helper.user_log(text)

    def user_metric(self, metric: WorkflowUserMetric) -> bool:
        return self._helper.user_metric(metric)


class _CallBudget:
    """A bound below 0 is none; of two for one method the lower one counts."""

    def __init__(self, given: CapabilityRestrictions) -> None:
        self._total = given.max_total_calls
        self._closed = given.type == RESTRICTION_TYPE_CLOSED
        self._left: dict[tuple[str, str], int] = {}
        for restriction in given.restrictions:
            method = restriction.method
            key = method.id, method.method
            before, most = self._left.get(key, -1), method.max_calls
            if key not in self._left or (most >= 0 and (before < 0 or most < before)):
                self._left[key] = most

    def spend(self, request: CapabilityRequest) -> bool:
        key = request.id, request.method
        left = self._left.get(key, 0 if self._closed else -1)
        if self._total == 0 or left == 0:
            return False
        if left > 0:
            self._left[key] = left - 1
        if self._total > 0:
            self._total -= 1
        return True


class _SecretBudget:
    """A secret is allowed by its name, or by every prefix of it that is named."""

    def __init__(self, given: SecretsRestritions) -> None:
        self._total = given.max_secrets
        self._exact = set[tuple[str, str]]()
        self._prefixes: list[tuple[SecretPrefixRestriction, list[int]]] = []
        for restriction in given.restrictions:
            if restriction.HasField("exact_secret"):
                secret = restriction.exact_secret
                self._exact.add((secret.id, secret.namespace))
            elif restriction.HasField("prefixed_secret"):
                prefix = restriction.prefixed_secret
                self._prefixes.append((prefix, [prefix.max_secrets]))

    def spend(self, asked: SecretRequest) -> bool:
        matching = [
            left
            for prefix, left in self._prefixes
            if prefix.namespace == asked.namespace and asked.id.startswith(prefix.prefix)
        ]
        named = (asked.id, asked.namespace) in self._exact
        if self._total == 0 or not (named or matching) or any(left == [0] for left in matching):
            return False
        for left in matching:
            left[0] -= left[0] > 0
        if self._total > 0:
            self._total -= 1
        return True


def _denied(asked: SecretRequest) -> SecretResponse:
    said = f'secret "{asked.id}" in namespace "{asked.namespace}" {_DENIED}'
    return SecretResponse(error=SecretError(id=asked.id, namespace=asked.namespace, error=said))


def _done(responses: SecretResponses) -> Future[SecretResponses]:
    done: Future[SecretResponses] = Future()
    done.set_result(responses)
    return done


def _merged(
    inner: Future[SecretResponses], denied: dict[int, SecretResponse]
) -> Future[SecretResponses]:
    """Return what ``inner`` will say with the denied ones in the places they were asked for."""
    merged: Future[SecretResponses] = Future()
    merged.add_done_callback(lambda outer: outer.cancelled() and inner.cancel())

    def over(_inner: Future[SecretResponses]) -> None:
        if not merged.set_running_or_notify_cancel():
            return
        try:
            responses = list(inner.result().responses)
        except BaseException as e:  # noqa: BLE001 - whoever waits for it is to have it
            merged.set_exception(e)
            return
        for place, response in denied.items():  # in rising order, so each finds its own place
            responses.insert(place, response)
        merged.set_result(SecretResponses(responses=responses))

    inner.add_done_callback(over)
    return merged
