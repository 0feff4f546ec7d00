"""What CRE workflows are equipped with: each capability behind the door that it goes through.

What it takes (messages, signatures, connections) is loaded with the first of them. Apart from
app.py, for ``sluice simulate`` equips a workflow too.
"""

import functools
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sluice.errors import SourceUnavailable
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import SecretKeyRef

if TYPE_CHECKING:
    from sluice.adapters.egress import Egress
    from sluice.adapters.rpc import Endpoints
    from sluice.capabilities import Capabilities
    from sluice.capabilities.secrets import Vault


class NoVault:
    """A ``Vault`` where there are no Secrets."""

    async def read(self, namespace: str, ref: SecretKeyRef) -> bytes:  # noqa: ARG002 - a Vault
        raise SourceUnavailable(
            Reason.SECRET_NOT_FOUND, f"there is no cluster with a Secret {ref.name} here"
        )


class Equipment:
    """The capabilities of one process; ``aclose`` it, asked for them or not.

    ``api_server`` is the URL of what no workflow is to reach through us.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        vault: "Vault | None" = None,
        api_server: str | None = None,
    ) -> None:
        self._settings, self._metrics, self._vault = settings, metrics, vault or NoVault()
        self._protected = urlsplit(api_server).hostname if api_server else None
        self._open: list[Egress | Endpoints] = []

    @functools.cached_property
    def capabilities(self) -> "Capabilities":
        """Made when they are asked for; raises EngineRefused where a setting of theirs is wrong."""
        from sluice.adapters.capability_http import GuardedDoor
        from sluice.adapters.egress import Egress
        from sluice.adapters.rpc import Endpoints
        from sluice.capabilities.evm import evm_capabilities
        from sluice.capabilities.standard import standard

        settings, metrics = self._settings, self._metrics
        endpoints = Endpoints(settings, metrics)  # first: its setting may be wrong
        egress = Egress(settings, metrics, self._protected)
        self._open += [endpoints, egress]
        chains = evm_capabilities(settings, endpoints.post)
        return standard(GuardedDoor(egress), self._vault, settings, metrics, chains)

    async def aclose(self) -> None:
        for one in self._open:
            await one.aclose()
