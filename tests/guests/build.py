"""Guests from real compilers, built once and kept: ``guest("echo") -> bytes``.

A guest is ``tests/guests/NAME.c`` (built by the ziglang wheel), a Go program in
``tests/guests/go/NAME/``, or one of the Go programs ``cre/NAME``, which share one module. What is
built is kept outside the tree under the hash of its source and of how it was built, so that
another source is another file. Several test workers may ask at once: one builds, the others wait
for it and find it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
_C = ("-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s", "-Wall", "-Werror")
_C_LINKED = ("-Wl,-z,stack-size=65536",)
_GO = ("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
_BUILD_S_MAX = 600


class GuestError(Exception):
    """A guest could not be built; the message holds what the compiler said."""


@cache
def guest(name: str) -> bytes:
    """Return the wasm of a guest of tests/guests, built if this machine has not built it yet."""
    return guest_path(name).read_bytes()


def guest_path(name: str) -> Path:
    """Return where the wasm of a guest lies, built if need be."""
    source = _source(name)
    command = _go_command() if source.is_dir() else [sys.executable, *_C, *_C_LINKED]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice" / "guests"
    name = name.replace("/", "-")
    target = folder / f"{name}-{_hash(source, command)}.wasm"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                _build(command, source, target)
    return target


def has_go() -> bool:
    """Say whether Go guests can be built here."""
    return shutil.which("go") is not None


def _source(name: str) -> Path:
    for source in (_HERE / f"{name}.c", _HERE / "go" / name, _HERE / name):
        if source.exists():
            return source
    raise GuestError(f"there is no guest {name} in {_HERE}")


def _hash(source: Path, command: list[str]) -> str:
    # The compilers themselves are left out: what a guest does is its source's matter.
    files = _files(source)
    said = [*command[1:], *(f"{file.name}\n{file.read_text()}" for file in files)]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]


def _files(source: Path) -> list[Path]:
    """Return all that a guest is made from: what programs of one module share is beside them."""
    if not source.is_dir():
        return [source]
    shared = source.parent / "sdk"
    beside = [source.parent / "go.mod", *shared.iterdir()] if shared.is_dir() else []
    return sorted([*source.iterdir(), *beside])


def _go_command() -> list[str]:
    go = shutil.which("go")
    if go is None:
        raise GuestError("a guest in Go needs `go` 1.21 or newer, and there is none here")
    return [go, *_GO]


def _build(command: list[str], source: Path, target: Path) -> None:
    """Build beside the target and rename, so that no half of a guest is ever found."""
    with tempfile.TemporaryDirectory(prefix="building-", dir=target.parent) as place:
        built = Path(place) / target.name
        what = "." if source.is_dir() else str(source)
        done = subprocess.run(
            [*command, "-o", str(built), what],
            cwd=source if source.is_dir() else place,
            env={**os.environ, "GOOS": "wasip1", "GOARCH": "wasm", "GOWORK": "off"},
            capture_output=True,
            text=True,
            timeout=_BUILD_S_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise GuestError(f"{source.name} could not be built:\n{done.stderr[-4000:]}")
        built.replace(target)
