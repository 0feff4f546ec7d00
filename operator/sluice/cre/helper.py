"""What one execution's host functions call out to.

It stands here because both sides need it: the wasm room, which calls it on a guest's thread, and
the capabilities, which answer on the operator's loop.
"""

from concurrent.futures import Future
from typing import Protocol

from sluice.cre.proto.sdk_pb2 import (
    CapabilityRequest,
    CapabilityResponse,
    GetSecretsRequest,
    SecretResponses,
)
from sluice.cre.proto.user_metric_pb2 import WorkflowUserMetric


class ExecutionHelper(Protocol):
    """Called on the thread of the guest, one call after the other; no method blocks.

    A future is done at any time on any thread. It is cancelled when the guest's execution is over
    and nobody will look at it any more.
    """

    @property
    def execution_id(self) -> str: ...

    def call_capability(self, request: CapabilityRequest) -> Future[CapabilityResponse]:
        """Begin a call. A capability's failure is ``response.error``, never an exception."""
        ...

    def get_secrets(self, request: GetSecretsRequest) -> Future[SecretResponses]:
        """Begin to read secrets; one that is refused is a ``SecretError`` in its place.

        An exception in the future fails the whole call: the guest is told its text.
        """
        ...

    def node_time_ns(self) -> int:
        """Return this node's time, nanoseconds since 1970."""
        ...

    def don_time_ns(self) -> int:
        """Return the time that all nodes of the execution agree on; on one node, its own."""
        ...

    def user_log(self, text: str) -> None: ...

    def user_metric(self, metric: WorkflowUserMetric) -> bool:
        """Count a metric of the guest's own; False where none is wanted or it breaks a limit."""
        ...
