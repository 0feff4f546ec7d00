"""ConfigMap parts -> one file on disk, still compressed, never whole in memory.

Text parts are decoded as they come; a part may end in the middle of a base64 quantum or a hex
pair, as ``split -b`` leaves them, or carry padding of its own, as ``base64 < part`` does.
"""

import binascii
import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from sluice.errors import ContentInvalid, EngineRefused
from sluice.reasons import Reason
from sluice.workflow import PartRef, Workflow


@dataclass(frozen=True, slots=True)
class Part:
    """One key of one ConfigMap: bytes, or the text of them, and the version that was read."""

    payload: bytes | str
    version: str


def key_missing(ref: PartRef, keys: Iterable[str], version: str | None) -> ContentInvalid:
    """Return what is told of a ConfigMap that is there, with other ``keys`` than the one named."""
    has = ", ".join(sorted(keys)) or "none"
    message = f"ConfigMap {ref.name} has no key {ref.key}; it has {has}"
    return ContentInvalid(Reason.KEY_NOT_FOUND, message, {ref.name: version})


_BLANKS = b" \t\r\n\v\f"
# One encoding with its padding. Linear, whatever stands in it: a megabyte of padding is a megabyte.
_RUN = re.compile(rb"[^=]+=*|=+")


class TextDecoder:
    """Base64 or hex in pieces of any length -> bytes, holding back at most three characters."""

    def __init__(self, notation: Literal["base64", "hex"]) -> None:
        self._quantum, self._decode = _NOTATIONS[notation]
        self._rest = b""

    def feed(self, text: str) -> bytes:
        """Return the bytes of all whole quanta so far; ValueError where the text is neither."""
        letters = self._rest + text.encode("ascii").translate(None, _BLANKS)
        end = len(letters) - len(letters) % self._quantum
        self._rest = letters[end:]
        return self._decode(letters[:end])

    def finish(self) -> None:
        """Raise ValueError where the text ended inside a quantum."""
        if self._rest:
            raise ValueError("ends in the middle of a byte")


def _base64(letters: bytes) -> bytes:
    # Parts that were each encoded on their own hold padding before the end: decode run by run.
    view = memoryview(letters)
    runs = (view[slice(*run.span())] for run in _RUN.finditer(letters))
    return b"".join([binascii.a2b_base64(run, strict_mode=True) for run in runs])


_NOTATIONS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "base64": (4, _base64),
    "hex": (2, binascii.unhexlify),
}


class Assembly:
    """The parts of one workflow's module on their way into one file, which dies with it.

    ``feed`` is called once for each part in order, then ``finish``; both block on the disk.
    ``seen`` holds the first version of each ConfigMap that was read: one that changed between two
    of its keys is no longer that version, so whoever compares looks at it again.

    Raises EngineRefused where the disk is full or cannot be written.
    """

    def __init__(self, workflow: Workflow, directory: Path, encoded_bytes_max: int) -> None:
        self._module = workflow.spec.module
        self._bytes_max = encoded_bytes_max
        self._text = TextDecoder(self._module.text)
        self.path = directory / f"{workflow.digest[:16]}-{os.urandom(6).hex()}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._disk():
            self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb")
        self.seen: dict[str, str | None] = {}
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what a full disk did not take is not wanted now
            self._file.close()
        self.path.unlink(missing_ok=True)

    def feed(self, ref: PartRef, part: Part) -> None:
        """Append one part.

        Raises:
            ContentInvalid: it is not the text it should be, or the whole grows too large.

        """
        self.seen.setdefault(ref.name, part.version)
        data = self._decoded(ref, part.payload)
        self.bytes += len(data)
        if self.bytes > self._bytes_max:
            raise ContentInvalid(
                Reason.MODULE_TOO_LARGE,
                f"the parts up to {ref.name} have {self.bytes:,} bytes, but this operator takes "
                f"at most {self._bytes_max:,} compressed (encoded_bytes_max)",
                self.seen,
            )
        with self._disk():
            self._file.write(data)

    def finish(self) -> None:
        """Close the file once all parts are in it."""
        self._end_text()
        with self._disk():
            self._file.close()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"{self.path.parent} cannot be written: {e.strerror}"
            ) from None

    def _end_text(self, ref: PartRef | None = None) -> None:
        try:
            self._text.finish()
        except ValueError as e:
            where = f" before ConfigMap {ref.name}, which holds bytes," if ref else ""
            raise ContentInvalid(
                Reason.PART_INVALID, f"the parts' {self._module.text} text{where} {e}", self.seen
            ) from None

    def _decoded(self, ref: PartRef, payload: bytes | str) -> bytes:
        if isinstance(payload, bytes):
            self._end_text(ref)
            return payload
        try:
            return self._text.feed(payload)
        except ValueError:
            raise ContentInvalid(
                Reason.PART_INVALID,
                f"key {ref.key} of ConfigMap {ref.name} is not {self._module.text} text; put "
                f"bytes under binaryData, or say in spec.module.text how the text is written",
                self.seen,
            ) from None
