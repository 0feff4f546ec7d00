"""The operator's own path, not a copy of it: its fleet, on ConfigMaps that lie in files."""

import asyncio
import logging
from pathlib import Path

from sluice import app
from sluice.bench.stage import Order, Stage, Tell
from sluice.metrics import Metrics
from sluice.rollout.memory import spare_what_stays
from sluice.settings import Settings
from sluice.snapshot import Snapshot, Verdict
from sluice.wasm.config import Tier
from sluice.wasm.lending import Lending
from sluice.workflow import WorkflowKey

_LOOK_S = 0.1
_IN_VAIN_S = 10.0
# Nothing is evicted between the cold run and the warm one, however large the modules are.
_CACHE_BYTES_MAX = 1 << 40


def run(stage: Stage) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    spare_what_stays()
    asyncio.run(_run(stage))


async def _run(stage: Stage) -> None:
    order, metrics = stage.order, Metrics()
    settings = _settings(order)
    watch = _Watch(stage.tell, len(stage.inputs.all))

    async def subscribe(engine: Lending) -> None:
        watch.subscribed(engine)
        await asyncio.sleep(order.subscribe_wait_s)

    async with app.fleet(stage.inputs, watch, settings, metrics, subscribe) as fleet:
        for desire in stage.inputs.desires(settings):
            fleet.want(desire)
        await _until_over(metrics, watch, stage.tell)
        stage.tell("done", **watch.result())
        await asyncio.to_thread(stage.hold)


def _settings(order: Order) -> Settings:
    return Settings(
        data_dir=Path(order.data_dir),
        cache_bytes_max=_CACHE_BYTES_MAX,
        memory_limit_bytes=order.memory_limit_bytes,
        tiers="optimizing" if order.strategy == "sluice-optimizing" else "auto",
    )


class _Watch:
    """The fleet's reporter: keeps who is ready, optimised or failed, and tells."""

    def __init__(self, tell: Tell, expected: int) -> None:
        self._tell, self._expected = tell, expected
        self._ready: set[WorkflowKey] = set()
        self._optimised: set[WorkflowKey] = set()
        self._failed: set[WorkflowKey] = set()
        self._engines: list[Lending] = []
        self._peaks: list[int] = []

    @property
    def settled(self) -> bool:
        return len(self._ready) + len(self._failed) == self._expected

    def subscribed(self, engine: Lending) -> None:
        self._engines.append(engine)
        self._peaks.append(_peak(engine))

    def result(self) -> dict[str, int]:
        # The engines are asked again: they may have been compiled anew since they subscribed.
        peaks = [*self._peaks, *map(_peak, self._engines)]
        return {"failed": len(self._failed), "largest_compile_bytes": max(peaks, default=0)}

    def changed(self, snapshot: Snapshot) -> None:
        key, ready = snapshot.key, snapshot.ready.ok
        optimised = ready and snapshot.serving and snapshot.serving.tier == Tier.OPTIMIZING
        if _keep(self._ready, key, ready):
            self._tell("ready", count=len(self._ready))
        if _keep(self._optimised, key, bool(optimised)):
            self._tell("optimised", count=len(self._optimised))
        if _keep(self._failed, key, snapshot.settled and not ready):
            self._tell("failed", name=key.name, message=snapshot.ready.message)

    def gone(self, key: WorkflowKey) -> None:
        """Do nothing: nobody goes."""

    def event(self, snapshot: Snapshot, note: Verdict) -> None:
        """Do nothing: nothing runs."""

    def rollout(self, note: Verdict) -> None:
        self._tell("resumed" if note.ok else "hold", message=note.message)


def _peak(engine: Lending) -> int:
    return int(engine.entry.record["peak_bytes"])


def _keep(members: set[WorkflowKey], key: WorkflowKey, belongs: bool) -> bool:
    """Put ``key`` where it belongs; return whether it is new there."""
    new = belongs and key not in members
    (members.add if belongs else members.discard)(key)
    return new


async def _until_over(metrics: Metrics, watch: _Watch, tell: Tell) -> None:
    """Tell of batches until all have settled and nobody waits to be optimised either."""
    batches, held_since = 0.0, asyncio.get_running_loop().time()
    while True:
        samples = [sample for metric in metrics.rollout.collect() for sample in metric.samples]
        now = {sample.name: sample.value for sample in samples}
        if now["sluice_batches_total"] != batches:
            batches = now["sluice_batches_total"]
            tell("batch", batch=int(batches))
        in_flight, loop_s = now["sluice_starts_in_flight"], asyncio.get_running_loop().time()
        if not (now["sluice_rollout_held"] and not in_flight):
            held_since = loop_s
        # Held with nothing under way, by what no time will bring: some stay as they are.
        in_vain = loop_s - held_since > _IN_VAIN_S
        if watch.settled and (in_vain or not now["sluice_starts_waiting"] + in_flight):
            return
        await asyncio.sleep(_LOOK_S)
