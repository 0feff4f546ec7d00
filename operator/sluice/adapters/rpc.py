"""The way to the admin's own endpoints of chains: opened by him, and by him alone.

Not through the door of workflows' requests: to let an endpoint in a private range be reached there
would let every workflow reach it, by any request.
"""

from dataclasses import replace

from yarl import URL

from sluice.adapters.egress import Egress, EgressError
from sluice.capabilities.evm import RpcFailed, endpoints
from sluice.metrics import Metrics
from sluice.settings import Settings

_HEADERS = {"Content-Type": "application/json"}


class Endpoints:
    """Sends to the endpoints of ``cre_evm_rpc`` and nowhere else; ``aclose`` it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        hosts = {URL(url).raw_host or "" for url in endpoints(settings.cre_evm_rpc).values()}
        own = replace(settings, egress_allow=",".join(sorted(hosts)), egress_deny="")
        self._egress = Egress(own, metrics)

    async def post(self, url: str, body: bytes, *, timeout_s: float, bytes_max: int) -> bytes:
        """Return the body of the answer; raises RpcFailed."""
        try:
            answer = await self._egress.request(
                "POST", url, headers=_HEADERS, body=body, timeout_s=timeout_s,
                answer_bytes_max=bytes_max,
            )  # fmt: skip
        except EgressError as e:
            raise RpcFailed(e.message) from None
        if answer.cut:
            raise RpcFailed(f"the endpoint answered more than {bytes_max:,} bytes")
        return answer.body

    async def aclose(self) -> None:
        await self._egress.aclose()
