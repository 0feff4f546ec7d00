"""The capabilities that an operator has; apart from __init__.py, which they import."""

from collections.abc import Iterable

from sluice.capabilities import Capabilities, Capability
from sluice.capabilities.confidential import ConfidentialHttp
from sluice.capabilities.consensus import Consensus
from sluice.capabilities.http import Http
from sluice.capabilities.report import Reports
from sluice.capabilities.secrets import Vault
from sluice.capabilities.sending import Door, Sending
from sluice.metrics import Metrics
from sluice.settings import Settings


def standard(
    door: Door,
    vault: Vault,
    settings: Settings,
    metrics: Metrics,
    chains: Iterable[Capability] = (),
) -> Capabilities:
    """Return them; ``door`` guards what goes out, ``vault`` holds secrets."""
    sending = Sending(door, settings)
    own: list[Capability] = [
        Http(sending, settings),
        ConfidentialHttp(sending, settings),
        Consensus(Reports(settings), settings),
    ]
    return Capabilities([*own, *chains], vault, settings, metrics)
