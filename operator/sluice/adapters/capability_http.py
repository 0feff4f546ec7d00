"""Requests of CRE workflows, through the guard of outgoing requests."""

from collections.abc import Mapping

from sluice.adapters.egress import Answer, Egress, EgressFailed, EgressRefused
from sluice.capabilities.sending import Unsent


class GuardedDoor:
    """A ``capabilities.sending.Door``."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_s: float,
        answer_bytes_max: int,
    ) -> Answer:
        try:
            return await self._egress.request(
                method, url, headers=headers, body=body, timeout_s=timeout_s,
                answer_bytes_max=answer_bytes_max,
            )  # fmt: skip
        except (EgressFailed, EgressRefused) as e:
            raise Unsent(e.message, refused=isinstance(e, EgressRefused)) from None
