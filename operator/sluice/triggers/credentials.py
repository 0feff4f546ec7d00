"""Who may start a workflow over HTTP: by a token, a signature, a signed token, or without.

A stranger must not learn which workflows there are. So whatever is asked for, the comparisons are
made; for what does not exist, with a secret that nobody has. What remains of a difference in time
(a Secret that is read anew, a signature on a curve) the door evens out: it refuses by the clock.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sluice.errors import WorkflowInvalid
from sluice.reasons import Reason
from sluice.spec import HttpAuth, JwtAuth, JwtKey, SecretKeyRef
from sluice.triggers.signers import EvmAuth, Unsigned, signed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SKEW_S = 30  # by how much the clocks of who signs and of this machine may differ
_SIGNATURE_HEADER = "X-Hub-Signature-256"
_NOBODYS = secrets.token_bytes(32)


class SecretReader(Protocol):
    """One key of one Secret; ``fresh`` asks for it as it is now, not as it was a minute ago."""

    async def __call__(self, *, fresh: bool = False) -> bytes:
        """Raise SourceUnavailable where it cannot be had: SecretNotFound, SecretForbidden."""
        ...


class SecretSource(Protocol):
    """Secrets by name; what it gives is never logged and never kept for longer than a minute."""

    async def secret(self, namespace: str, ref: SecretKeyRef, *, fresh: bool = False) -> bytes:
        """Raise SourceUnavailable where it cannot be had: SecretNotFound, SecretForbidden."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What a caller shows; ``signed`` is what a signature would be over."""

    headers: Mapping[str, str]
    signed: bytes

    @property
    def token(self) -> str:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


class Guard:
    """Judges the callers of one trigger, or of none: without ``auth`` nobody is let in."""

    def __init__(
        self,
        auth: HttpAuth | None = None,
        secret: SecretReader | None = None,
        where: str = "auth",
    ) -> None:
        """Raise WorkflowInvalid where a key is none; ``where`` is its place in the spec."""
        self._auth, self._secret = auth or HttpAuth(), secret or _nobodys
        self._tokens = _tokens(self._auth, where)

    async def problem(self, shown: Shown) -> str:
        """Say for the log why who shows this may not come in; "" where he may.

        Raises what the reader of the secret does.
        """
        if self._auth.anonymous is not None:
            return ""
        if self._tokens:
            return self._tokens.problem(shown)
        if self._knows(shown, await self._secret()):
            return ""
        if self._knows(shown, await self._secret(fresh=True)):  # it may have been changed
            return ""
        if self._auth.hmac:
            return f"{self._header} is no signature of what was sent with the Secret's key"
        return "the bearer token is not the Secret's" if shown.token else "there is no bearer token"

    @property
    def _header(self) -> str:
        return self._auth.hmac.header if self._auth.hmac else _SIGNATURE_HEADER

    def _knows(self, shown: Shown, secret: bytes) -> bool:
        # Both are worked out, whichever counts here: neither shows in how long it took.
        token, signature = _same_token(shown, secret), _same_signature(shown, secret, self._header)
        return bool((self._auth.bearer and token) or (self._auth.hmac and signature))


async def _nobodys(*, fresh: bool = False) -> bytes:  # noqa: ARG001 - a SecretReader
    return _NOBODYS


def _same_token(shown: Shown, secret: bytes) -> bool:
    # Digests are of one length, so that the secret's own does not show either.
    token = shown.token.encode(errors="surrogateescape")
    same = hmac.compare_digest(_digest(token), _digest(_trimmed(secret)))
    return same and bool(token)


def _same_signature(shown: Shown, secret: bytes, header: str) -> bool:
    expected = "sha256=" + hmac.new(_trimmed(secret), shown.signed, hashlib.sha256).hexdigest()
    given = shown.headers.get(header, "").strip().lower().encode(errors="surrogateescape")
    return hmac.compare_digest(_digest(given), _digest(expected.encode()))


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def _trimmed(secret: bytes) -> bytes:
    """Return a secret without the line's end that an editor or `echo` has left in it."""
    return secret.removesuffix(b"\n").removesuffix(b"\r")


# Signed tokens. The library costs 9 MB resident (3 of them this process's own) and 30 to 80 ms,
# so it waits for the first trigger that needs it.


class SignedTokens:
    """Tokens (JWT, ES256) that one of the given keys has signed."""

    def __init__(self, auth: JwtAuth, where: str) -> None:
        self._auth = auth
        self._keys = [
            (key.id, _public_key(f"{where}.jwt.keys[{i}].pem", key))
            for i, key in enumerate(auth.keys)
        ]

    def problem(self, shown: Shown) -> str:
        """Say what is wrong with a token, and nothing of what is in it; "" where it is good."""
        import jwt

        token = shown.token
        try:
            header = jwt.get_unverified_header(token.encode(errors="replace"))
        except jwt.PyJWTError:
            return "there is no bearer token that is a JWT we understand"
        problem = "the token's kid names no key of the trigger"
        for name, key in self._keys:
            if name is None or header.get("kid", name) == name:
                problem = self._problem_with(token, key)
                if not problem:
                    return ""
        return problem

    def _problem_with(self, token: str, key: "EllipticCurvePublicKey") -> str:
        import jwt

        try:
            jwt.decode(
                token, key, algorithms=["ES256"], issuer=self._auth.issuer,
                audience=self._auth.audience, leeway=SKEW_S, options={"require": ["exp"]},
            )  # fmt: skip
        except jwt.PyJWTError as e:
            return _PROBLEMS.get(type(e).__name__, "the token is no valid ES256 token")
        return ""


class EvmTokens:
    """Tokens over what is sent that one of the given addresses has signed."""

    def __init__(self, auth: EvmAuth) -> None:
        self._auth = auth

    def problem(self, shown: Shown) -> str:
        """Say what is wrong with a token; "" where it is good."""
        try:
            signed(shown.token, shown.signed, self._auth.addresses)
        except Unsigned as e:
            return str(e)
        return ""


def _tokens(auth: HttpAuth, where: str) -> SignedTokens | EvmTokens | None:
    if isinstance(auth, EvmAuth):
        return EvmTokens(auth)
    return SignedTokens(auth.jwt, where) if auth.jwt else None


_PROBLEMS = {
    "ExpiredSignatureError": "the token has expired",
    "ImmatureSignatureError": "the token is not valid yet",
    "InvalidAudienceError": "the token is for another audience",
    "InvalidIssuerError": "the token is of another issuer",
    "MissingRequiredClaimError": "the token lacks a claim: exp, or the iss or aud of the trigger",
    "InvalidSignatureError": "no key of the trigger has signed the token",
    "InvalidAlgorithmError": "the token is not signed with ES256",
}


def _public_key(where: str, key: JwtKey) -> "EllipticCurvePublicKey":
    """Return a key that ES256 knows; raises WorkflowInvalid where it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        loaded = load_pem_public_key(key.pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise WorkflowInvalid(
            Reason.INVALID_SPEC, f"{where}: is no PEM public key; write -----BEGIN PUBLIC KEY-----…"
        ) from None
    if not isinstance(loaded, ec.EllipticCurvePublicKey) or loaded.curve.name != "secp256r1":
        raise WorkflowInvalid(
            Reason.INVALID_SPEC, f"{where}: is no key of the curve P-256, which ES256 signs with"
        )
    return loaded
