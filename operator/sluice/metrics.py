"""Every metric, born at 0, with labels of fixed sets: no tenant's name is a label.

But for the metrics that CRE workflows count for themselves, which are bounded by settings.
"""

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from sluice.settings import Settings

_FAST = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300)
_MIB = 1 << 20
_WEBHOOK_CODES = (200, 202, 204, 400, 401, 404, 405, 408, 409, 413, 415, 417, 429, 500, 503)
TRIGGER_KINDS = ("cron", "manual", "startup", "http", "kubernetes")
CAPABILITIES = (
    "HTTPAction", "ConfidentialHTTP", "Consensus", "ChainRead", "Secrets", "Unknown"
)  # fmt: skip
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
        self._make_executions(registry)
        self._make_doors(registry)
        self._make_cre(registry)
        self._bear()

    def _make_executions(self, registry: CollectorRegistry) -> None:
        self.executions = Counter(
            "sluice_executions", "Executions by outcome.", ["outcome"], registry=registry
        )
        self.execution_seconds = Histogram(
            "sluice_execution_seconds", "Wall time of executions.", buckets=_FAST,
            registry=registry,
        )  # fmt: skip
        self.events = Counter(
            "sluice_events", "Events that triggers handed in, and what became of them.",
            ["trigger", "result"], registry=registry,
        )  # fmt: skip
        self.executions_waiting = Gauge(
            "sluice_executions_waiting", "Executions that are accepted and wait.",
            registry=registry,
        )  # fmt: skip
        self.executions_running = Gauge(
            "sluice_executions_running", "Executions that run.", registry=registry
        )
        self.retries = Counter(
            "sluice_retries", "Attempts that failed and are made again.", registry=registry
        )
        self.journal_commits = Counter(
            "sluice_journal_commits", "Transactions of the journal.", registry=registry
        )
        self.journal_commit_seconds = Histogram(
            "sluice_journal_commit_seconds", "Wall time of a transaction.", buckets=_FAST,
            registry=registry,
        )  # fmt: skip
        self.journal_failing = Gauge(
            "sluice_journal_failing",
            "1 while the journal cannot be written, and no execution is accepted or begun.",
            registry=registry,
        )
        self.journal_bytes = Gauge(
            "sluice_journal_bytes", "Size of the journal.", registry=registry
        )

    def _make_doors(self, registry: CollectorRegistry) -> None:
        self.api_writes = Counter(
            "sluice_api_writes", "Writes to the API server.", ["kind"], registry=registry
        )
        self.egress_requests = Counter(
            "sluice_egress_requests",
            "Requests that workflows asked for: answered, refused by the rules, or failed.",
            ["result"],
            registry=registry,
        )
        self.sink_deliveries = Counter(
            "sluice_sink_deliveries",
            "Results that were to go to a sink: delivered, failed, dropped (too many waited), or "
            "superseded by a newer one.",
            ["kind", "result"],
            registry=registry,
        )
        self.watches = Gauge(
            "sluice_watches",
            "Watches of kubernetes triggers: open, or waiting to be opened again.",
            ["state"],
            registry=registry,
        )
        self.watch_gaps = Counter(
            "sluice_watch_gaps",
            "Times that a watch's past was gone and what changed was found by comparison.",
            registry=registry,
        )
        self.webhook_requests = Counter(
            "sluice_webhook_requests",
            "Requests to the trigger port, by the code of the answer.",
            ["code"],
            registry=registry,
        )

    def _make_cre(self, registry: CollectorRegistry) -> None:
        self.cre_calls = Counter(
            "sluice_cre_calls",
            "Calls of CRE workflows for something outside: answered, or failed.",
            ["capability", "result"],
            registry=registry,
        )
        self.user = UserMetrics(registry)

    def _bear(self) -> None:
        """Show each metric at 0 from the beginning, with every label that it may ever have."""
        compiled = ("compiled", "refused", "unsupported", "headroom", "failed")
        handed_in = ("accepted", "duplicate", "refused", "skipped")
        sent = ("delivered", "failed", "dropped", "superseded")
        labels: dict[Counter | Gauge | Histogram, tuple[Iterable[object], ...]] = {
            self.workflows: (("ready", "starting", "failed", "suspended"),),
            self.serving: (_TIERS,),
            self.cache_lookups: (("hit", "miss"),),
            self.compiles: (compiled, _TIERS),
            self.compile_seconds: (_TIERS,),
            self.compile_peak_bytes: (_TIERS,),
            self.executions: (OutcomeKind,),
            self.events: (TRIGGER_KINDS, handed_in),
            self.api_writes: (("status", "event", "sink"),),
            self.webhook_requests: (_WEBHOOK_CODES,),
            self.egress_requests: (("answered", "refused", "failed"),),
            self.sink_deliveries: (("http", "configMap"), sent),
            self.watches: (("open", "waiting"),),
            self.cre_calls: (CAPABILITIES, ("answered", "failed")),
        }
        for metric, sets in labels.items():
            for values in product(*sets):
                metric.labels(*values)


def move(gauge: Gauge, before: str, after: str) -> None:
    """Count one under ``after`` that was counted under ``before``; an empty label is nowhere."""
    if before != after:
        for label, step in ((before, -1), (after, 1)):
            if label:
                gauge.labels(label).inc(step)


class UserSeries(NamedTuple):
    """One line of a workflow's own metrics; ``kind`` is counter or gauge."""

    namespace: str
    workflow: str
    kind: str
    name: str
    labels: tuple[tuple[str, str], ...]


class UserMetrics:
    """What guests count for themselves, where the spec wants it: the one place with names.

    The names are labels' values and not the metrics', so that no guest makes a family of its own.
    The least recently written go where there are too many. Counted on the guests' threads.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._values: OrderedDict[UserSeries, float] = OrderedDict()
        self._lock = threading.Lock()
        registry.register(self)

    def count(self, series: UserSeries, value: float, settings: Settings) -> bool:
        """Add to a counter, or set a gauge; False where the value or the kind is no such thing."""
        counted = series.kind == "counter"
        if not math.isfinite(value) or (counted and value < 0) or not series.kind:
            return False
        with self._lock:
            before = self._values.pop(series, 0.0)
            whose = series[:2]
            own = [s for s in self._values if s[:2] == whose]
            for old in own[: max(0, len(own) + 1 - settings.cre_workflow_metric_series_max)]:
                del self._values[old]
            while len(self._values) >= settings.cre_metric_series_max:
                self._values.popitem(last=False)
            self._values[series] = before + value if counted else value
        return True

    def collect(self) -> Iterator[Metric]:
        labels = ["namespace", "workflow", "name", "labels"]
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
            "counter": CounterMetricFamily(
                "sluice_user_counter", "Counters of CRE workflows' own.", labels=labels
            ),
            "gauge": GaugeMetricFamily(
                "sluice_user_gauge", "Gauges of CRE workflows' own.", labels=labels
            ),
        }
        with self._lock:
            values = list(self._values.items())
        for series, value in values:
            told = json.dumps(dict(series.labels), ensure_ascii=False)
            shown = [series.namespace, series.workflow, series.name, told]
            families[series.kind].add_metric(shown, value)
        yield from (family for family in families.values() if family.samples)


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
