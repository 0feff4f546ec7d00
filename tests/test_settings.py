from pathlib import Path

import pytest
from prometheus_client import generate_latest

from sluice.metrics import Metrics
from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from sluice.rollout.batches import Statistics
from sluice.rollout.gate import Bounds
from sluice.rollout.memory import MemoryReading
from sluice.settings import Settings, table

UNITS = {
    "bytes", "seconds", "CPU seconds", "path", "workflows", "processes", "parts", "threads",
    "executions", "requests", "requests per second", "of the limit", "connections", "lines",
    "names", "objects", "ranges and names", "results", "tries", "triggers",
    "blocks", "calls", "labels", "modules", "secrets", "selectors and URLs", "series",
}  # fmt: skip


def test_every_bound_has_a_unit_and_a_purpose() -> None:
    """No number of the operator is without its unit and a word on what it is for."""
    for row in table():
        assert row.unit in UNITS or row.choices, row
        assert row.purpose, row


@pytest.mark.parametrize(("ending", "units"), [
    ("_bytes_max", {"bytes"}), ("_s", {"seconds"}), ("_s_max", {"seconds", "CPU seconds"}),
])  # fmt: skip
def test_a_name_says_its_unit(ending: str, units: set[str]) -> None:
    """Who reads a flag knows what its number counts, without a manual."""
    ended = [row for row in table() if row.name.removesuffix("_per_s_max").endswith(ending)]
    assert ended
    assert {row.unit for row in ended} <= units


def test_flags_and_variables_follow_from_the_names() -> None:
    """One setting has one name in three spellings."""
    row = next(row for row in table() if row.name == "compile_memory_bytes_max")
    assert row.flag == "--compile-memory-bytes-max"
    assert row.variable == "SLUICE_COMPILE_MEMORY_BYTES_MAX"
    assert len({row.flag for row in table()}) == len(table())


def test_every_default_is_usable() -> None:
    """The operator starts without a single flag: no bound is 0 or less by default."""
    for row in table():
        stands_for_something = row.name == "memory_limit_bytes"
        assert isinstance(row.default, Path | str) or row.default > 0 or stands_for_something, row


def test_the_data_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME is honoured; without it the data is under the home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Settings().cache_dir == tmp_path / "sluice/data/modules"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Settings().work_dir == tmp_path / "home/.cache/sluice/data/assembling"


def test_few_threads_run_guests_however_many_cores_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a large node the guests' memory does not grow with its cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert Settings().workers == 4
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert Settings().workers == 1


def test_every_metric_is_born_at_0() -> None:
    """A dashboard or an alert sees 0 and not "no data" before anything has happened."""
    lines = generate_latest(Metrics().registry).decode().splitlines()
    values = [line for line in lines if not line.startswith("#") and "_created" not in line]
    assert values
    assert [line for line in values if not line.endswith(" 0.0")] == []
    names = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    born = {line.partition("{")[0].split()[0] for line in values}
    for name in names:
        assert any(sample.startswith(name.removesuffix("_created")) for sample in born), name


def test_every_outcome_has_its_label_and_no_tenant_has() -> None:
    """The series are as many as the outcomes, not as many as the workflows."""
    text = generate_latest(Metrics().registry).decode()
    for kind in OutcomeKind:
        assert f'sluice_executions_total{{outcome="{kind}"}} 0.0' in text
    assert "namespace=" not in text


def test_the_rollout_is_read_whenever_somebody_asks() -> None:
    """The line and the memory that are shown are those of the moment, in every kind and reason."""
    metrics, waiting = Metrics(), [3]
    memory = MemoryReading(
        at=0.0, used=100, limit=1000 << 20, working_set=120, anonymous=80, kind="host"
    )

    def statistics() -> Statistics:
        return Statistics(
            waiting=waiting[0], in_flight=2, batches=4, batch_size=9, held=True,
            hold_reason=Reason.WAITING_FOR_MEMORY, hold_message="",
            hold_seconds={Reason.WAITING_FOR_MEMORY: 1.5}, holds={Reason.WAITING_FOR_MEMORY: 1},
            trims=5, trimmed_bytes=6, reading=memory,
        )  # fmt: skip

    metrics.rollout.watch(statistics, lambda: memory, Bounds(), lambda: 7)
    sample = metrics.registry.get_sample_value
    assert sample("sluice_starts_waiting") == 3
    waiting[0] = 5
    assert sample("sluice_starts_waiting") == 5
    assert sample("sluice_rollout_held") == 1
    assert sample("sluice_cache_evictions_total") == 7
    assert sample("sluice_batches_total") == 4
    assert sample("sluice_trimmed_bytes_total") == 6
    assert sample("sluice_hold_seconds_total", {"reason": "WaitingForMemory"}) == 1.5
    assert sample("sluice_memory_bytes", {"kind": "working_set"}) == 120
    assert sample("sluice_memory_bytes", {"kind": "high"}) == 800 << 20
