"""Who may start a workflow over HTTP, and who may not: each way in a pair."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sluice.errors import SourceUnavailable, WorkflowInvalid
from sluice.reasons import Reason
from sluice.spec import HttpAuth
from sluice.triggers.credentials import SKEW_S, Guard, Shown

TOKEN, BODY = "s3cr3t-token", b'{"a": 1}'
BEARER = {"bearer": {"secretKeyRef": {"name": "hook"}}}
HMAC = {"hmac": {"secretKeyRef": {"name": "hook"}}}


class Vault:
    """A Secret that can be changed, with the interface of a SecretReader and its memory."""

    def __init__(self, value: str = TOKEN) -> None:
        self.value = self._kept = value.encode()
        self.fault: SourceUnavailable | None = None
        self.fresh = 0

    async def __call__(self, *, fresh: bool = False) -> bytes:
        if self.fault:
            raise self.fault
        if fresh:
            self.fresh += 1
            self._kept = self.value
        return self._kept


def auth(way: dict[str, Any]) -> HttpAuth:
    return msgspec.convert(way, HttpAuth)


def bearer(token: str) -> Shown:
    return Shown({"Authorization": f"Bearer {token}"}, BODY)


def signature(secret: str, body: bytes = BODY) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def pem(key: Any) -> str:
    return str(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
    )  # fmt: skip


KEY, OTHER_KEY = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


def token(key: Any = KEY, kid: str | None = None, **claims: object) -> str:
    claims = {"exp": int(time.time()) + 60} | claims
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, key, "ES256", headers={"kid": kid} if kid else None)


def jwt_guard(*keys: tuple[str | None, Any], **more: str) -> Guard:
    listed = [{"pem": pem(key)} | ({"id": name} if name else {}) for name, key in keys]
    return Guard(auth({"jwt": {"keys": listed} | more}))


@pytest.mark.parametrize(("shown", "good"), [
    (bearer(TOKEN), True),
    (Shown({"Authorization": f"bearer   {TOKEN}"}, b""), True),
    (bearer(TOKEN + "x"), False),
    (bearer(TOKEN[:-1]), False),
    (bearer(""), False),
    (bearer("\udcff"), False),
    (Shown({"Authorization": f"Basic {TOKEN}"}, b""), False),
    (Shown({"Authorization": TOKEN}, b""), False),
    (Shown({}, b""), False),
    (Shown({"X-Hub-Signature-256": signature(TOKEN)}, BODY), False),
])  # fmt: skip
async def test_a_token_is_the_secrets_own(shown: Shown, good: bool) -> None:
    """The bytes of the Secret come in, nothing that is nearly so, and no signature instead."""
    assert (await Guard(auth(BEARER), Vault()).problem(shown) == "") is good


@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_a_line_end_in_a_secret_does_not_count(end: str) -> None:
    """A Secret made of a file that an editor has saved holds the token that one reads in it."""
    assert await Guard(auth(BEARER), Vault(TOKEN + end)).problem(bearer(TOKEN)) == ""


@pytest.mark.parametrize(("header", "value", "good"), [
    ("X-Hub-Signature-256", signature(TOKEN), True),
    ("X-Hub-Signature-256", signature(TOKEN).upper().replace("SHA", "sha"), True),
    ("X-Hub-Signature-256", signature(TOKEN, BODY + b"\n"), False),
    ("X-Hub-Signature-256", signature("other"), False),
    ("X-Hub-Signature-256", signature(TOKEN).removeprefix("sha256="), False),
    ("X-Hub-Signature-256", "sha256=", False),
    ("X-Hub-Signature-256", "\udcff", False),
    ("X-Signature", signature(TOKEN), False),
    ("Authorization", f"Bearer {TOKEN}", False),
])  # fmt: skip
async def test_a_signature_is_over_what_was_sent(header: str, value: str, good: bool) -> None:
    """GitHub's signature of the very bytes comes in; of others, or by another key, it does not."""
    assert (await Guard(auth(HMAC), Vault()).problem(Shown({header: value}, BODY)) == "") is good


async def test_githubs_own_example() -> None:
    """The example of GitHub's documentation is understood."""
    shown = Shown(
        {"X-Hub-Signature-256":
         "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
        b"Hello, World!",
    )  # fmt: skip
    assert await Guard(auth(HMAC), Vault("It's a Secret to Everybody")).problem(shown) == ""


async def test_a_signature_may_have_another_header() -> None:
    """Who signs as GitHub does but in another header can be let in."""
    way = {"hmac": HMAC["hmac"] | {"header": "X-Signature"}}
    guard = Guard(auth(way), Vault())
    assert await guard.problem(Shown({"X-Signature": signature(TOKEN)}, BODY)) == ""
    assert await guard.problem(Shown({"X-Hub-Signature-256": signature(TOKEN)}, BODY))


async def test_a_changed_secret_counts_at_once() -> None:
    """A token that does not fit makes the Secret be read anew; one that fits does not."""
    vault = Vault()
    guard = Guard(auth(BEARER), vault)
    assert await guard.problem(bearer(TOKEN)) == ""
    assert vault.fresh == 0
    vault.value = b"rotated"
    assert await guard.problem(bearer("rotated")) == ""
    assert await guard.problem(bearer(TOKEN))


async def test_anonymous_lets_everybody_in_and_nothing_lets_nobody() -> None:
    """Only a spec that says so opens a trigger to all; what does not exist is open to none."""
    assert await Guard(auth({"anonymous": {}})).problem(Shown({}, b"")) == ""
    for shown in (Shown({}, b""), bearer(TOKEN), Shown({"X-Hub-Signature-256": "sha256="}, b"")):
        assert await Guard().problem(shown)


async def test_a_secret_that_cannot_be_read_is_no_answer() -> None:
    """Where nobody can judge, nobody is let in, and nobody is told that he was wrong."""
    vault = Vault()
    vault.fault = SourceUnavailable(Reason.SOURCE_UNAVAILABLE, "no answer")
    with pytest.raises(SourceUnavailable):
        await Guard(auth(BEARER), vault).problem(bearer(TOKEN))


@pytest.mark.parametrize(("key", "claims", "says"), [
    (KEY, {}, ""),
    (KEY, {"exp": -SKEW_S + 10}, ""),
    (KEY, {"exp": -SKEW_S - 10}, "expired"),
    (KEY, {"exp": None}, "lacks a claim"),
    (KEY, {"nbf": SKEW_S - 10}, ""),
    (KEY, {"nbf": SKEW_S + 10}, "not valid yet"),
    (KEY, {"iat": SKEW_S + 10}, "not valid yet"),
    (KEY, {"aud": "somebody"}, "another audience"),
    (OTHER_KEY, {}, "no key of the trigger"),
])  # fmt: skip
async def test_a_signed_token_is_judged_whole(key: Any, claims: dict[str, Any], says: str) -> None:
    """Signature, times and audience all have to be right; clocks may differ by 30 s."""
    now = int(time.time())
    told: dict[str, Any] = {
        name: now + v if isinstance(v, int) else v for name, v in claims.items()
    }
    problem = await jwt_guard((None, KEY)).problem(bearer(token(key, **told)))
    assert says in problem
    assert bool(says) == bool(problem)


@pytest.mark.parametrize("shown", [
    "", "a.b.c", "." * 8000, "\udcff.\udcff.\udcff",
    base64.urlsafe_b64encode(b"[" * 6000).decode() + ".e30.e30",
    base64.urlsafe_b64encode(b"[]").decode() + ".e30.e30",
    jwt.encode({"exp": 1 << 40}, KEY, "ES256", headers={"crit": ["x"], "x": 1}),
    jwt.encode({"exp": 1 << 40}, "x" * 32, "HS256"),
    jwt.encode({"exp": 1 << 40}, "", "none"),
    jwt.encode({"exp": 1 << 40}, ec.generate_private_key(ec.SECP384R1()), "ES384"),
    jwt.encode({"exp": "soon"}, KEY, "ES256"),
    jwt.encode({"exp": 1 << 40}, KEY, "ES256")[:-4] + "AAAA",
])  # fmt: skip
async def test_what_is_no_es256_token_is_refused(shown: str) -> None:
    """Other algorithms, none at all, and what is no token: each is a refusal and no error."""
    assert await jwt_guard((None, KEY)).problem(bearer(shown))


async def test_a_token_far_from_its_end_comes_in() -> None:
    """The tokens that are refused above are not refused for their claims."""
    made = jwt.encode({"exp": 1 << 40}, KEY, "ES256")
    assert await jwt_guard((None, KEY)).problem(bearer(made)) == ""


async def test_the_public_key_is_no_secret_key() -> None:
    """A token signed with the text of the public key, as if it were a shared one, is refused."""
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"exp": int(time.time()) + 60})
    )
    signed = header + b"." + claims
    mac = hmac.new(pem(KEY).encode(), signed, hashlib.sha256).digest()
    forged = signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")
    assert await jwt_guard((None, KEY)).problem(bearer(forged.decode()))


@pytest.mark.parametrize(("claims", "says"), [
    ({"iss": "https://ci", "aud": "sluice"}, ""),
    ({"iss": "https://ci", "aud": ["other", "sluice"]}, ""),
    ({"iss": "https://ci", "aud": "other"}, "another audience"),
    ({"iss": "https://evil", "aud": "sluice"}, "another issuer"),
    ({"aud": "sluice"}, "lacks a claim"),
    ({"iss": "https://ci"}, "lacks a claim"),
])  # fmt: skip
async def test_issuer_and_audience_are_asked_for_where_the_spec_names_them(
    claims: dict[str, Any], says: str
) -> None:
    """A token of the right key for another service, or of another service's, stays out."""
    guard = jwt_guard((None, KEY), issuer="https://ci", audience="sluice")
    problem = await guard.problem(bearer(token(**claims)))
    assert says in problem
    assert bool(says) == bool(problem)


@pytest.mark.parametrize(("key", "kid", "good"), [
    (KEY, "one", True),
    (OTHER_KEY, "two", True),
    (KEY, None, True),
    (OTHER_KEY, None, True),
    (KEY, "two", False),
    (KEY, "three", False),
])  # fmt: skip
async def test_a_token_that_names_its_key_is_judged_by_that_one(
    key: Any, kid: str | None, good: bool
) -> None:
    """With a kid the key of that id counts; without one, any of them."""
    guard = jwt_guard(("one", KEY), ("two", OTHER_KEY))
    assert (await guard.problem(bearer(token(key, kid))) == "") is good


@pytest.mark.parametrize(("key", "says"), [
    (pem(ec.generate_private_key(ec.SECP384R1())), "no key of the curve P-256"),
    (pem(rsa.generate_private_key(65537, 2048)), "no key of the curve P-256"),
    ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no PEM public key"),
    ("secret", "no PEM public key"),
])  # fmt: skip
def test_a_key_of_another_kind_is_the_authors_mistake(key: str, says: str) -> None:
    """What ES256 cannot be judged with is told before anybody calls, by its place in the spec."""
    with pytest.raises(WorkflowInvalid, match=says) as refused:
        Guard(auth({"jwt": {"keys": [{"pem": pem(KEY)}, {"pem": key}]}}))
    assert "auth.jwt.keys[1].pem" in refused.value.message


def test_the_library_of_tokens_waits_for_the_first_that_needs_it() -> None:
    """An operator without such a trigger does not pay its 9 MB."""
    code = (
        "import sys; import sluice.adapters.webhooks, sluice.adapters.kubernetes.secrets\n"
        "print({'jwt', 'cryptography'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
