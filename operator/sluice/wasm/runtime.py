"""What all guests of a process share: an Engine a tier, its linkers, the ticker, the mappings."""

import contextlib
import ctypes
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
from sluice.wasm.abi import env, linking
from sluice.wasm.cache import Entry, ModuleCache, make_private
from sluice.wasm.compilation import Compilation, Source
from sluice.wasm.config import Tier
from sluice.wasm.ticker import Ticker

log = logging.getLogger(__name__)


class _HeapInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


def _heap_bytes() -> int:
    """Return what is allocated from the C heap; 0 where the library does not tell."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo2.restype = _HeapInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


@dataclass(eq=False, slots=True, weakref_slot=True)
class Module:
    """Compiled code, mapped: shared by the engines of its digest and tier, unmapped after all."""

    entry: Entry
    pre: wasmtime.InstancePre
    engine: wasmtime.Engine  # its tier's, which the stores of its guests belong to
    kept_bytes: int  # of heap that it holds while it is mapped, about

    @property
    def tier(self) -> Tier:
        return self.entry.tier


class _World:
    """What one tier's modules are loaded and linked in."""

    def __init__(self, tier: Tier) -> None:
        self.engine = config.engine(tier)
        self._linkers: dict[env.Form | None, wasmtime.Linker] = {}

    def linker(self, form: env.Form | None) -> wasmtime.Linker:
        """Return the linker of all modules of a form; one that few will have is not kept."""
        if form in self._linkers:
            return self._linkers[form]
        made = linking.linker(self.engine, form)
        return self._linkers.setdefault(form, made) if form is None or form.shared else made


class Runtime:
    """Opened once in a process; ``close`` after the last engine.

    More than one Engine for a tier would cost memory for nothing, so there is no way to ask for
    it, and a tier that nothing is served from has none. It holds its data directory alone:
    another process there would sweep away what this one assembles.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        make_private(settings.data_dir)
        self._lock_file = _lock(settings.data_dir)
        _allow_descriptors()
        self._make_work_dir(settings.work_dir)
        fingerprints = {tier: config.fingerprint(tier) for tier in Tier}
        self.cache = ModuleCache(settings.cache_dir, fingerprints, settings.cache_bytes_max)
        self._worlds: dict[Tier, _World] = {}
        self._ticked: tuple[wasmtime.Engine, ...] = ()
        self.ticker = Ticker(self._tick)
        self._mapped: WeakValueDictionary[tuple[str, Tier], Module] = WeakValueDictionary()
        self._lock = threading.Lock()

    @staticmethod
    def _make_work_dir(directory: Path) -> None:
        # What a death left half-assembled is never looked at again.
        make_private(directory)
        for path in directory.iterdir():
            path.unlink()

    def _tick(self) -> None:
        for engine in self._ticked:
            engine.increment_epoch()

    def _world(self, tier: Tier) -> _World:
        with self._lock:
            if tier not in self._worlds:
                self._worlds[tier] = _World(tier)
                # A new tuple: the ticker goes through the old one without a lock.
                self._ticked = tuple(world.engine for world in self._worlds.values())
            return self._worlds[tier]

    def cached(self, digest: str, tier: Tier) -> bool:
        """Say whether ``module`` would most likely find one; cheap, so nothing is verified."""
        return (digest, tier) in self._mapped or self.cache.cached(digest, tier)

    def module(self, digest: str, tier: Tier) -> Module | None:
        """Return the module of a digest from memory or from a verified entry; None: no entry."""
        with self._lock:
            if module := self._mapped.get((digest, tier)):
                return module
        with self.cache.opened(digest, tier) as found:
            if found is None:
                return None
            entry, path = found
            module = self._map(entry, path)
        if module is None:
            self.cache.remove(digest, tier)
            return None
        with self._lock:
            return self._mapped.setdefault((digest, tier), module)

    def _map(self, entry: Entry, path: str) -> Module | None:
        world, before = self._world(entry.tier), _heap_bytes()
        try:
            # Only deserialize_file maps; deserialize(bytes) peaks at three times the size.
            code = wasmtime.Module.deserialize_file(world.engine, path)
            linker = world.linker(linking.form(entry.record["abi"], code))
            pre = linker.instantiate_pre(code)
            # What others allocated meanwhile is in it too: it is an estimate, for the next start.
            return Module(entry, pre, world.engine, max(0, _heap_bytes() - before))
        except wasmtime.WasmtimeError as e:
            # The fingerprint should have told; what wasmtime itself refuses is compiled again.
            log.warning("cache entry refused: %s", e, extra={"digest": entry.digest})
            return None

    def compilation(
        self, source: Source, tier: Tier, memory_bytes: int | None = None
    ) -> "Compiling":
        """Prepare the compile of an assembled binary into an entry.

        ``memory_bytes`` is what its child may take, if that is less than every child may.
        """
        return Compiling(self, source, tier, memory_bytes)

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

    def __init__(
        self, runtime: Runtime, source: Source, tier: Tier, memory_bytes: int | None
    ) -> None:
        self._runtime, self._digest, self._tier = runtime, source.digest, tier
        self._output = source.path.with_suffix(".cwasm")
        self._compilation = Compilation(source, self._output, runtime.settings, tier, memory_bytes)

    def run(self) -> Module:
        """Compile, publish and map; raises what ``Compilation.run`` raises."""
        try:
            self._output.touch(0o600, exist_ok=False)
            answer: dict[str, Any] = self._compilation.run()
            self._runtime.cache.publish(self._digest, self._tier, self._output, answer)
        except OSError as e:
            where = self._runtime.settings.data_dir
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"the compiled module cannot be kept in {where}: {e}"
            ) from e
        finally:
            self._output.unlink(missing_ok=True)
        module = self._runtime.module(self._digest, self._tier)
        if module is None:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, "the compiled module was refused as soon as it was written"
            )
        return module

    def cancel(self) -> None:
        self._compilation.cancel()
