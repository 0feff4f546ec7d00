"""The programs of a test ground: found in KUBEBUILDER_ASSETS, in the cache, or built from source.

What is built is pinned by the go.mod and go.sum of its family, the folder of the same name.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ground.processes import GroundError, Leashed

_PROGRESS_S = 20
_BUILD_S_MAX = 3600
_GO_WANTED = "Go 1.26 or newer"


@dataclass(frozen=True, slots=True)
class Family:
    """Programs built from one module; each is built only when it is asked for."""

    name: str
    module: str
    packages: Mapping[str, str]
    took: str
    version_variable: str | None = None

    @property
    def folder(self) -> Path:
        return Path(__file__).with_name(self.name)

    def version(self) -> str:
        pinned = (self.folder / "go.mod").read_text()
        found = re.search(rf"^(?:require)?\s+{re.escape(self.module)} (v\S+)", pinned, re.MULTILINE)
        if found is None:
            raise GroundError(f"{self.folder / 'go.mod'} does not pin {self.module}")
        return found[1]

    def cache(self) -> Path:
        """Return where its programs are kept: another pin is another place."""
        pins = [(self.folder / name).read_bytes() for name in ("go.mod", "go.sum")]
        pinned = hashlib.sha256(b"\0".join(pins)).hexdigest()[:16]
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(root) / "sluice" / "testground" / pinned / "bin"

    def linker_flags(self) -> str:
        if self.version_variable is None:
            return "-s -w"
        return f"-s -w -X {self.version_variable}={self.version()}"


# A further program of Kubernetes is one word here; its package has to be a tool in go.mod.
_KUBERNETES_PROGRAMS = ("kube-apiserver", "kubectl")

FAMILIES = (
    Family(
        name="kubernetes",
        module="k8s.io/kubernetes",
        packages={name: f"k8s.io/kubernetes/cmd/{name}" for name in _KUBERNETES_PROGRAMS},
        took="4 to 7 minutes",
        version_variable="k8s.io/component-base/version.gitVersion",
    ),
    Family(
        name="etcd",
        module="go.etcd.io/etcd/server/v3",
        packages={"etcd": "go.etcd.io/etcd/server/v3"},
        took="about a minute",
    ),
)


def find(*names: str) -> dict[str, Path]:
    """Return where each program is; build those that are nowhere."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        return _given(Path(assets), names)
    return {name: _cached_or_built(name) for name in names}


def _given(assets: Path, names: tuple[str, ...]) -> dict[str, Path]:
    missing = [name for name in names if not os.access(assets / name, os.X_OK)]
    if missing:
        raise GroundError(
            f"KUBEBUILDER_ASSETS is {assets}, which lacks {', '.join(missing)}: "
            f"put it there, or unset KUBEBUILDER_ASSETS to have it built from source"
        )
    return {name: assets / name for name in names}


def _cached_or_built(name: str) -> Path:
    family = next((family for family in FAMILIES if name in family.packages), None)
    if family is None:
        raise GroundError(f"no family of programs has {name}")
    program = family.cache() / name
    if not program.exists():
        _need_go(name)
        with _locked(family.cache().parent, name):
            if not program.exists():
                _build(family, name)
    return program


def _need_go(name: str) -> None:
    if shutil.which("go") is None:
        raise GroundError(
            f"{name} is needed and there is no `go` to build it with: install {_GO_WANTED}, "
            f"or set KUBEBUILDER_ASSETS to a folder with kube-apiserver, kubectl and etcd"
        )


@contextlib.contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for {name}: another process is building in {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(family: Family, name: str) -> None:
    """Build next to the cache and move into it, so that no half of a program is ever found."""
    cache = family.cache()
    _say(
        f"building {name} {family.version()} from source "
        f"({family.took} the first time, then kept in {cache})"
    )
    for left_behind in cache.parent.glob("building-*"):  # by a build that was killed: we hold
        shutil.rmtree(left_behind)  # the lock, so nobody is in there
    with tempfile.TemporaryDirectory(prefix="building-", dir=cache.parent) as place:
        built = Path(place) / name
        _go_build(family, name, built)
        cache.mkdir(exist_ok=True)
        built.replace(cache / name)


def _go_build(family: Family, name: str, target: Path) -> None:
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags={family.linker_flags()}"]
    build = Leashed(
        f"go build of {name}",
        ["go", "build", *flags, "-o", target, family.packages[name]],
        log=family.cache().with_name(f"{name}.log"),
        env=_go_environment(),
        cwd=family.folder,
        grace_s=2,
    )
    try:
        code = _wait_aloud(build)
    finally:
        build.stop()
    if code != 0:
        raise GroundError(
            f"{name} {family.version()} could not be built; that takes {_GO_WANTED} and the "
            f"modules of {family.folder / 'go.mod'}.\n{build.tail()}"
        )


def _go_environment() -> dict[str, str]:
    """Return ours, less what would build for another machine or from another workspace."""
    kept = {name: value for name, value in os.environ.items() if name not in {"GOOS", "GOARCH"}}
    return {**kept, "CGO_ENABLED": "0", "GOWORK": "off"}


def _wait_aloud(build: Leashed) -> int | None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < _BUILD_S_MAX:
        code = build.wait(_PROGRESS_S)
        if code is not None:
            _say(f"{build.name}: {'done' if code == 0 else 'failed'} after {_since(began)}")
            return code
        _say(f"{build.name}: {_since(began)} so far")
    raise GroundError(f"{build.name} was given up after {passed:.0f} s.\n{build.tail()}")


def _since(began: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02} min"


def _say(line: str) -> None:
    print(f"ground: {line}", file=sys.stderr, flush=True)
