"""Every bound of the operator, its unit, its default and what it is for: once.

The command line makes a flag and an environment variable of each field (``--starts-max``,
``SLUICE_STARTS_MAX``), and docs/limits.md is held against this table by a test.
"""

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

MIB = 1 << 20


def _setting(
    default: Any, unit: str, purpose: str, most: float = math.inf, *, none: bool = False
) -> Any:
    # A default of 0 stands for something; of the others, only what says so may be none at all.
    may_be_0 = none or default == 0
    metadata = {"unit": unit, "purpose": purpose, "most": most, "may_be_0": may_be_0}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _workers() -> int:
    # Each may hold a guest's whole limits.memory, so a node with many cores is no reason for many.
    return min(len(os.sched_getaffinity(0)), 4)


def _data_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sluice" / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data_dir: Path = _setting(  # noqa: RUF009 - it returns a field
        _data_dir,
        "path",
        "compiled modules, binaries being assembled, accepted events; disk-backed, not tmpfs",
    )
    starts_max: int = _setting(12, "workflows", "starts under way at once")
    compiles_max: int = _setting(1, "processes", "compile children at once")
    compile_memory_bytes_max: int = _setting(
        512 * MIB, "bytes", "memory of one compile child, beyond the libraries"
    )
    compile_bytes_min: int = _setting(
        64 * MIB, "bytes", "free memory that a compile of unknown cost is tried with"
    )
    memory_limit_bytes: int = _setting(
        0, "bytes", "what the pod may use; 0: its cgroup, or else the machine, says it"
    )
    memory_low_fraction: float = _setting(
        0.70, "of the limit", "memory to which a held rollout waits to fall"
    )
    memory_high_fraction: float = _setting(
        0.80, "of the limit", "memory that no start may be expected to pass"
    )
    memory_reserve_bytes: int = _setting(
        16 * MIB, "bytes", "below the limit that no start may be expected to use"
    )
    reading_age_s_max: float = _setting(
        1.0, "seconds", "age at which a reading of memory no longer decides"
    )
    look_again_s: float = _setting(
        0.5, "seconds", "between looks at memory while it holds the rollout"
    )
    idle_unmap_s: float = _setting(
        900.0, "seconds", "without an execution until a module is unmapped"
    )
    tiers: str = _setting(
        "auto", "auto|optimizing|baseline", "compilers that may serve where a spec does not say"
    )
    tiers_waiting_min: int = _setting(
        3, "workflows", "starting at once from which on auto serves from the baseline tier first"
    )
    compile_cpu_s_max: int = _setting(120, "CPU seconds", "CPU time of one compile child")
    compile_wall_s_max: int = _setting(300, "seconds", "wall time of one compile child")
    part_reads_max: int = _setting(1, "parts", "ConfigMaps held in memory at once")
    binary_bytes_max: int = _setting(100 * MIB, "bytes", "a raw module")
    encoded_bytes_max: int = _setting(20 * MIB, "bytes", "a module as its ConfigMaps hold it")
    config_bytes_max: int = _setting(50 * 1024, "bytes", "a workflow's config")
    event_bytes_max: int = _setting(128 * 1024, "bytes", "the data of one trigger event")
    cache_bytes_max: int = _setting(
        2048 * MIB, "bytes", "compiled modules on disk; the least recently used go first"
    )
    workers: int = _setting(_workers, "threads", "executions of one workflow at the same time")
    workers_spare: int = _setting(
        1,
        "threads",
        "beyond workers for a namespace's other workflows, and again for others'",
        none=True,
    )
    log_lines_max: int = _setting(
        1000, "lines", "of an execution's log that are kept, the last ones of its limits.log"
    )
    running_max: int = _setting(5, "executions", "of one workflow at once")
    namespace_running_max: int = _setting(4, "executions", "of one namespace's workflows at once")
    queue_max: int = _setting(50, "executions", "waiting for one workflow")
    queue_ttl_s: float = _setting(
        600.0, "seconds", "that an event waits while its workflow could run, until it is refused"
    )
    accepted_max: int = _setting(10_000, "executions", "accepted and not over, of all workflows")
    journal_bytes_max: int = _setting(
        256 * MIB, "bytes", "of events accepted and not over, of all workflows"
    )
    events_memory_bytes_max: int = _setting(
        MIB, "bytes", "of waiting events held in memory; the others are read when their turn comes"
    )
    attempts_max: int = _setting(
        3, "executions", "of one event that end with the whole process, until it is refused"
    )
    failures_max: int = _setting(
        5, "executions", "of one workflow that fail in a row until a condition says so"
    )
    history_max: int = _setting(100, "executions", "of one workflow that are kept when over")
    history_age_s: float = _setting(
        7 * 86400.0, "seconds", "that an execution is kept when it is over"
    )
    history_bytes_max: int = _setting(
        64 * MIB, "bytes", "of results and logs that are kept, of all workflows"
    )
    ids_remembered_max: int = _setting(
        100_000, "executions", "that are over, by whose ids a repeated event is known"
    )
    # More than the schema of the status takes would make every write of it fail.
    runs_kept_max: int = _setting(
        5, "executions", "of one workflow that its status shows, at most 20", most=20
    )
    result_bytes_max: int = _setting(
        1024, "bytes", "of a result that the status shows, at most 1,024", most=1024
    )
    source_retry_s_max: float = _setting(
        15.0, "seconds", "longest pause before a missing or wrong ConfigMap is looked at again"
    )
    retry_s_max: float = _setting(60.0, "seconds", "longest pause after a transient failure")
    source_check_s: float = _setting(
        60.0, "seconds", "pause between looks at the ConfigMaps of workflows that serve"
    )
    source_checks_per_s_max: float = _setting(
        10.0, "requests per second", "of those looks, over all workflows"
    )
    status_interval_s: float = _setting(
        5.0, "seconds", "between status writes that only tell of executions, of one workflow"
    )
    status_patience_s: float = _setting(
        1.0, "seconds", "that a start may take before the status says so"
    )
    api_writes_max: int = _setting(4, "requests", "writes to the API server at once")
    watch_namespaces: str = _setting(
        "",
        "names",
        "of the namespaces that kubernetes triggers may watch beside their workflow's own; * is "
        "every one, and what lies in none",
    )
    watches_max: int = _setting(100, "triggers", "that watch objects of the cluster, in all")
    namespace_watches_max: int = _setting(
        30, "triggers", "that watch objects of the cluster, of one namespace's workflows"
    )
    watched_objects_max: int = _setting(
        1000, "objects", "of one kubernetes trigger that are known by name, to find what changed"
    )
    watch_silence_s_max: float = _setting(
        150.0, "seconds", "without a word from a watch until it is opened anew"
    )
    egress_allow: str = _setting(
        "", "ranges and names", "that requests of workflows may reach, though closed by default"
    )
    egress_deny: str = _setting(
        "", "ranges and names", "that requests of workflows may not reach, whatever is allowed"
    )
    egress_requests_max: int = _setting(32, "connections", "of requests of workflows at once")
    sinks_waiting_max: int = _setting(100, "results", "waiting for one workflow's sink")
    sinks_bytes_max: int = _setting(32 * MIB, "bytes", "of results that wait for sinks, in all")
    sinks_sending_max: int = _setting(8, "results", "being sent to sinks at once")
    sink_tries_max: int = _setting(6, "tries", "of one result at its sink")
    sink_s_max: float = _setting(300.0, "seconds", "for all tries of one result at its sink")
    sink_timeout_s: float = _setting(10.0, "seconds", "of one try at an HTTP sink")
    sink_config_map_s: float = _setting(
        1.0, "seconds", "between writes of one workflow's ConfigMap; what is newer supersedes"
    )
    sink_config_map_bytes_max: int = _setting(
        960 << 10, "bytes", "of a result in a ConfigMap, which holds 1 MiB in all", most=1 << 20
    )
    http_connections_max: int = _setting(128, "connections", "to the trigger port at once")
    http_bodies_bytes_max: int = _setting(
        8 * MIB, "bytes", "of events that are being sent to the trigger port at once"
    )
    http_read_s_max: float = _setting(
        10.0, "seconds", "for a request to arrive at the trigger port, and its answer to be taken"
    )
    http_wait_s_max: float = _setting(
        60.0, "seconds", "that a caller of an http trigger may wait for the end"
    )
    http_waits_max: int = _setting(100, "requests", "of those that wait at once")
    secret_age_s_max: float = _setting(
        60.0, "seconds", "until a Secret of an http trigger is read again", most=60
    )
    cre_subscribe_s_max: float = _setting(
        15.0, "seconds", "for a CRE workflow to say what it subscribes to"
    )
    cre_subscriptions_max: int = _setting(10, "triggers", "that a CRE workflow subscribes to")
    cre_pre_hook_s_max: float = _setting(10.0, "seconds", "for the pre-hook of a CRE workflow")
    cre_pending_calls_max: int = _setting(
        30, "calls", "of one CRE workflow to capabilities and for secrets at once; then it waits"
    )
    cre_calls_max: int = _setting(
        1000, "calls", "of one CRE execution to capabilities, and as many for secrets, in all"
    )
    cre_request_bytes_max: int = _setting(
        256 << 10, "bytes", "of one request of a CRE guest to its host"
    )
    cre_response_bytes_max: int = _setting(
        5 * MIB, "bytes", "of an answer to a CRE guest, who is told it as max_response_size"
    )
    cre_logs_max: int = _setting(
        10_000, "lines", "that a CRE execution may log in one mode; what is more is dropped"
    )
    cre_log_bytes_max: int = _setting(
        MIB, "bytes", "of one line that a CRE guest logs; a longer one is dropped"
    )
    cre_metric_bytes_max: int = _setting(4096, "bytes", "of one metric of a CRE guest, encoded")
    cre_metric_name_bytes_max: int = _setting(128, "bytes", "of the name of such a metric")
    cre_metric_labels_max: int = _setting(10, "labels", "of such a metric")
    cre_metric_label_bytes_max: int = _setting(256, "bytes", "of the value of such a label")
    cre_cron_s_min: float = _setting(30.0, "seconds", "between the dues of a CRE workflow's cron")
    cre_http_trigger_per_minute: int = _setting(
        2, "requests", "a minute to one http trigger of a CRE workflow", most=60_000
    )
    cre_http_trigger_burst: int = _setting(
        3, "requests", "to one http trigger of a CRE workflow at once", most=1000
    )
    cre_subscriptions_remembered_max: int = _setting(
        4096, "modules", "and configs whose subscriptions are kept, so that a restart need not ask"
    )
    cre_evm_rpc: str = _setting(
        "", "selectors and URLs", "of JSON-RPC endpoints: chain selector=URL, with commas between"
    )
    cre_evm_calls_max: int = _setting(15, "calls", "to chains of one CRE execution")
    cre_evm_blocks_max: int = _setting(100, "blocks", "that one call may look for logs in")
    cre_evm_request_bytes_max: int = _setting(5 << 10, "bytes", "of one call to a chain")
    cre_evm_answer_bytes_max: int = _setting(
        MIB, "bytes", "that an endpoint may answer to one call to a chain"
    )
    cre_evm_s_max: float = _setting(10.0, "seconds", "for an endpoint of a chain to answer")
    cre_calls_running_max: int = _setting(
        30, "calls", "of one CRE workflow that capabilities answer at once"
    )
    cre_call_s_max: float = _setting(
        180.0, "seconds", "for a capability to answer one call of a CRE workflow"
    )
    cre_http_calls_max: int = _setting(5, "requests", "over HTTP of one CRE execution")
    cre_http_s_max: float = _setting(
        10.0, "seconds", "for one request over HTTP of a CRE guest, confidential or not"
    )
    cre_http_request_bytes_max: int = _setting(
        10 << 10, "bytes", "of the body of such a request, and as many of its URL and headers"
    )
    cre_http_response_bytes_max: int = _setting(
        100 << 10, "bytes", "of the body of the answer to such a request"
    )
    cre_http_cache_s_max: float = _setting(600.0, "seconds", "that such an answer may be kept")
    cre_http_cache_bytes_max: int = _setting(
        8 * MIB, "bytes", "of such answers that are kept, of all workflows"
    )
    cre_confidential_calls_max: int = _setting(
        5, "requests", "over confidential HTTP of one CRE execution"
    )
    cre_consensus_calls_max: int = _setting(20, "calls", "for consensus of one CRE execution")
    cre_consensus_bytes_max: int = _setting(
        100 << 10, "bytes", "of what a CRE guest observes, or wants signed, in one call"
    )
    cre_secrets_calls_max: int = _setting(5, "calls", "for secrets of one CRE execution")
    cre_secrets_running_max: int = _setting(
        5, "calls", "for secrets of one CRE workflow that are answered at once"
    )
    cre_secrets_max: int = _setting(100, "secrets", "that a CRE guest asks for in one call")
    cre_secret_bytes_max: int = _setting(2 << 10, "bytes", "of one secret of a CRE workflow")
    cre_secrets_bytes_max: int = _setting(27 << 10, "bytes", "of all secrets in one call")
    cre_signing_key_file: str = _setting(
        "", "path", "of the key that signs reports, 64 hex digits; without it one is made and kept"
    )
    cre_metric_series_max: int = _setting(
        1000, "series", "of CRE guests' own metrics that are shown; the least recent goes first"
    )
    cre_workflow_metric_series_max: int = _setting(50, "series", "of those that are one workflow's")
    drain_s: float = _setting(25.0, "seconds", "given to running executions at SIGTERM")
    resync_s: float = _setting(
        300.0, "seconds", "between full lists that find deletions no watch told of"
    )

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "modules"

    @property
    def work_dir(self) -> Path:
        return self.data_dir / "assembling"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of the table of bounds."""

    name: str
    default: Any
    unit: str
    purpose: str
    most: float
    may_be_0: bool

    @property
    def choices(self) -> list[str]:
        """The words it may be; none: it is a number, or a path."""
        return self.unit.split("|") if "|" in self.unit else []

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "SLUICE_" + self.name.upper()


def table() -> list[SettingRow]:
    """Return every setting in order, with this machine's default."""
    defaults = Settings()
    return [
        SettingRow(
            f.name,
            getattr(defaults, f.name),
            f.metadata["unit"],
            f.metadata["purpose"],
            f.metadata["most"],
            f.metadata["may_be_0"],
        )
        for f in fields(Settings)
    ]
