"""Digest -> mapped module: from memory, from the cache, or assembled and compiled, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from sluice.binary import Assembly, Part
from sluice.errors import ContentInvalid, EngineRefused, WorkflowInvalid
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.wasm import compilation
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import PartRef, Workflow, check_config_size

_REFUSALS_MAX = 1024
_T = TypeVar("_T")


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


class Supply:
    """Bounds what is read and compiled at once; a compile that nobody wants any more is killed."""

    def __init__(
        self, source: Source, runtime: Runtime, settings: Settings, metrics: Metrics
    ) -> None:
        self._source, self._runtime = source, runtime
        self._settings, self._metrics = settings, metrics
        self._part_reads = asyncio.Semaphore(settings.part_reads_max)
        self._compile_slots = asyncio.Semaphore(settings.compiles_max)
        self._digest_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._refusals: dict[str, WorkflowInvalid] = {}

    async def module(self, workflow: Workflow) -> Supplied:
        """Return the mapped module of a workflow.

        One at a time for each digest: whoever comes second finds what the first one cached, or
        its verdict. Raises what ``Source.part`` and ``Compilation.run`` raise.
        """
        lock = self._digest_locks.setdefault(workflow.digest, asyncio.Lock())
        async with lock:
            if refusal := self._refusals.get(workflow.digest):
                raise refusal
            module = await asyncio.to_thread(self._runtime.module, workflow.digest)
            self._metrics.cache_lookups.labels("hit" if module else "miss").inc()
            if module:
                return Supplied(module, {})
            return await self._compiled(workflow)

    async def verify(self, workflow: Workflow) -> dict[str, str | None]:
        """Read the parts again and check that they hold the digest; return their versions."""
        async with self._assembled(workflow) as (source, seen):
            job = self._runtime.verification(source)
            with _seen(seen):
                await _in_thread(job.run, job.cancel)
            return seen

    async def config(self, workflow: Workflow) -> str:
        """Return the config text, from the spec or from the ConfigMap it names."""
        if workflow.spec.config_from is None:
            return workflow.spec.config or ""
        ref = workflow.spec.config_from.config_map_key_ref
        where = f"key {ref.key} of ConfigMap {ref.name}"
        async with self._part_reads:
            part = await self._source.part(
                workflow.key.namespace, PartRef(name=ref.name, key=ref.key)
            )
        try:
            text = part.payload if isinstance(part.payload, str) else part.payload.decode()
            check_config_size(where, text, self._settings)
        except UnicodeDecodeError:
            message = f"{where} is no UTF-8 text; a config is handed to the guest as text"
            raise ContentInvalid(
                Reason.PART_INVALID, message, {ref.name: part.version}
            ) from None
        except WorkflowInvalid as e:
            raise ContentInvalid(e.reason, e.message, {ref.name: part.version}) from None
        return text

    async def _compiled(self, workflow: Workflow) -> Supplied:
        async with self._assembled(workflow) as (source, seen):
            job = self._runtime.compilation(source)
            try:
                with _seen(seen):
                    async with self._compile_slots:
                        module = await _in_thread(job.run, job.cancel)
            except WorkflowInvalid as e:
                self._metrics.compiles.labels("refused").inc()
                if not isinstance(e, ContentInvalid):
                    self._remember(workflow.digest, e)
                raise
            except EngineRefused:
                self._metrics.compiles.labels("failed").inc()
                raise
        self._count(module.entry.record)
        return Supplied(module, seen)

    def _remember(self, digest: str, refusal: WorkflowInvalid) -> None:
        # The digest pins the module, so the verdict holds for whoever asks again.
        if len(self._refusals) >= _REFUSALS_MAX:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[digest] = refusal

    def _count(self, record: dict[str, Any]) -> None:
        self._metrics.compiles.labels("compiled").inc()
        self._metrics.compile_seconds.observe(record["seconds"])
        self._metrics.compile_peak_bytes.observe(record["peak_bytes"])

    @asynccontextmanager
    async def _assembled(
        self, workflow: Workflow
    ) -> AsyncIterator[tuple[compilation.Source, dict[str, str | None]]]:
        """Yield the parts in one file, still compressed, that is gone after the block."""
        module, settings = workflow.spec.module, self._settings
        with Assembly(workflow, settings.work_dir, settings.encoded_bytes_max) as assembly:
            for ref in module.config_maps:
                with _seen(assembly.seen):
                    async with self._part_reads:
                        part = await self._source.part(workflow.key.namespace, ref)
                        await asyncio.to_thread(assembly.feed, ref, part)
                        del part  # or it would live until the next one has come
            assembly.finish()
            names = [ref.name for ref in module.config_maps]
            parts = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
            yield (
                compilation.Source(
                    assembly.path, module.encoding, workflow.digest, module.size, parts
                ),
                assembly.seen,
            )


@contextlib.contextmanager
def _seen(seen: dict[str, str | None]) -> Iterator[None]:
    """Tell a failure of content which versions were read, so that a change can be noticed."""
    try:
        yield
    except ContentInvalid as e:
        e.seen = {**seen, **e.seen}
        raise


async def _in_thread(run: Callable[[], _T], cancel: Callable[[], None]) -> _T:
    """Run ``run`` in a thread; if the waiter is cancelled, ``cancel`` it and see it end first."""
    future = asyncio.get_running_loop().run_in_executor(None, run)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel()
        await asyncio.wait([future])
        future.exception()  # retrieved: it is the cancellation's own doing
        raise
