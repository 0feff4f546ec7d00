"""Reports: what a workflow says, signed by the operator's own secp256k1 key.

Of CRE's facts we have the messages: a payload that is encoded already and the names of three
algorithms go in; a digest of the configuration, a sequence number, a context, the raw report and
signatures with their signers' numbers come out. **All that is inside those bytes is our own
choice**, made so that a contract which knows reports of CRE's form can check them:

- ``raw_report`` is a head of 109 bytes and the payload. The head: version 1 (1 byte), the sha256 of
  the execution's id (32), Unix seconds (4), two zero numbers for the network that we have not (4
  and 4), the module's digest (32), the first 10 of the hex digits of the sha256 of the workflow's
  name (10), the last 20 bytes of the Keccak-256 of its namespace as its owner (20), and the
  report's id, 0001 (2).
- ``report_context`` is three words: the configuration's digest, the sequence number, zero.
- A signature is ``r || s || v`` (65 bytes, s low, v 0 or 1, RFC 6979) over
  ``keccak256(keccak256(raw_report) || report_context)``. The only signer has number 0.
- ``config_digest`` is the Keccak-256 of a fixed word and the signer's address: another key is
  another configuration. ``seq_nr`` is microseconds since 1970, and each is higher than the last.

The key comes from the file that ``cre_signing_key_file`` names (of a mounted Secret: 64 hex
digits), or else is made when it is first needed and kept beside the operator's other data. Where
that is no lasting volume, another pod has another key.
"""

import asyncio
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sluice.capabilities import CallContext
from sluice.cre.errors import CapabilityError, Code, Origin, Visibility
from sluice.cre.proto.sdk_pb2 import AttributedSignature, ReportRequest, ReportResponse
from sluice.settings import Settings

if TYPE_CHECKING:
    from coincurve import PrivateKey

log = logging.getLogger(__name__)
_SIGNING, _HASHING = "ecdsa", "keccak256"
_CONFIG = b"sluice.dev/report/v1"
_KEY_BYTES, _KEY_FILE_BYTES_MAX = 32, 256
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keccak256(data: bytes) -> bytes:
    from Crypto.Hash import keccak

    return keccak.new(digest_bits=256, data=data).digest()


class KeyUnusable(Exception):  # noqa: N818 - named for what it says
    """The key cannot be read, made or used; the message says why and holds none of it."""


class Signer:
    """The operator's key. Reading it blocks, so it is done in a thread, once."""

    def __init__(self, key: "PrivateKey") -> None:
        self._key = key
        self.address = keccak256(key.public_key.format(compressed=False)[1:])[-20:]

    @classmethod
    def load(cls, settings: Settings) -> "Signer":
        """Return the signer of the given key file, or of a key of our own; raises KeyUnusable."""
        given = settings.cre_signing_key_file
        path = Path(given) if given else settings.data_dir / "cre-signing.key"
        try:
            if not given:
                _make(path)
                if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
                    raise KeyUnusable(f"{path} can be read by others; chmod 600 it")
            signer = cls(_read(path))
        except OSError as e:
            raise KeyUnusable(f"{path}: {e.strerror or e}") from None
        log.info("reports of CRE workflows are signed by 0x%s (%s)", signer.address.hex(), path)
        return signer

    def sign(self, digest: bytes) -> bytes:
        return self._key.sign_recoverable(digest, hasher=None)


def _make(path: Path) -> None:
    """Make a key where there is none; whole or not at all, whoever else makes one."""
    if path.exists():
        return
    from coincurve import PrivateKey

    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.unlink(missing_ok=True)
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(PrivateKey().secret.hex().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(made, path)
    except FileExistsError:
        log.info("%s was made by another process just now; it is used", path)
    finally:
        made.unlink()


def _read(path: Path) -> "PrivateKey":
    from coincurve import PrivateKey

    with path.open("rb") as file:
        text = file.read(_KEY_FILE_BYTES_MAX).strip().removeprefix(b"0x")
    try:
        secret = bytes.fromhex(text.decode("ascii"))
        if len(secret) != _KEY_BYTES:
            raise ValueError  # noqa: TRY301 - as one that is no hexadecimal
        return PrivateKey(secret)
    except ValueError:
        raise KeyUnusable(f"{path} holds no secp256k1 key; write its 64 hex digits") from None


class Reports:
    """Signs reports; ``clock_ns`` is the wall clock."""

    def __init__(self, settings: Settings, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._settings, self._clock_ns = settings, clock_ns
        self._signer: Signer | None = None
        self._loading = asyncio.Lock()
        self._last = 0

    async def sign(self, request: ReportRequest, context: CallContext) -> ReportResponse:
        """Return the signed report; raises CapabilityError."""
        for what, given, known in (
            ("signing_algo", request.signing_algo, _SIGNING),
            ("hashing_algo", request.hashing_algo, _HASHING),
        ):
            if given != known:
                raise CapabilityError(
                    Code.INVALID_ARGUMENT,
                    f'{what}: "{given[:100]}" is not known here; write {known}',
                )
        signer = await self._loaded()
        now_us = self._clock_ns() // 1000
        self._last = number = max(now_us, self._last + 1)
        config = keccak256(_CONFIG + signer.address)
        raw = _head(context, now_us // 1_000_000) + request.encoded_payload
        words = config + number.to_bytes(32, "big") + bytes(32)
        signature = signer.sign(keccak256(keccak256(raw) + words))
        return ReportResponse(
            config_digest=config, seq_nr=number, report_context=words, raw_report=raw,
            sigs=[AttributedSignature(signature=signature, signer_id=0)],
        )  # fmt: skip

    async def _loaded(self) -> Signer:
        async with self._loading:
            if self._signer is None:
                try:
                    self._signer = await asyncio.to_thread(Signer.load, self._settings)
                except KeyUnusable as e:
                    log.warning("reports cannot be signed: %s", e)
                    raise CapabilityError(
                        Code.FAILED_PRECONDITION,
                        "the operator's signing key cannot be used; its log tells why",
                        Visibility.PRIVATE,
                        Origin.SYSTEM,
                    ) from None
            return self._signer


def _head(context: CallContext, seconds: int) -> bytes:
    return b"".join(
        (
            b"\1",
            hashlib.sha256(context.execution_id.encode()).digest(),
            seconds.to_bytes(4, "big"),
            bytes(8),
            bytes.fromhex(context.digest),
            hashlib.sha256(context.key.name.encode()).hexdigest()[:10].encode(),
            keccak256(context.key.namespace.encode())[-20:],
            b"\0\1",
        )
    )
