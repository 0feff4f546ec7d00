"""Build the examples' modules from their sources, and pack them for ``kubectl apply``.

    python examples/src/build.py                  all of them
    python examples/src/build.py price-alert      one
    python examples/src/build.py --fetch-rust     Debian 12's rustc with its WASI target first

Each folder beside this file is an example. What lies in it says how it is built (go.mod, main.c,
main.rs, main.zig, package.json), and its pack.json holds the flags of ``sluice pack``. A compiler
that is missing is named in one line, and the other examples are built all the same.

Exit codes: 0 all built, 1 a build failed, 3 a compiler is missing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
EXAMPLES = SOURCES.parent
MODULES = EXAMPLES.parent / "build" / "examples"
DEBIAN_PACKAGES = (
    "rustc", "libstd-rust-1.63", "libstd-rust-dev-wasm32", "libllvm14", "lld-14",
)  # fmt: skip


class Missing(Exception):  # noqa: N818 - named for what it says
    """A compiler or one of its packages is not here; the message says how to get it."""


class Failed(Exception):  # noqa: N818
    """A compiler, or ``sluice pack``, refused; its own words are on stderr already."""


def main(argv: Sequence[str] | None = None) -> int:
    """Build what the command line names, and return the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(names()):
        parser.error(f"no example {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    options.modules.mkdir(parents=True, exist_ok=True)
    code = 0
    for name in options.names or names():
        try:
            if options.fetch_rust:
                _fetch_rust()
            print(f"{name}: {make(name, options.modules, pack=options.pack)}")
        except Missing as e:
            print(f"{name}: not built: {e}", file=sys.stderr)
            code = code or 3
        except Failed as e:
            print(f"{name}: {e}", file=sys.stderr)
            code = 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Build the examples and pack them.")
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help="an example's folder; without any, all")  # fmt: skip
    parser.add_argument("--modules", type=Path, default=MODULES, metavar="DIR",
                        help="where NAME.wasm is written (default: build/examples)")  # fmt: skip
    parser.add_argument("--no-pack", dest="pack", action="store_false",
                        help="stop after the modules")  # fmt: skip
    parser.add_argument("--fetch-rust", action="store_true",
                        help="unpack Debian 12's rustc into ~/.cache/sluice first")  # fmt: skip
    return parser


def names() -> list[str]:
    """Return the examples there are."""
    return sorted(path.parent.name for path in SOURCES.glob("*/pack.json"))


def make(name: str, modules: Path, *, pack: bool) -> str:
    """Build one example and pack it; return what came of it in a few words.

    Raises:
        Missing, Failed.

    """
    source, module = SOURCES / name, modules.resolve() / f"{name}.wasm"
    _compiler(source)(source, module)
    made = f"{module.stat().st_size:,} bytes"
    if not pack:
        return made
    packed = EXAMPLES / f"{name}.yaml"
    flags = json.loads((source / "pack.json").read_text())
    command = [sys.executable, "-m", "sluice", "pack", str(module), "--name", name, *flags]
    # In the example's folder, so that its flags name the files beside them.
    _run([*command, "-o", str(packed)], source)
    repoint(packed, EXAMPLES / "triggers")
    return f"{made}, packed {packed.stat().st_size:,}"


_MODULE = re.compile(r"^  module:\n(?:    .*\n)+", re.MULTILINE)


def repoint(packed: Path, followers: Path) -> None:
    """Give the workflows that share a packed module its digest and its parts, as they are now."""
    module = _MODULE.findall(packed.read_text())[-1]
    for path in sorted(followers.glob("*.yaml")):
        text = path.read_text()
        if f"The module of ../{packed.name}," in text:
            path.write_text(_MODULE.sub(lambda _: module, text))


def _compiler(source: Path) -> Callable[[Path, Path], None]:
    for marker, compiler in _COMPILERS.items():
        if (source / marker).exists():
            return compiler
    raise Failed(f"none of {', '.join(_COMPILERS)} is in {source}")


def _go(source: Path, module: Path) -> None:
    if not shutil.which("go"):
        raise Missing("needs Go 1.24 or later; install it from go.dev or a package golang")
    _fetched(["go", "mod", "download"], source, "the Go modules in go.mod")
    # Nothing of this machine, its checkout or the build's own id goes into the module.
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid="]
    target = {"GOOS": "wasip1", "GOARCH": "wasm", "GOWORK": "off"}
    _run(["go", "build", *flags, "-o", str(module), "."], source, target)


# Zig's linker gives a program a stack of 16 MiB, which would be most of its memory.
_STACK_BYTES = 1 << 20


def _c(source: Path, module: Path) -> None:
    files = sorted(path.name for path in source.glob("*.c"))
    flags = ["-target", "wasm32-wasi", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-s",
             f"-Wl,-z,stack-size={_STACK_BYTES}"]  # fmt: skip
    _run([*_zig(), "cc", *flags, *files, "-o", str(module)], source)


def _zig_program(source: Path, module: Path) -> None:
    flags = ["-target", "wasm32-wasi", "-O", "ReleaseSmall", "-fstrip",
             "--stack", str(_STACK_BYTES)]  # fmt: skip
    _run([*_zig(), "build-exe", *flags, "main.zig", f"-femit-bin={module}"], source)
    module.with_suffix(".wasm.o").unlink(missing_ok=True)


def _zig() -> list[str]:
    wheel = [sys.executable, "-m", "ziglang"]
    if _succeeds([*wheel, "version"]):
        return wheel
    if shutil.which("zig"):
        return ["zig"]
    raise Missing("needs Zig 0.15, which has a C compiler too; pip install 'ziglang==0.15.*'")


def _rust(source: Path, module: Path) -> None:
    flags = ["--edition=2021", "-O", "-C", "lto", "-C", "codegen-units=1", "-C", "panic=abort",
             "-C", "strip=symbols"]  # fmt: skip
    compiler, environment = _rustc()
    _run([*compiler, *flags, "main.rs", "-o", str(module)], source, environment)


def _rustc() -> tuple[list[str], Mapping[str, str]]:
    """Return a rustc with a WASI target: the machine's own, or what --fetch-rust unpacked."""
    for target in ("wasm32-wasip1", "wasm32-wasi"):
        libraries = ["--print", "target-libdir", "--target", target]
        found = _output(["rustc", *libraries])
        if found and Path(found).is_dir():
            return ["rustc", "--target", target], {}
    usr = _debian_rust() / "usr"
    if not (usr / "bin" / "rustc").exists():
        raise Missing(
            "needs a rustc with a WASI target; rustup target add wasm32-wasip1, or on Debian 12 "
            "python examples/src/build.py --fetch-rust"
        )
    command = [str(usr / "bin" / "rustc"), "--sysroot", str(usr), "--target", "wasm32-wasi"]
    linker = f"linker={usr / 'lib' / 'llvm-14' / 'bin' / 'lld'}"
    return [*command, "-C", linker], {"LD_LIBRARY_PATH": str(usr / "lib" / "x86_64-linux-gnu")}


def _debian_rust() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "sluice" / "examples" / "rust-1.63"


def _fetch_rust() -> None:
    """Unpack Debian's packages in a folder of their own: no other toolchain is touched."""
    root = _debian_rust()
    if root.exists():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as directory:
        work = Path(directory)
        _run(["apt-get", "download", *DEBIAN_PACKAGES], work)
        for package in sorted(work.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), "root"], work)
        (work / "root").rename(root)  # whole or not at all


def _assemblyscript(source: Path, module: Path) -> None:
    if not shutil.which("npm"):
        raise Missing("needs Node.js 20 or later with npm; install it from nodejs.org")
    installed, lock = source / "node_modules" / ".package-lock.json", source / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _fetched(["npm", "ci", "--no-audit", "--no-fund"], source, "the npm packages")
        installed.touch()
    _run(["npm", "run", "--silent", "asc", "--", "--outFile", str(module)], source)


_COMPILERS: dict[str, Callable[[Path, Path], None]] = {
    "go.mod": _go,
    "main.c": _c,
    "main.rs": _rust,
    "main.zig": _zig_program,
    "package.json": _assemblyscript,
}


def _run(command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> None:
    if not shutil.which(command[0]):
        raise Failed(f"{command[0]} is not on this machine")
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode:
        raise Failed(f"{Path(command[0]).name} ended with exit code {done.returncode}")


def _fetched(command: Sequence[str], cwd: Path, what: str) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Missing(f"could not fetch {what}: {last}")


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _succeeds(command: Sequence[str]) -> bool:
    return bool(_output(command))


if __name__ == "__main__":
    sys.exit(main())
