"""Which addresses a request on behalf of a tenant may reach. Pure.

The public internet is open. What lies around the operator is not: a tenant must reach nothing
through it that he could not reach himself, and a cloud's metadata service gives credentials to
whoever asks. The admin opens more by range or name (``egress_allow``), or closes more
(``egress_deny``, which wins).
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from sluice.errors import EngineRefused
from sluice.reasons import Reason
from sluice.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What a name may open for itself, where the admin allows the name. Not loopback, not link-local:
# who may write a Service or a DNS record in a zone that is allowed must not reach those.
_INSIDE = {
    "10.0.0.0/8": "private",
    "172.16.0.0/12": "private",
    "192.168.0.0/16": "private",
    "100.64.0.0/10": "shared by carriers",
    "fc00::/7": "unique local",
}
_CLOSED = {
    "0.0.0.0/8": "unspecified",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local, as the metadata services of clouds are",
    "192.0.0.0/24": "of protocols",
    "192.0.2.0/24": "of documentation",
    "192.88.99.0/24": "of a relay",
    "198.18.0.0/15": "of benchmarks",
    "198.51.100.0/24": "of documentation",
    "203.0.113.0/24": "of documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    "::/128": "unspecified",
    "::1/128": "loopback",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
    "2001::/23": "of protocols",
    "2001:db8::/32": "of documentation",
    "2002::/16": "of a relay",
    "3fff::/20": "of documentation",
}
_RANGES = [(ipaddress.ip_network(text), what) for text, what in (_INSIDE | _CLOSED).items()]
_OPEN_TO_NAMES = frozenset(ipaddress.ip_network(text) for text in _INSIDE)
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LABEL = "[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?"
_HOST = re.compile(rf"(?=.*[a-z])\.?{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class _Set:
    """Ranges and names as a setting lists them; ``.example.com`` is all that lies below it."""

    networks: tuple[Network, ...]
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, setting: str, text: str) -> Self:
        networks, hosts = [], []
        for item in filter(None, map(str.strip, text.lower().split(","))):
            if _HOST.fullmatch(item):
                hosts.append(item)
            else:
                networks.append(_network(setting, item))
        return cls(tuple(networks), tuple(hosts))

    def names(self, host: str) -> bool:
        return any(host.endswith(h) if h[0] == "." else host == h for h in self.hosts)


@dataclass(frozen=True, slots=True)
class Destinations:
    """The admin's rules. ``trusted`` below: the host was allowed by its name."""

    allowed: _Set
    denied: _Set

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the rules of the settings; raises EngineRefused where they cannot be read."""
        allow, deny = settings.egress_allow, settings.egress_deny
        return cls(_Set.of("egress_allow", allow), _Set.of("egress_deny", deny))

    def trusts(self, host: str) -> bool:
        return self.allowed.names(_plain(host))

    def refuses_host(self, host: str) -> bool:
        return self.denied.names(_plain(host))

    def refusal(
        self, text: str, *, trusted: bool = False, protected: Iterable[Address] = ()
    ) -> str | None:
        """Say why this address must not be connected to; None: it may.

        ``protected`` are the API server's. A range that is closed is opened by itself or a part
        of it: 0.0.0.0/0 is no reason to let anyone reach the metadata service.
        """
        try:
            given = ipaddress.ip_address(text)
        except ValueError:  # 127.1 and 2130706433 are loopback to connect(), and nothing to us
            return f"{text} is no address in its usual form"
        address = _meant(given)
        forms = {given, address}
        if any(form in network for form in forms for network in self.denied.networks):
            return f"{text} is denied (egress_deny)"
        closed, what = _range(address)
        if address in {_meant(a) for a in protected}:
            closed, what, trusted = ipaddress.ip_network(address), "the API server's", False
        if closed is None or (trusted and closed in _OPEN_TO_NAMES):
            return None
        if any(address in n and _within(n, closed) for n in self.allowed.networks):
            return None
        return f"{text} is {what}; an admin can open it (egress_allow)"


def _network(setting: str, item: str) -> Network:
    try:
        if set(item) & set(".:"):  # "10" would be 0.0.0.10
            network = ipaddress.ip_network(item)
            if network.num_addresses == 1:  # in whatever form it is given
                return ipaddress.ip_network(_meant(network.network_address))
            return network
        problem = "it is neither an address, nor a range, nor a name"
    except ValueError as e:
        problem = str(e)
    raise EngineRefused(
        Reason.ENGINE_REFUSED,
        f'{setting}: "{item}": {problem}; write for example 10.20.0.0/16, fd00:20::/32, '
        "hooks.example.com or .example.com, with commas between",
    )


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _range(address: Address) -> tuple[Network | None, str]:
    """Return the closed range that an address is in, and what kind that is."""
    for network, what in _RANGES:
        if address in network:
            return network, what
    # What is in no range above and still not public: closed, and opened by its own address alone.
    public = address.is_global and (address.version == 4 or address in _PUBLIC_V6)
    return (None, "public") if public else (ipaddress.ip_network(address), "not public")


def _within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
