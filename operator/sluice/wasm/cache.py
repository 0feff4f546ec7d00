"""Compiled modules on disk, each with a record that vouches for it.

Compiled code is native code and one flipped byte of it loads silently, so an entry is believed
only if the file is ours alone (owner, mode, no link), its sha256 is the record's, and the record
carries a MAC under a key that lies in the same directory, mode 0600, and never leaves it. That
keeps out damage, other versions' and other users' files; whoever can already write as this user
could change the process itself. Nothing a user sends ever becomes an entry.

Layout: ``<digest>.<fingerprint>.cwasm`` and ``….json``; a tier has its own fingerprint, so the
entries of both lie side by side. The record is renamed into place last and
is the commit: code without one is rubbish from a death in mid-air, and is swept at the start.
"""

import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sluice.errors import EngineRefused
from sluice.reasons import Reason
from sluice.wasm.config import Tier

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a compiled module; ``path`` is only to be mapped through ``opened``."""

    digest: str
    tier: Tier
    path: Path
    record: dict[str, Any]

    @property
    def compiled_bytes(self) -> int:
        return int(self.record["compiled_bytes"])


class _Refused(Exception):  # noqa: N818 - told in the log, then recompiled
    pass


class ModuleCache:
    """Entries of both tiers in one private directory, at most ``bytes_max`` of them."""

    def __init__(self, directory: Path, fingerprints: Mapping[Tier, str], bytes_max: int) -> None:
        self.directory, self._fingerprints, self._bytes_max = directory, fingerprints, bytes_max
        self.evictions = 0
        make_private(directory)
        self._key = _key(directory / "key")
        self._sweep()

    def path(self, digest: str, tier: Tier) -> Path:
        """Return where the code of ``digest`` lies or will lie."""
        return self.directory / f"{digest}.{self._fingerprints[tier]}.cwasm"

    def cached(self, digest: str, tier: Tier) -> bool:
        """Say whether there is an entry, for two looks at the disk; nothing is verified."""
        path = self.path(digest, tier)
        return path.exists() and path.with_suffix(".json").exists()

    @contextmanager
    def opened(self, digest: str, tier: Tier) -> Iterator[tuple[Entry, str] | None]:
        """Yield a verified entry and a path to the very file that was verified; None: no entry.

        An entry that is not to be believed is removed and told in the log.
        """
        path = self.path(digest, tier)
        with contextlib.ExitStack() as held:
            found = None
            try:
                fd = held.enter_context(_open_private(path))
                found = self._verified(digest, tier, fd), f"/proc/self/fd/{fd}"
                os.utime(fd)  # the least recently used go first
            except FileNotFoundError:
                pass
            except _Refused as e:
                log.warning("cache entry refused: %s; compiling again", e, extra={"digest": digest})
                self.remove(digest, tier)
            yield found

    def publish(self, digest: str, tier: Tier, output: Path, answer: dict[str, Any]) -> None:
        """Make what the compile child wrote an entry: the code first, then the record."""
        record = answer | {"digest": digest, "fingerprint": self._fingerprints[tier]}
        record["mac"] = self._mac(record)
        path = self.path(digest, tier)
        temporary = output.with_suffix(".json")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "w") as f:
                json.dump(record, f)
            self.remove(digest, tier)
            output.rename(path)
            temporary.rename(path.with_suffix(".json"))
        finally:
            temporary.unlink(missing_ok=True)  # or it would stand in the way of the next try
        self._evict(keep=path)

    def remove(self, digest: str, tier: Tier) -> None:
        """Forget an entry; the record first, so that the code is never without judge."""
        path = self.path(digest, tier)
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def _verified(self, digest: str, tier: Tier, fd: int) -> Entry:
        path = self.path(digest, tier)
        try:
            with _open_private(path.with_suffix(".json")) as record_fd:
                record = json.loads(os.read(record_fd, 1 << 20))
        except FileNotFoundError:
            raise _Refused(f"{path.name} has no record") from None
        except (ValueError, RecursionError):
            raise _Refused(f"the record of {path.name} is damaged") from None
        mac = record.pop("mac", "") if isinstance(record, dict) else ""
        if not hmac.compare_digest(str(mac).encode(errors="replace"), self._mac(record).encode()):
            raise _Refused(f"the record of {path.name} was not written under this cache's key")
        if (record["digest"], record["fingerprint"]) != (digest, self._fingerprints[tier]):
            raise _Refused(f"{path.name} is another module's or version's")
        with os.fdopen(os.dup(fd), "rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != record["compiled_sha256"]:
                raise _Refused(f"the code in {path.name} is damaged")
        return Entry(digest, tier, path, record)

    def _mac(self, record: Any) -> str:
        return hmac.digest(self._key, json.dumps(record, sort_keys=True).encode(), "sha256").hex()

    def _sweep(self) -> None:
        for path in self.directory.iterdir():
            orphan = path.suffix == ".cwasm" and not path.with_suffix(".json").exists()
            widow = path.suffix == ".json" and not path.with_suffix(".cwasm").exists()
            if orphan or widow:
                path.unlink(missing_ok=True)
        self._evict()

    def _evict(self, keep: Path | None = None) -> None:
        ages: list[tuple[bool, float, int, Path]] = []
        for path in self.directory.glob("*.cwasm"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                ages.append((not self._succeeded(path), status.st_mtime, status.st_size, path))
        total = sum(size for _, _, size, _ in ages)
        for _, _, size, path in sorted(ages):
            if total <= self._bytes_max:
                break
            if path != keep:  # what is mapped keeps its pages; only its name goes
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                total -= size
                self.evictions += 1

    def _succeeded(self, path: Path) -> bool:
        """Say whether this is baseline code that has optimised code beside it: nobody's choice."""
        digest, _, _ = path.name.partition(".")
        if path != self.path(digest, Tier.BASELINE):
            return False
        return self.cached(digest, Tier.OPTIMIZING)


def make_private(directory: Path) -> None:
    """Create a directory of our own, mode 0700, or raise EngineRefused where it is another's."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as e:
        raise EngineRefused(
            Reason.ENGINE_REFUSED, f"{directory} cannot be used: {e.strerror}"
        ) from None
    if status.st_uid != os.geteuid():
        raise EngineRefused(
            Reason.ENGINE_REFUSED,
            f"{directory} belongs to user {status.st_uid}, not to {os.geteuid()}; "
            "compiled code is only trusted in a directory of our own",
        )
    if status.st_mode & 0o077:
        directory.chmod(0o700)


@contextmanager
def _open_private(path: Path) -> Iterator[int]:
    """Open a regular file that nobody else could have written; _Refused says why it is not."""
    try:
        # Without O_NONBLOCK a pipe of that name would hold us for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as e:
        raise _Refused(f"{path.name} cannot be opened: {e.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise _Refused(f"{path.name} is no plain file of its own")
        if status.st_uid != os.geteuid():
            raise _Refused(f"{path.name} belongs to user {status.st_uid}")
        if status.st_mode & 0o077:
            raise _Refused(f"{path.name} has mode {status.st_mode & 0o777:04o}, not 0600")
        yield fd
    finally:
        os.close(fd)


def _key(path: Path) -> bytes:
    """Return the cache's key, made at the first start; a new one disowns every entry."""
    try:
        with _open_private(path) as fd:
            key = os.read(fd, 64)
            if len(key) == 32:
                return key
    except FileNotFoundError:
        pass
    except _Refused as e:
        log.warning("cache key refused: %s; every module will be compiled again", e)
    key = secrets.token_bytes(32)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
        f.write(key)
        f.flush()
        os.fsync(f.fileno())
    temporary.rename(path)
    return key
