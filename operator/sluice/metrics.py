"""Every metric, born at 0, with labels of fixed sets: no tenant's name is ever a label."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sluice.outcome import OutcomeKind

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
        self.starts_waiting = Gauge(
            "sluice_starts_waiting", "Workflows that wait for a permit.", registry=registry
        )
        self.starts_in_flight = Gauge(
            "sluice_starts_in_flight", "Starts that hold a permit.", registry=registry
        )
        self.batches = Counter("sluice_batches", "Batches released.", registry=registry)
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

    def watch_rollout(self, waiting: Callable[[], float], in_flight: Callable[[], float]) -> None:
        """Read the line's length and the permits in use whenever somebody asks for them."""
        self.starts_waiting.set_function(waiting)
        self.starts_in_flight.set_function(in_flight)

    def _bear(self) -> None:
        for state in ("ready", "starting", "failed", "suspended"):
            self.workflows.labels(state)
        for result in ("hit", "miss"):
            self.cache_lookups.labels(result)
        for tier in _TIERS:
            self.compile_seconds.labels(tier)
            self.compile_peak_bytes.labels(tier)
            for result in ("compiled", "refused", "unsupported", "headroom", "failed"):
                self.compiles.labels(result, tier)
        for kind in OutcomeKind:
            self.executions.labels(kind)
        for written in ("status", "event"):
            self.api_writes.labels(written)
