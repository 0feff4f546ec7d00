"""Digest -> mapped module: from memory, from the cache, or assembled and compiled, once."""

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from sluice.binary import Assembly, Part
from sluice.errors import (
    BaselineRefused,
    ContentInvalid,
    HeadroomExceeded,
    SluiceError,
    WorkflowInvalid,
)
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import MIB, Settings
from sluice.wasm import compilation
from sluice.wasm.config import Tier, available
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import PartRef, Workflow, check_config_size

_REFUSALS_MAX = 2048  # most are two: one for each tier
# What one compiler asks too much of, the other may still make do with.
_OF_ONE_TIER = {Reason.COMPILE_OUT_OF_MEMORY, Reason.COMPILE_TIMED_OUT}
_T = TypeVar("_T")
# How much memory a child may take, asked when the moment has come: bytes.
Cap = Callable[[], Awaitable[int]]


class Source(Protocol):
    """Where ConfigMaps are read, by name and one at a time."""

    async def part(self, namespace: str, ref: PartRef) -> Part:
        """Return one key's payload.

        Raises:
            ContentInvalid: the ConfigMap or the key is not there.
            SourceUnavailable: no answer, or not allowed.

        """
        ...

    async def version(self, namespace: str, name: str) -> str | None:
        """Return what changes whenever the ConfigMap does, or None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Supplied:
    """A module, and the versions of the ConfigMaps it was read from (empty: from the cache)."""

    module: Module
    seen: dict[str, str | None]
    compiled: bool = False  # just now, and not at some time before

    @property
    def peak_bytes(self) -> int:
        """What the compile of this module peaked at, now or whenever it was."""
        return int(self.module.entry.record["peak_bytes"])


class Supply:
    """Bounds what is read and compiled at once; a compile that nobody wants any more is killed."""

    def __init__(
        self, source: Source, runtime: Runtime, settings: Settings, metrics: Metrics
    ) -> None:
        self._source, self._runtime = source, runtime
        self._settings, self._metrics = settings, metrics
        self._part_reads = asyncio.Semaphore(settings.part_reads_max)
        # Always the same threads: each that touches a part keeps a few MiB in its malloc arena.
        self._writers = ThreadPoolExecutor(
            settings.part_reads_max, thread_name_prefix="sluice-part"
        )
        self._compile_slots = asyncio.Semaphore(settings.compiles_max)
        # A thread for each slot: a child of minutes in the loop's own few threads would keep
        # parts from being written, and its cancellation waiting behind strangers.
        self._children = ThreadPoolExecutor(
            settings.compiles_max, thread_name_prefix="sluice-compile"
        )
        self._verification = asyncio.Lock()
        self._locks: WeakValueDictionary[tuple[str, Tier], asyncio.Lock] = WeakValueDictionary()
        self._refusals: dict[tuple[str, Tier], Callable[[], SluiceError]] = {}

    def cached(self, digest: str, tier: Tier) -> bool:
        """Say whether ``module`` will most likely find it compiled; cheap, for the line's order."""
        return self._runtime.cached(digest, tier)

    def baseline_refused(self, digest: str) -> bool:
        """Say whether it is known that the baseline tier cannot have this module."""
        refusal = self._refusals.get((digest, Tier.BASELINE))
        return not available(Tier.BASELINE) or isinstance(refusal and refusal(), BaselineRefused)

    async def module(
        self, workflow: Workflow, tier: Tier = Tier.OPTIMIZING, cap: Cap | None = None
    ) -> Supplied:
        """Return the mapped module of a workflow, compiled by ``tier``.

        One at a time for each digest and tier: whoever comes second finds what the first one
        cached, or its verdict. ``cap`` is asked when the compile slot is had, right before the
        child is started; without it, every child may take compile_memory_bytes_max.

        Raises what ``Source.part`` and ``Compilation.run`` raise.
        """
        if not available(tier):
            raise BaselineRefused("there is no baseline compiler for this machine")
        wanted = workflow.digest, tier
        async with self._locks.setdefault(wanted, asyncio.Lock()):
            if refusal := self._refusals.get(wanted):
                raise refusal()
            module = await asyncio.to_thread(self._runtime.module, *wanted)
            self._metrics.cache_lookups.labels("hit" if module else "miss").inc()
            if module:
                return Supplied(module, {})
            return await self._compiled(workflow, tier, cap)

    async def verify(self, workflow: Workflow) -> dict[str, str | None]:
        """Read the parts again and check that they hold the digest; return their versions.

        One at a time: nobody waits for it, so it takes no more disk than one binary.
        """
        async with self._verification, self._assembled(workflow) as (source, seen):
            job = self._runtime.verification(source)
            with _seen(seen):
                async with self._compile_slots:
                    await _in_thread(self._children, job.run, job.cancel)
            return seen

    async def version(self, namespace: str, name: str) -> str | None:
        """Return a ConfigMap's version as ``Source.version`` does."""
        return await self._source.version(namespace, name)

    async def config(self, workflow: Workflow) -> str:
        """Return the config text, from the spec or from the ConfigMap it names."""
        if workflow.spec.config_from is None:
            return workflow.spec.config or ""
        ref = workflow.spec.config_from.config_map_key_ref
        part_ref = PartRef(name=ref.name, key=ref.key)
        try:
            async with self._part_reads:
                part = self._source.part(workflow.key.namespace, part_ref)
                return _config(part_ref, await part, self._settings)
        except Exception as e:
            _let_go(e)
            raise

    async def _compiled(self, workflow: Workflow, tier: Tier, cap: Cap | None) -> Supplied:
        async with self._assembled(workflow) as (source, seen):
            with _seen(seen):
                async with self._compile_slots:
                    memory_bytes = await self._memory_bytes(cap)
                    module = await self._in_child(source, tier, memory_bytes)
        record = module.entry.record
        self._metrics.compiles.labels("compiled", tier).inc()
        self._metrics.compile_seconds.labels(tier).observe(record["seconds"])
        self._metrics.compile_peak_bytes.labels(tier).observe(record["peak_bytes"])
        return Supplied(module, seen, compiled=True)

    async def _memory_bytes(self, cap: Cap | None) -> int:
        """Return what the next child may take, asked for now: while it waited, others took some."""
        full = self._settings.compile_memory_bytes_max
        allowed = full if cap is None else min(full, await cap())
        if allowed < min(full, compilation.CHILD_BYTES_MIN):
            raise HeadroomExceeded(
                f"the pod has {max(0, allowed) // MIB} MiB left, and no compile starts with less "
                f"than {compilation.CHILD_BYTES_MIN // MIB}; it is tried again when there is more",
                allowed,
            )
        return allowed

    async def _in_child(self, source: compilation.Source, tier: Tier, memory_bytes: int) -> Module:
        job = self._runtime.compilation(source, tier, memory_bytes)
        try:
            return await _in_thread(self._children, job.run, job.cancel)
        except SluiceError as e:
            self._metrics.compiles.labels(_result(e), tier).inc()
            self._remember(source.digest, tier, e)
            raise

    def _remember(self, digest: str, tier: Tier, error: SluiceError) -> None:
        """Keep a verdict on the module: the digest pins it, so it holds for whoever asks again."""
        # The words alone: an error holds the frames that it passed, more with each raise.
        if isinstance(error, BaselineRefused):
            self._keep(digest, tier, partial(BaselineRefused, error.message))
        elif isinstance(error, WorkflowInvalid) and not isinstance(error, ContentInvalid):
            for one in [tier] if error.reason in _OF_ONE_TIER else Tier:
                self._keep(digest, one, partial(WorkflowInvalid, error.reason, error.message))

    def _keep(self, digest: str, tier: Tier, refusal: Callable[[], SluiceError]) -> None:
        if len(self._refusals) >= _REFUSALS_MAX:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[digest, tier] = refusal

    async def _move(self, namespace: str, ref: PartRef, assembly: Assembly) -> None:
        """Take one part from the source to the disk: after this no more of it is in memory."""
        try:
            async with self._part_reads:
                # No name for the part here, or this frame would hold it in the error.
                part = self._source.part(namespace, ref)
                await _in_thread(self._writers, partial(assembly.feed, ref, await part))
        except Exception as e:
            _let_go(e)
            raise

    @asynccontextmanager
    async def _assembled(
        self, workflow: Workflow
    ) -> AsyncIterator[tuple[compilation.Source, dict[str, str | None]]]:
        """Yield the parts in one file, still compressed, that is gone after the block."""
        module, settings = workflow.spec.module, self._settings
        with Assembly(workflow, settings.work_dir, settings.encoded_bytes_max) as assembly:
            for ref in module.config_maps:
                with _seen(assembly.seen):
                    await self._move(workflow.key.namespace, ref, assembly)
            await _in_thread(self._writers, assembly.finish)
            names = [ref.name for ref in module.config_maps]
            parts = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
            yield (
                compilation.Source(
                    assembly.path, module.encoding, workflow.digest, module.size, parts
                ),
                assembly.seen,
            )


def _config(ref: PartRef, part: Part, settings: Settings) -> str:
    where = f"key {ref.key} of ConfigMap {ref.name}"
    try:
        text = part.payload if isinstance(part.payload, str) else part.payload.decode()
        check_config_size(where, text, settings)
    except UnicodeError:
        message = f"{where} is no UTF-8 text; a config is handed to the guest as text"
        raise ContentInvalid(Reason.PART_INVALID, message, {ref.name: part.version}) from None
    except WorkflowInvalid as e:
        raise ContentInvalid(e.reason, e.message, {ref.name: part.version}) from None
    return text


def _result(error: SluiceError) -> str:
    if isinstance(error, BaselineRefused):
        return "unsupported"
    if isinstance(error, HeadroomExceeded):
        return "headroom"
    return "refused" if isinstance(error, WorkflowInvalid) else "failed"


@contextlib.contextmanager
def _seen(seen: dict[str, str | None]) -> Iterator[None]:
    """Tell a failure of content which versions were read, so that a change can be noticed."""
    try:
        yield
    except ContentInvalid as e:
        e.seen = {**e.seen, **seen}  # what was read first is what the others were read with
        raise


def _let_go(error: BaseException | None) -> None:
    """Empty the frames that an error passed.

    Their locals hold a part, and whoever keeps the error while it waits for a mended ConfigMap
    would keep the part: a megabyte for each broken workflow.
    """
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


async def _in_thread(
    executor: Executor, run: Callable[[], _T], cancel: Callable[[], None] = lambda: None
) -> _T:
    """Run ``run`` in a thread; if the waiter is cancelled, ``cancel`` it and see it end first.

    However often it is cancelled: what the thread works on is the waiter's to clear away.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, run)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        future.exception()  # retrieved: it is the cancellation's own doing
        raise
