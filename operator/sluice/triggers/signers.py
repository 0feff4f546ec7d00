"""Tokens that an Ethereum key has signed: how callers of a CRE workflow's http trigger show them.

A JWT whose ``alg`` is ETH: the signature is Ethereum's of a personal message, over secp256k1, and
whoever made it is found from it. Its ``digest`` is the sha256 of what is sent, its ``jti`` makes it
good for one execution, and it lives for five minutes at most.
"""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from sluice.event import Event
from sluice.spec import HttpAuth

_ALG = "ETH"
_LIFE_S_MAX = 300
_SKEW_S = 300  # by how much iat may lie ahead: CRE's own gateway is as patient
_METHOD = "workflows.execute"
_ID_CHARS = frozenset("-._:abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class EvmAuth(HttpAuth, frozen=True):
    """A token that one of these addresses has signed; only a CRE workflow asks for it."""

    addresses: tuple[str, ...] = ()


class Unsigned(Exception):  # noqa: N818 - named for what it says
    """Nobody who may has signed; the message says why, for the log alone."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Who signed, as the workflow wrote the address, and the id of the token."""

    address: str
    token_id: str


class _Header(msgspec.Struct):
    alg: str


class _Claims(msgspec.Struct):
    digest: str
    jti: str
    iat: float
    exp: float


def signed(token: str, body: bytes, addresses: Sequence[str], now: float | None = None) -> Signed:
    """Return who of ``addresses`` has signed ``body`` with ``token``; raises Unsigned."""
    head, claims, signature = _parts(token)
    if head.alg != _ALG:
        raise Unsigned(f"the token is not signed with {_ALG}")
    signer = _signer(token.rpartition(".")[0].encode(), signature)
    found = next((a for a in addresses if a.lower() == signer), None)
    if found is None:
        raise Unsigned("no authorized key of the trigger has signed the token")
    _check(claims, time.time() if now is None else now)
    if claims.digest.lower() not in _digests(body):
        raise Unsigned("the token's digest is not that of what was sent")
    return Signed(found, claims.jti)


def event_of_signed(event: Event, body: bytes, by: Signed) -> Event:
    """Return what a signed request says: the input of CRE's envelope, or all of the body.

    Its id is the token's, so that a token which is shown again starts nothing.
    """
    id_ = by.token_id
    if not 0 < len(id_) <= 128 or set(id_) - _ID_CHARS:
        id_ = hashlib.sha256(id_.encode()).hexdigest()
    envelope = _envelope(body)
    data = event.data if envelope is None else _input(envelope)
    return replace(event, id=id_, subject=by.address, data=data)


def _parts(token: str) -> tuple[_Header, _Claims, bytes]:
    pieces = token.split(".")
    if len(pieces) != 3:
        raise Unsigned("there is no bearer token that is a JWT")
    try:
        head, claims, signature = (_bytes(piece) for piece in pieces)
        return (
            msgspec.json.decode(head, type=_Header),
            msgspec.json.decode(claims, type=_Claims),
            signature,
        )
    except (msgspec.MsgspecError, UnicodeError, binascii.Error, ValueError):
        raise Unsigned("the token is no JWT with digest, jti, iat and exp") from None


def _bytes(piece: str) -> bytes:
    return base64.b64decode(piece + "=" * (-len(piece) % 4), altchars=b"-_", validate=True)


def _signer(said: bytes, signature: bytes) -> str:
    """Return the address whose key has signed, in lower case."""
    # 4 MB that a process without such a trigger does not need.
    from coincurve import PublicKey

    if len(signature) != 65:
        raise Unsigned("the token's signature has not 65 bytes")
    recovery = signature[64] - 27 if signature[64] >= 27 else signature[64]
    message = b"\x19Ethereum Signed Message:\n%d%b" % (len(said), said)
    try:
        key = PublicKey.from_signature_and_message(
            signature[:64] + bytes([recovery]), _keccak(message), hasher=None
        )
    except Exception:  # noqa: BLE001 - the library raises its bare base for what is no signature
        raise Unsigned("the token's signature is none") from None
    return "0x" + _keccak(key.format(compressed=False)[1:])[-20:].hex()


def _keccak(data: bytes) -> bytes:
    from Crypto.Hash import keccak

    return keccak.new(digest_bits=256, data=data).digest()


def _check(claims: _Claims, now: float) -> None:
    if not claims.jti:
        raise Unsigned("the token has no jti")
    if claims.exp <= now:
        raise Unsigned("the token has expired")
    if claims.iat > now + _SKEW_S:
        raise Unsigned("the token is not valid yet")
    if claims.exp - claims.iat > _LIFE_S_MAX:
        raise Unsigned(f"the token lives longer than {_LIFE_S_MAX} s")


def _digests(body: bytes) -> Iterator[str]:
    """Yield what a digest of this body may be: of its bytes, or of CRE's envelope in its order.

    CRE's own clients digest the envelope and send it laid out otherwise; whichever it is, no other
    content has the digest.
    """
    yield _digest(body)
    envelope = _envelope(body)
    if envelope is None:
        return
    ordered = {name: envelope.get(name) for name in ("jsonrpc", "id", "method", "params")}
    yield _digest(_compact(ordered))
    yield _digest(_compact({name: _sorted(value) for name, value in ordered.items()}))
    yield _digest(_compact(_sorted(envelope)))


def _digest(data: bytes) -> str:
    return "0x" + hashlib.sha256(data).hexdigest()


def _compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _sorted(value: Any) -> Any:
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return value


def _envelope(body: bytes) -> dict[str, Any] | None:
    """Return the request of JSON-RPC that CRE's gateway takes, if this is one."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(request, dict) and request.get("method") == _METHOD and "jsonrpc" in request:
        return request
    return None


def _input(envelope: dict[str, Any]) -> Any:
    params = envelope.get("params")
    return params.get("input") if isinstance(params, dict) else None
