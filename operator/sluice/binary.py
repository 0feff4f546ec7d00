"""ConfigMap parts -> one file on disk, still compressed, never whole in memory.

Text parts are decoded as they come; a part may end in the middle of a base64 quantum or a hex
pair, as ``split -b`` leaves them, or carry padding of its own, as ``base64 < part`` does.
"""

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from sluice.errors import ContentInvalid, WorkflowInvalid
from sluice.reasons import Reason
from sluice.workflow import PartRef, Workflow


@dataclass(frozen=True, slots=True)
class Part:
    """One key of one ConfigMap: bytes, or the text of them, and the version that was read."""

    payload: bytes | str
    version: str


class TextDecoder:
    """Base64 or hex in pieces of any length -> bytes, holding back at most three characters."""

    def __init__(self, notation: Literal["base64", "hex"]) -> None:
        self._quantum, self._decode = _NOTATIONS[notation]
        self._rest = ""

    def feed(self, text: str) -> bytes:
        """Return the bytes of all whole quanta so far; ValueError where the text is neither."""
        text = self._rest + "".join(text.split())
        end = len(text) - len(text) % self._quantum
        self._rest = text[end:]
        return self._decode(text[:end])

    def finish(self) -> None:
        """Raise ValueError where the text ended inside a quantum."""
        if self._rest:
            raise ValueError("ends in the middle of a byte")


def _base64(text: str) -> bytes:
    # Parts that were each encoded on their own hold padding before the end: decode run by run.
    runs, begin = [], 0
    while (pad := text.find("=", begin)) >= 0:
        end = pad + len(text[pad:]) - len(text[pad:].lstrip("="))
        runs.append(base64.b64decode(text[begin:end], validate=True))
        begin = end
    runs.append(base64.b64decode(text[begin:], validate=True))
    return b"".join(runs)


_NOTATIONS: dict[str, tuple[int, Callable[[str], bytes]]] = {
    "base64": (4, _base64),
    "hex": (2, bytes.fromhex),
}


class Assembly:
    """The parts of one workflow's module on their way into one file, which dies with it.

    ``feed`` is called once for each part in order, then ``finish``; both block on the disk.
    """

    def __init__(self, workflow: Workflow, directory: Path, encoded_bytes_max: int) -> None:
        self._module = workflow.spec.module
        self._bytes_max = encoded_bytes_max
        self._text = TextDecoder(self._module.text)
        self.path = directory / f"{workflow.digest[:16]}-{os.urandom(6).hex()}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb")
        self.seen: dict[str, str | None] = {}
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def feed(self, ref: PartRef, part: Part) -> None:
        """Append one part.

        Raises:
            ContentInvalid: it is not the text it should be, or the whole grows too large.

        """
        self.seen[ref.name] = part.version
        data = self._decoded(ref, part.payload)
        self.bytes += len(data)
        if self.bytes > self._bytes_max:
            raise WorkflowInvalid(
                Reason.MODULE_TOO_LARGE,
                f"the parts up to {ref.name} have {self.bytes:,} bytes, but this operator takes "
                f"at most {self._bytes_max:,} compressed (encoded_bytes_max)",
            )
        self._file.write(data)

    def finish(self) -> None:
        """Close the file once all parts are in it."""
        try:
            self._text.finish()
        except ValueError as e:
            raise ContentInvalid(
                Reason.PART_INVALID, f"the parts' {self._module.text} text {e}", self.seen
            ) from None
        self._file.close()

    def _decoded(self, ref: PartRef, payload: bytes | str) -> bytes:
        if isinstance(payload, bytes):
            return payload
        try:
            return self._text.feed(payload)
        except (ValueError, binascii.Error):
            raise ContentInvalid(
                Reason.PART_INVALID,
                f"key {ref.key} of ConfigMap {ref.name} is not {self._module.text} text; put "
                f"bytes under binaryData, or say in spec.module.text how the text is written",
                self.seen,
            ) from None
