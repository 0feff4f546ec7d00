"""The judgement of addresses: what is around the operator stays closed, however it is written."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.destinations import Address, Destinations
from sluice.errors import EngineRefused
from sluice.settings import Settings

_V4 = st.ip_addresses(v=4)
_V6 = st.ip_addresses(v=6)
_CLOSED = [
    "0.1.2.3", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.255.255",
    "192.168.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
    "fe80::1%1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "::127.0.0.1",
    "2002:7f00:1::1", "2001:0:7f00:1::1", "2001:db8::1", "4000::1",
]  # fmt: skip
_OPEN = ["1.1.1.1", "9.9.9.9", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101"]


def _rules(allow: str = "", deny: str = "") -> Destinations:
    return Destinations.of(Settings(egress_allow=allow, egress_deny=deny))


@pytest.mark.parametrize("address", _CLOSED)
def test_what_lies_around_is_closed(address: str) -> None:
    """Loopback, metadata, private, multicast and what only looks public are refused, told why."""
    why = _rules().refusal(address)
    assert why is not None
    assert why.startswith(f"{address} is ")
    assert "egress_allow" in why


@pytest.mark.parametrize("address", _OPEN)
def test_the_public_internet_is_open(address: str) -> None:
    """A public address needs no rule."""
    assert _rules().refusal(address) is None


@given(_V4 | _V6)
def test_what_is_not_public_is_never_open_by_itself(address: Address) -> None:
    """Whatever the registries call special is refused, in any of 2^128 addresses."""
    if not address.is_global or address.is_multicast:
        assert _rules().refusal(str(address)) or _translated_is_public(address)


def _translated_is_public(address: Address) -> bool:
    """Whether it is NAT64's form of an address that is open: those name the public internet."""
    inside = address in ipaddress.ip_network("64:ff9b::/96")
    return (
        inside and _rules().refusal(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))) is None
    )


@given(_V4, st.sampled_from(["::ffff:{}", "64:ff9b::{}"]))
def test_a_v4_address_in_v6_clothes_is_judged_as_itself(address: Address, form: str) -> None:
    """Mapped and translated forms open nothing and close nothing, with rules and without."""
    for rules in (_rules(), _rules("10.0.0.0/8"), _rules("", "1.0.0.0/8")):
        assert bool(rules.refusal(form.format(address))) == bool(rules.refusal(str(address)))


@given(_V4 | _V6, st.integers(0, 32), st.booleans())
def test_deny_wins(address: Address, length: int, trusted: bool) -> None:
    """What a denied range holds is refused, even where the same range is allowed."""
    network = str(ipaddress.ip_network((address, length), strict=False))
    assert "egress_deny" in (_rules(network, network).refusal(str(address), trusted=trusted) or "")


@given(_V4 | _V6)
def test_an_address_is_opened_by_itself(address: Address) -> None:
    """An admin who names one address, of whatever kind, gets it; it opens no other."""
    rules = _rules(str(address))
    assert rules.refusal(str(address)) is None
    assert rules.refusal("169.254.169.254") or str(address) == "169.254.169.254"


@given(_V4 | _V6)
def test_everything_is_not_an_exception(address: Address) -> None:
    """0.0.0.0/0 and ::/0 open nothing: a closed range is opened by itself or a part of it."""
    assert bool(_rules("0.0.0.0/0,::/0").refusal(str(address))) == bool(
        _rules().refusal(str(address))
    )


def test_a_range_is_opened_in_part() -> None:
    """10.20.0.0/16 opens that and nothing else of 10.0.0.0/8."""
    rules = _rules("10.20.0.0/16, fd00:20::/32")
    assert rules.refusal("10.20.1.1") is None
    assert rules.refusal("fd00:20::1") is None
    assert rules.refusal("10.21.1.1")
    assert rules.refusal("fd00:21::1")


def test_a_trusted_name_opens_private_ranges_and_no_more() -> None:
    """Who may write a record in an allowed zone reaches neither loopback nor the metadata."""
    rules = _rules(".svc.cluster.local")
    assert rules.trusts("api.team.svc.cluster.local")
    assert rules.refusal("10.96.7.7", trusted=True) is None
    assert rules.refusal("fd00::7", trusted=True) is None
    for address in ("127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "::"):
        assert rules.refusal(address, trusted=True)


def test_names_match_as_written() -> None:
    """A name is itself, .name is all that lies below it; case and a last dot do not matter."""
    rules = _rules("hooks.example.com,.internal", "Bad.internal")
    assert rules.trusts("HOOKS.example.com.")
    assert rules.trusts("a.b.internal")
    assert not rules.trusts("internal")
    assert not rules.trusts("xhooks.example.com")
    assert not rules.trusts("hooks.example.com.evil.org")
    assert rules.refuses_host("bad.internal.")
    assert not rules.refuses_host("good.internal")


def test_the_api_server_is_opened_by_its_address_alone() -> None:
    """Neither a name, nor the range around it, nor that it is public lets anyone reach it."""
    protected = [ipaddress.ip_address("10.96.0.1"), ipaddress.ip_address("8.8.4.4")]
    around = _rules("10.0.0.0/8,8.8.0.0/16,.corp")
    for address in ("10.96.0.1", "8.8.4.4", "::ffff:8.8.4.4"):
        assert "API server" in str(around.refusal(address, trusted=True, protected=protected))
    exactly = _rules("10.96.0.1")
    assert exactly.refusal("10.96.0.1", protected=protected) is None
    assert around.refusal("10.96.0.2", protected=protected) is None


@pytest.mark.parametrize("text", ["127.1", "2130706433", "0x7f.1", "017700000001", "", "localhost"])
def test_an_address_in_an_odd_form_is_refused(text: str) -> None:
    """What connect() might understand and we do not is not connected to."""
    assert "usual form" in str(_rules("127.0.0.0/8").refusal(text))


@pytest.mark.parametrize("bad", ["10.0.0.1/8", "10", "*", "exa mple.com", "http://x.com", "1.2.3"])
@pytest.mark.parametrize("setting", ["egress_allow", "egress_deny"])
def test_a_rule_that_cannot_be_read_is_told(setting: str, bad: str) -> None:
    """The message names the setting, the item and the forms there are."""
    values: dict[str, Any] = {setting: f"10.0.0.0/8,{bad}"}
    with pytest.raises(EngineRefused) as told:
        Destinations.of(Settings(**values))
    assert told.value.message.startswith(f'{setting}: "{bad}": ')
    assert "10.20.0.0/16" in told.value.message
