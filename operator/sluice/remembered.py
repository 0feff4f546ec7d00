"""What CRE modules have said they subscribe to: asked once for each module and config.

The answer depends on the two alone, and costs a guest's whole start: hundreds of milliseconds of
CPU for each workflow, at every restart of the operator. So it lies beside the compiled module. A
file of its own, for it is kept by the config too, and is nothing of wasmtime's.
"""

import contextlib
import hashlib
import os
from pathlib import Path

from google.protobuf.message import DecodeError

from sluice.cre.proto.sdk_pb2 import TriggerSubscriptionRequest

# Of how it is asked: what was answered to another question is no answer.
_FORM = b"1"


class Remembered:
    """Blocking. Of more than ``entries_max`` those go that were not used for longest."""

    def __init__(self, directory: Path, entries_max: int) -> None:
        self._directory, self._entries_max = directory, entries_max

    def find(self, digest: str, config: str) -> TriggerSubscriptionRequest | None:
        """Return what was kept; None: nothing, or what a death or a disk has spoilt."""
        path = self._path(digest, config)
        try:
            said = path.read_bytes()
        except OSError:
            return None
        checksum, answer = said[:32], said[32:]
        if checksum != hashlib.sha256(answer).digest():
            return None
        try:
            found = TriggerSubscriptionRequest.FromString(answer)
        except DecodeError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def keep(self, digest: str, config: str, said: TriggerSubscriptionRequest) -> None:
        """Keep an answer, where the disk lets us: it only saves time."""
        answer = said.SerializeToString(deterministic=True)
        path = self._path(digest, config)
        part = path.with_name(f".{path.name}.part")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_bytes(hashlib.sha256(answer).digest() + answer)
            part.replace(path)
            self._let_go()
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()

    def _let_go(self) -> None:
        paths = list(self._directory.iterdir())
        if len(paths) > self._entries_max:
            paths.sort(key=lambda path: path.stat().st_mtime_ns)
            for path in paths[: len(paths) - self._entries_max]:
                path.unlink(missing_ok=True)

    def _path(self, digest: str, config: str) -> Path:
        return self._directory / f"{digest}-{hashlib.sha256(_FORM + config.encode()).hexdigest()}"
