"""Who may call a CRE workflow's http trigger: whoever has signed what is sent, once."""

import json
import time
from typing import Any

import pytest

from sluice.event import Event
from sluice.triggers.signers import Signed, Unsigned, event_of_signed, signed
from triggers import eth_token
from triggers.eth_token import ACCOUNT, STRANGER, digest, part

NOW = time.time()
INPUT = {"price": 1.5, "name": "ä<b>", "list": [{"z": 1, "a": 2}]}
ENVELOPE = {
    "jsonrpc": "2.0", "id": "r1", "method": "workflows.execute",
    "params": {"input": INPUT, "workflow": {"workflowID": "ab" * 32}},
}  # fmt: skip
BODY = json.dumps(ENVELOPE, indent=1).encode()


def token(by: Any = ACCOUNT, **claims: Any) -> str:
    return eth_token.token(BODY, by, **({"iat": NOW, "exp": NOW + 300} | claims))


def check(shown: str, body: bytes = BODY) -> Signed:
    return signed(shown, body, [STRANGER.address[:-1] + "0", ACCOUNT.address], NOW)


@pytest.mark.parametrize("v", [0, 27])
def test_an_authorized_key_is_let_in(v: int) -> None:
    """A token signed by one of the addresses is good, whichever way its v is written."""
    assert check(token(v=v)) == Signed(ACCOUNT.address, "t-1")


@pytest.mark.parametrize("sort_keys", [False, True])
def test_a_digest_of_the_envelope_counts_however_it_was_sent(sort_keys: bool) -> None:
    """A client that digests the compact envelope and sends it laid out otherwise is let in."""
    compact = json.dumps(
        ENVELOPE, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys
    ).encode()
    assert check(token(digest=digest(compact))).address == ACCOUNT.address


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("", "no bearer token"),
        ("a.b", "no bearer token"),
        ("a.b.c", "is no JWT"),
        (token(alg="none"), "not signed with ETH"),
        (token(alg="ES256"), "not signed with ETH"),
        (token(STRANGER), "no authorized key"),
        (token(exp=NOW - 1), "has expired"),
        (token(iat=NOW + 301, exp=NOW + 302), "not valid yet"),
        (token(exp=NOW + 301), "lives longer than 300 s"),
        (token(jti=""), "no jti"),
        (token(jti=None), "is no JWT with"),
        (token(digest=digest(b"other")), "digest is not that"),
        (token()[:-8], "has not 65 bytes"),
        (token().rpartition(".")[0] + "." + part(b"\xff" * 65), "signature is none"),
    ],
)
def test_all_others_are_not(shown: str, words: str) -> None:
    """Each rule of the token, broken alone, keeps its bearer out, and the log can say why."""
    with pytest.raises(Unsigned, match=words):
        check(shown)


def test_a_token_is_good_for_what_was_signed_alone() -> None:
    """A body that was changed on its way, in one value, is not the one that was signed."""
    other = json.loads(BODY)
    other["params"]["input"]["price"] = 2
    with pytest.raises(Unsigned, match="digest is not that"):
        check(token(), json.dumps(other).encode())


def test_a_token_shown_twice_is_one_execution() -> None:
    """The event's id is the token's, so the second one is known; odd ids are hashed into form."""
    event = Event(kind="http", trigger="http-0", id="given by the caller")
    first = event_of_signed(event, BODY, Signed(ACCOUNT.address, "t-1"))
    assert (first.id, first.subject, first.data) == ("t-1", ACCOUNT.address, INPUT)
    odd = event_of_signed(event, BODY, Signed(ACCOUNT.address, "t 1/" * 100))
    assert len(odd.id) == 64
    assert odd.id != event_of_signed(event, BODY, Signed(ACCOUNT.address, "t 2")).id


def test_a_body_without_the_envelope_is_the_input() -> None:
    """Whoever calls us and not CRE's gateway need not wrap what he sends."""
    event = Event(kind="http", trigger="http-0", data={"a": 1})
    assert event_of_signed(event, b'{"a": 1}', Signed(ACCOUNT.address, "t")).data == {"a": 1}
