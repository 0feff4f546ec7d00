import gc
import logging
import os
import resource
from pathlib import Path

import pytest

from guests.build import guest
from sluice.errors import EngineRefused
from sluice.outcome import OutcomeKind
from sluice.wasm import config
from sluice.wasm.config import Tier
from wasm.lab import PROGRAM, Lab, sha256, wat

_TINY = wat(PROGRAM)


def _mappings(lab: Lab, digest: str) -> set[str]:
    """Return the address ranges of this process that show the entry of ``digest``."""
    name = str(lab.runtime.cache.path(digest, Tier.OPTIMIZING))
    return {line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith((name, f"{name} (deleted)"))}  # fmt: skip


def test_a_module_is_mapped_once_however_many_engines_use_it(own_lab: Lab) -> None:
    """Engines of one digest share its code; a later one finds it mapped already."""
    first = own_lab.module(_TINY)
    mapped = _mappings(own_lab, first.entry.digest)
    assert mapped
    assert own_lab.runtime.module(first.entry.digest, Tier.OPTIMIZING) is first
    engines = [own_lab.engine(_TINY) for _ in range(5)]
    assert all(engine.module is first for engine in engines)
    assert _mappings(own_lab, first.entry.digest) == mapped


def test_a_module_is_unmapped_after_its_last_engine(own_lab: Lab) -> None:
    """What nobody uses any more costs neither address space nor a descriptor."""
    digest = own_lab.module(_TINY).entry.digest
    engine = own_lab.engine(_TINY)
    own_lab._modules.clear()
    gc.collect()
    assert _mappings(own_lab, digest)
    assert engine.entry.digest == digest
    del engine
    gc.collect()
    assert not _mappings(own_lab, digest)


def test_an_engine_runs_on_though_its_entry_is_evicted(own_lab: Lab) -> None:
    """The cache may forget a file whose code still serves."""
    engine = own_lab.engine("echo")
    own_lab.runtime.cache.remove(engine.entry.digest, Tier.OPTIMIZING)
    assert own_lab.run("echo", event=b"still").result == b"still"
    assert not engine.entry.path.exists()


def test_a_restart_finds_what_was_compiled_before(own_lab: Lab, tmp_path: Path) -> None:
    """A warm start maps and compiles nothing."""
    digest = own_lab.module("echo").entry.digest
    own_lab.runtime.close()
    again = Lab.at(tmp_path)
    assert again.runtime.module(digest, Tier.OPTIMIZING) is not None
    assert again.run("echo", event=b"warm").result == b"warm"
    again.runtime.close()


def test_an_entry_that_wasmtime_itself_refuses_is_forgotten(
    own_lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """Should the record vouch for code of another wasmtime, it is compiled again, not used."""
    output = own_lab.settings.work_dir / "other.cwasm"
    output.touch(0o600)
    output.write_bytes(b"\x7fELF of another version")
    answer = {"compiled_sha256": sha256(output.read_bytes()), "compiled_bytes": 1}
    own_lab.runtime.cache.publish("c" * 64, Tier.OPTIMIZING, output, answer)
    with caplog.at_level(logging.WARNING):
        assert own_lab.runtime.module("c" * 64, Tier.OPTIMIZING) is None
    assert "cache entry refused" in caplog.text
    assert not own_lab.runtime.cache.path("c" * 64, Tier.OPTIMIZING).exists()


def test_a_flipped_byte_is_compiled_away(own_lab: Lab, tmp_path: Path) -> None:
    """A damaged entry costs one compile and nothing else."""
    path = own_lab.module("echo").entry.path
    own_lab.runtime.close()
    code = bytearray(path.read_bytes())
    code[len(code) // 2] ^= 0x40
    path.write_bytes(code)
    again = Lab.at(tmp_path)
    assert again.runtime.module(sha256(guest("echo")), Tier.OPTIMIZING) is None
    assert again.run("echo", event=b"healed").result == b"healed"
    again.runtime.close()


def test_a_start_sweeps_what_a_death_left_half_assembled(own_lab: Lab, tmp_path: Path) -> None:
    """No partial file is looked at again, let alone trusted."""
    own_lab.runtime.close()
    left = own_lab.settings.work_dir / "half.part"
    left.write_bytes(b"x")
    again = Lab.at(tmp_path)
    assert not left.exists()
    again.runtime.close()


def test_two_processes_do_not_share_a_data_directory(own_lab: Lab, tmp_path: Path) -> None:
    """A second one would sweep the first one's files away, so it is refused and told what to do."""
    with pytest.raises(EngineRefused, match="another sluice runs in it"):
        Lab.at(tmp_path)
    own_lab.runtime.close()
    Lab.at(tmp_path).runtime.close()


def test_as_many_modules_as_there_may_be_descriptors_can_be_mapped(own_lab: Lab) -> None:
    """Each mapped module holds a descriptor, so a shell's soft limit must not be the bound."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    module = own_lab.module(_TINY)
    assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
    assert module.entry.compiled_bytes > 0


def test_a_full_disk_is_the_operator_s_failure(own_lab: Lab) -> None:
    """A module that cannot be kept is tried again later; its author has done no wrong."""
    compiling = own_lab.compiling(_TINY)
    own_lab.runtime.cache.directory.rename(own_lab.settings.data_dir / "gone")
    with pytest.raises(EngineRefused, match="cannot be kept"):
        compiling.run()
    assert not list(own_lab.settings.work_dir.glob("*.cwasm"))


def test_a_fingerprint_names_one_configuration() -> None:
    """Both sides of a compile come to the same name, which is another for each tier."""
    config.fingerprint.cache_clear()
    first = [config.fingerprint(tier) for tier in Tier]
    config.fingerprint.cache_clear()
    assert [config.fingerprint(tier) for tier in Tier] == first
    assert {len(name) for name in first} == {16}
    assert len(set(first)) == 2


def test_a_go_program_of_megabytes_runs(any_lab: Lab) -> None:
    """A real program of a real compiler reads its event and writes its result."""
    event = b'{"data":{"readings":[{"name":"a","value":1},{"name":"b","value":2}]}}'
    outcome = any_lab.run("report", event=event)
    assert outcome.kind is OutcomeKind.COMPLETED
    assert b'"sorted":[{"name":"b","value":2},{"name":"a","value":1}]' in outcome.result
    assert f'"sha256":"{sha256(event)}"'.encode() in outcome.result


def test_a_go_program_waits_on_its_timers(any_lab: Lab) -> None:
    """Goroutines, channels and timers work: the runtime's polls are answered as it needs."""
    outcome = any_lab.run("report", event=b'{"data":{"act":"rest"}}')
    assert (outcome.kind, outcome.result) == (OutcomeKind.COMPLETED, b"rested")


def test_a_go_program_that_hoards_is_out_of_memory(any_lab: Lab) -> None:
    """The runtime's last words tell why it gave up, and so does the outcome."""
    event = b'{"data":{"act":"hoard"}}'
    outcome = any_lab.run("report", event=event, limits={"memory": "40Mi"})
    assert outcome.kind is OutcomeKind.OUT_OF_MEMORY
    assert outcome.memory_bytes <= 40 << 20


def test_a_go_program_s_own_failure_is_told_with_its_log(any_lab: Lab) -> None:
    """An exit code and the words before it reach the user."""
    outcome = any_lab.run("report", event=b"nonsense")
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.FAILED, 3)
    assert outcome.log.startswith(b"the event is no JSON")
