"""What a CRE guest may do while it says what it subscribes to: log, and look at a clock."""

import time
from collections.abc import Callable
from concurrent.futures import Future

from sluice.cre.proto.sdk_pb2 import (
    CapabilityRequest,
    CapabilityResponse,
    GetSecretsRequest,
    SecretResponses,
)
from sluice.cre.proto.user_metric_pb2 import WorkflowUserMetric


class SubscribingHelper:
    """Refuses all that reaches outside, so that the answer depends on module and config alone."""

    # No execution has begun: chance is the same for all of them.
    execution_id = ""

    def __init__(self, heard: Callable[[str], object]) -> None:
        self._heard = heard

    def call_capability(self, _request: CapabilityRequest) -> Future[CapabilityResponse]:
        refused: Future[CapabilityResponse] = Future()
        error = "capability calls cannot be made during this execution"
        refused.set_result(CapabilityResponse(error=error))
        return refused

    def get_secrets(self, _request: GetSecretsRequest) -> Future[SecretResponses]:
        refused: Future[SecretResponses] = Future()
        refused.set_exception(PermissionError("secrets cannot be read during this execution"))
        return refused

    def node_time_ns(self) -> int:
        return time.time_ns()

    def don_time_ns(self) -> int:
        return time.time_ns()

    def user_log(self, text: str) -> None:
        self._heard(text)

    def user_metric(self, _metric: WorkflowUserMetric) -> bool:
        return False
