"""What all guests of a process share: one wasmtime Engine, its ticker, the linker, the mappings."""

import contextlib
import fcntl
import logging
import resource
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from weakref import WeakValueDictionary

import wasmtime

from sluice.errors import EngineRefused
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.wasm import config
from sluice.wasm.abi import wasi
from sluice.wasm.cache import Entry, ModuleCache, make_private
from sluice.wasm.compilation import Compilation, Source
from sluice.wasm.ticker import Ticker

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Module:
    """Compiled code, mapped: shared by every engine of its digest, unmapped after the last."""

    entry: Entry
    pre: wasmtime.InstancePre


class Runtime:
    """Opened once in a process; ``close`` after the last engine.

    A second Engine would cost memory for nothing, so there is no way to ask for one. It holds its
    data directory alone: another process there would sweep away what this one assembles.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        make_private(settings.data_dir)
        self._lock_file = _lock(settings.data_dir)
        _allow_descriptors()
        self._make_work_dir(settings.work_dir)
        self.cache = ModuleCache(settings.cache_dir, config.fingerprint(), settings.cache_bytes_max)
        self.engine = config.engine()
        self.ticker = Ticker(self.engine.increment_epoch)
        self._linker = wasmtime.Linker(self.engine)
        wasi.define(self._linker)
        self._mapped: WeakValueDictionary[str, Module] = WeakValueDictionary()
        self._lock = threading.Lock()

    @staticmethod
    def _make_work_dir(directory: Path) -> None:
        # What a death left half-assembled is never looked at again.
        make_private(directory)
        for path in directory.iterdir():
            path.unlink()

    def module(self, digest: str) -> Module | None:
        """Return the module of a digest from memory or from a verified entry; None: no entry."""
        with self._lock:
            if module := self._mapped.get(digest):
                return module
        with self.cache.opened(digest) as found:
            if found is None:
                return None
            entry, path = found
            module = self._map(entry, path)
        if module is None:
            self.cache.remove(digest)
            return None
        with self._lock:
            return self._mapped.setdefault(digest, module)

    def _map(self, entry: Entry, path: str) -> Module | None:
        try:
            # Only deserialize_file maps; deserialize(bytes) peaks at three times the size.
            code = wasmtime.Module.deserialize_file(self.engine, path)
            return Module(entry, self._linker.instantiate_pre(code))
        except wasmtime.WasmtimeError as e:
            # The fingerprint should have told; what wasmtime itself refuses is compiled again.
            log.warning("cache entry refused: %s", e, extra={"digest": entry.digest})
            return None

    def compilation(self, source: Source) -> "Compiling":
        """Prepare the compile of an assembled binary into an entry."""
        return Compiling(self, source)

    def verification(self, source: Source) -> Compilation:
        """Prepare a look at whether the parts still hold what the digest says."""
        return Compilation(source, None, self.settings)

    def close(self) -> None:
        self.ticker.close()
        self._lock_file.close()


def _lock(directory: Path) -> IO[str]:
    """Hold a directory until the file is closed or this process is gone, however it goes."""
    file = (directory / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        file.close()
        raise EngineRefused(
            Reason.ENGINE_REFUSED,
            f"{directory} cannot be locked ({e.strerror}): another sluice runs in it; stop that "
            "one, or give this one a data_dir of its own",
        ) from None
    return file


def _allow_descriptors() -> None:
    # wasmtime keeps the file of each mapped module open, and a shell's usual 1,024 would be the
    # limit of what can serve. The soft limit is there for select(2), which nothing here uses.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Compiling:
    """One compile on its way into the cache: ``run`` blocks, ``cancel`` from any thread."""

    def __init__(self, runtime: Runtime, source: Source) -> None:
        self._runtime, self._digest = runtime, source.digest
        self._output = source.path.with_suffix(".cwasm")
        self._compilation = Compilation(source, self._output, runtime.settings)

    def run(self) -> Module:
        """Compile, publish and map; raises what ``Compilation.run`` raises."""
        try:
            self._output.touch(0o600, exist_ok=False)
            answer: dict[str, Any] = self._compilation.run()
            self._runtime.cache.publish(self._digest, self._output, answer)
        except OSError as e:
            where = self._runtime.settings.data_dir
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"the compiled module cannot be kept in {where}: {e}"
            ) from e
        finally:
            self._output.unlink(missing_ok=True)
        module = self._runtime.module(self._digest)
        if module is None:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, "the compiled module was refused as soon as it was written"
            )
        return module

    def cancel(self) -> None:
        self._compilation.cancel()
