"""Every metric, born at 0, with labels of fixed sets: no tenant's name is ever a label."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from sluice.outcome import OutcomeKind
from sluice.reasons import Reason

_FAST = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300)
_MIB = 1 << 20
_TIERS = ("baseline", "optimizing")  # wasm.config.Tier, which lies above this


class Metrics:
    """One registry and what is in it; documented in docs/metrics.md."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.workflows = Gauge(
            "sluice_workflows", "Workflows by state.", ["state"], registry=registry
        )
        self.serving = Gauge(
            "sluice_serving",
            "Workflows that serve, by the compiler of their code.",
            ["tier"],
            registry=registry,
        )
        self.rollout = RolloutMetrics(registry)
        self.cache_lookups = Counter(
            "sluice_cache_lookups", "Lookups of compiled modules.", ["result"], registry=registry
        )
        self.compiles = Counter(
            "sluice_compiles",
            "Compile children by result and tier.",
            ["result", "tier"],
            registry=registry,
        )
        self.compile_seconds = Histogram(
            "sluice_compile_seconds",
            "Wall time of a compile.",
            ["tier"],
            buckets=_FAST,
            registry=registry,
        )
        self.compile_peak_bytes = Histogram(
            "sluice_compile_peak_bytes",
            "Peak memory of a compile child.",
            ["tier"],
            buckets=[n * _MIB for n in (64, 128, 192, 256, 384, 512, 1024, 2048)],
            registry=registry,
        )
        self.executions = Counter(
            "sluice_executions", "Executions by outcome.", ["outcome"], registry=registry
        )
        self.execution_seconds = Histogram(
            "sluice_execution_seconds", "Wall time of executions.", buckets=_FAST,
            registry=registry,
        )  # fmt: skip
        self.api_writes = Counter(
            "sluice_api_writes", "Writes to the API server.", ["kind"], registry=registry
        )
        self._bear()

    def _bear(self) -> None:
        for state in ("ready", "starting", "failed", "suspended"):
            self.workflows.labels(state)
        for result in ("hit", "miss"):
            self.cache_lookups.labels(result)
        for tier in _TIERS:
            self.serving.labels(tier)
            self.compile_seconds.labels(tier)
            self.compile_peak_bytes.labels(tier)
            for result in ("compiled", "refused", "unsupported", "headroom", "failed"):
                self.compiles.labels(result, tier)
        for kind in OutcomeKind:
            self.executions.labels(kind)
        for written in ("status", "event"):
            self.api_writes.labels(written)


def move(gauge: Gauge, before: str, after: str) -> None:
    """Count one under ``after`` that was counted under ``before``; an empty label is nowhere."""
    if before != after:
        for label, step in ((before, -1), (after, 1)):
            if label:
                gauge.labels(label).inc(step)


class RolloutMetrics:
    """What the rollout says of itself, read whenever somebody asks; at 0 until it is there."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._statistics: Callable[[], Any] | None = None
        registry.register(self)

    def watch(
        self,
        statistics: Callable[[], Any],
        read: Callable[[], Any],
        bounds: Any,
        evictions: Callable[[], int],
    ) -> None:
        """Show ``rollout.batches.Statistics``, fresh readings and their watermarks, evictions."""
        self._statistics, self._read, self._bounds = statistics, read, bounds
        self._evictions = evictions

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "sluice_memory_bytes",
            "Memory of the pod: used (what decides), working_set (as kubectl top), anonymous, "
            "its limit, and the low and high watermark.",
            labels=["kind"],
        )
        for kind, value in self._memory().items():
            memory.add_metric([kind], value)
        yield memory
        yield CounterMetricFamily(
            "sluice_cache_evictions",
            "Compiled modules that had to go for others.",
            value=self._evictions() if self._statistics else 0,
        )
        yield from self._line()

    def _memory(self) -> dict[str, float]:
        if self._statistics is None:
            return dict.fromkeys(_MEMORY_KINDS, 0.0)
        reading = self._read()
        low, high = self._bounds.low(reading.limit), self._bounds.high(reading.limit)
        measured = (reading.used, reading.working_set, reading.anonymous, reading.limit, low, high)
        return dict(zip(_MEMORY_KINDS, measured, strict=True))

    def _line(self) -> Iterator[Metric]:
        now = self._statistics() if self._statistics else None
        for name, help_ in _ROLLOUT_GAUGES.items():
            yield GaugeMetricFamily(
                f"sluice_{name}", help_, value=getattr(now, _FIELDS.get(name, name), 0)
            )
        for name, help_ in _ROLLOUT_COUNTERS.items():
            yield CounterMetricFamily(
                f"sluice_{name}", help_, value=getattr(now, _FIELDS.get(name, name), 0)
            )
        for name, help_ in _ROLLOUT_BY_REASON.items():
            family = CounterMetricFamily(f"sluice_{name}", help_, labels=["reason"])
            values = getattr(now, name, {})
            for reason in _HOLD_REASONS:
                family.add_metric([reason], values.get(reason, 0))
            yield family


_MEMORY_KINDS = ("used", "working_set", "anonymous", "limit", "low", "high")
_HOLD_REASONS = (Reason.WAITING_FOR_MEMORY, Reason.WAITING_FOR_TURN)
_FIELDS = {"starts_waiting": "waiting", "starts_in_flight": "in_flight", "rollout_held": "held"}
_ROLLOUT_GAUGES = {
    "starts_waiting": "Workflows that wait for a permit.",
    "starts_in_flight": "Starts that hold a permit.",
    "batch_size": "Compiles that may be under way at once, for now.",
    "rollout_held": "1 while memory holds the rollout.",
}
_ROLLOUT_COUNTERS = {
    "batches": "Batches released.",
    "trims": "Times that free memory was given back to the system.",
    "trimmed_bytes": "What those trims gave back.",
}
_ROLLOUT_BY_REASON = {
    "holds": "Times that the line began to wait, by reason.",
    "hold_seconds": "How long the line waited, by reason.",
}
