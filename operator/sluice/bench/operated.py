"""The operator's own path, not a copy of it: its fleet, on ConfigMaps that lie in files."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from sluice import app
from sluice.bench.child import Order, Stage, Tell
from sluice.metrics import Metrics
from sluice.settings import Settings
from sluice.snapshot import Snapshot, Verdict
from sluice.wasm.engine import Engine
from sluice.workflow import WorkflowKey

_LOOK_S = 0.05
# Nothing is evicted between the cold run and the warm one, however large the modules are.
_CACHE_BYTES_MAX = 1 << 40


def run(stage: Stage) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    asyncio.run(_run(stage))


async def _run(stage: Stage) -> None:
    order, metrics = stage.order, Metrics()
    watch = _Watch(stage.tell, len(stage.inputs.all))
    settings = _settings(order)

    async def subscribe(engine: Engine) -> None:
        watch.compiled(engine)
        await asyncio.sleep(order.subscribe_wait_s)

    async with app.fleet(stage.inputs, watch, settings, metrics, subscribe) as fleet:
        looking = asyncio.create_task(_look(metrics, stage.tell))
        for desire in stage.inputs.desires(settings):
            fleet.want(desire)
        await watch.over.wait()
        looking.cancel()
        stage.tell("done", failed=watch.failures)
        await asyncio.to_thread(stage.hold)


def _settings(order: Order) -> Settings:
    return Settings(
        data_dir=Path(order.data_dir),
        cache_bytes_max=_CACHE_BYTES_MAX,
        memory_limit_bytes=order.memory_limit_bytes,
        tiers="optimizing" if order.strategy == "sluice-optimizing" else "auto",
    )


class _Watch:
    """The fleet's reporter: counts who is ready, and tells."""

    def __init__(self, tell: Tell, expected: int) -> None:
        self._tell, self._expected = tell, expected
        self._settled: dict[WorkflowKey, bool] = {}
        self.over = asyncio.Event()

    @property
    def failures(self) -> int:
        return sum(not ready for ready in self._settled.values())

    def compiled(self, engine: Engine) -> None:
        record = engine.module.entry.record
        self._tell("compiled", seconds=record["seconds"], peak=record["peak_bytes"])

    def changed(self, snapshot: Snapshot) -> None:
        if not snapshot.settled or self._settled.get(snapshot.key) == snapshot.ready.ok:
            return
        self._settled[snapshot.key] = snapshot.ready.ok
        if snapshot.ready.ok:
            self._tell("ready", count=sum(self._settled.values()))
        else:
            self._tell("failed", name=snapshot.key.name, message=snapshot.ready.message)
        if len(self._settled) == self._expected:
            self.over.set()

    def rollout(self, _: Verdict) -> None:
        """The statistics tell of holds already."""

    def gone(self, key: WorkflowKey) -> None:
        """Do nothing: nobody goes."""

    def event(self, snapshot: Snapshot, note: Verdict) -> None:
        """Do nothing: the log has told of it already."""


async def _look(metrics: Metrics, tell: Tell) -> None:
    """Tell of each batch and each hold, as the operator's metrics show them to everybody."""
    batches = 0.0
    while True:
        await asyncio.sleep(_LOOK_S)
        now: Any = metrics.registry.get_sample_value("sluice_batches_total") or 0.0
        if now != batches:
            batches = now
            tell("batch", batch=int(now))
