import gzip
import os
import signal
import threading
from pathlib import Path

import pytest

from guests.build import guest
from sluice.errors import (
    BaselineRefused,
    ContentInvalid,
    EngineRefused,
    HeadroomExceeded,
    SluiceError,
    WorkflowInvalid,
)
from sluice.reasons import Reason
from sluice.settings import MIB
from sluice.wasm.compilation import Compilation
from sluice.wasm.config import Tier
from wasm.lab import PROGRAM, Lab, sha256, wat
from wasm.shapes import busy, giant

_ECHO = "echo"


def _refusal(lab: Lab, wasm: bytes, **claims: object) -> SluiceError:
    with pytest.raises(SluiceError) as refused:
        lab.compiling(wasm, **claims).run()
    return refused.value


def test_a_module_is_compiled_into_an_entry_that_says_what_it_is(own_lab: Lab) -> None:
    """The answer names the interface, what was imported and exported, and what it took."""
    wasm = guest(_ECHO)
    source = own_lab.source(wasm)
    record = own_lab.runtime.compilation(source, own_lab.tier).run().entry.record
    assert record["abi"] == "wasi"
    assert record["exports"] == ["_start", "memory"]
    assert "wasi_snapshot_preview1.fd_write" in record["imports"]
    assert 10 * MIB < record["peak_bytes"] < 512 * MIB
    assert list(own_lab.settings.work_dir.iterdir()) == [source.path]


def test_a_compressed_module_is_inflated_and_verified(own_lab: Lab) -> None:
    """What reaches the compiler is the raw module of the digest, however it was packed."""
    wasm = guest(_ECHO)
    claims = {"encoding": "gzip", "digest": sha256(wasm), "size": len(wasm)}
    assert own_lab.compiling(gzip.compress(wasm), **claims).run().entry.digest == sha256(wasm)


def test_verification_alone_compiles_nothing(own_lab: Lab) -> None:
    """Parts can be looked at again for the price of inflating them."""
    answer = own_lab.runtime.verification(own_lab.source(guest(_ECHO))).run()
    assert set(answer) == {"peak_bytes", "sandbox"}
    assert own_lab.runtime.module(sha256(guest(_ECHO)), Tier.OPTIMIZING) is None


@pytest.mark.parametrize(
    ("claims", "reason", "words"),
    [
        ({"digest": "0" * 64}, Reason.DIGEST_MISMATCH, "correct the order"),
        ({"size": 3000}, Reason.SIZE_EXCEEDED, "more than the 3,000 bytes"),
        ({"size": 4000}, Reason.SIZE_MISMATCH, "but spec.module.size says 4,000"),
        ({"encoding": "gzip"}, Reason.STREAM_CORRUPT, "no gzip stream"),
    ],
)
def test_what_the_parts_hold_is_held_against_the_spec(
    lab: Lab, claims: dict[str, object], reason: Reason, words: str
) -> None:
    """Each way in which the parts are not what the object says has its own reason."""
    refusal = _refusal(lab, guest(_ECHO), **claims)
    assert isinstance(refusal, ContentInvalid)
    assert refusal.reason is reason
    assert words in refusal.message
    assert refusal.message.startswith("the parts p ")


def test_a_bomb_is_refused_at_its_declared_size(lab: Lab) -> None:
    """A stream of 1 GiB of zeros is stopped where it passes what was declared, not later."""
    refusal = _refusal(lab, gzip.compress(bytes(1 << 28)), encoding="gzip", size=1000)
    assert refusal.reason is Reason.SIZE_EXCEEDED


_START = '(func (export "_start"))'
_MEMORY = '(memory (export "memory") 1)'


@pytest.mark.parametrize(
    ("wasm", "reason", "words"),
    [
        (b"\x7fELF and so on", Reason.NOT_WASM, "begins with 7f 45 4c 46"),
        (b"\0as", Reason.NOT_WASM, "is not WebAssembly"),
        (b"\0asm\r\0\1\0", Reason.COMPONENT_UNSUPPORTED, "wasm32-wasip1"),
        (b"\0asm\1\0\0\0\x99", Reason.MODULE_INVALID, "refused by the compiler"),
        (wat(f'(import "env" "f" (func)) {PROGRAM}'), Reason.UNKNOWN_IMPORT, "env.f"),
        (wat(f'(import "wasi_snapshot_preview1" "fd_own" (func)) {PROGRAM}'),
         Reason.UNKNOWN_IMPORT, "fd_own"),
        (wat(f'(import "wasi_snapshot_preview1" "fd_read" (func (param i64))) {PROGRAM}'),
         Reason.UNKNOWN_IMPORT, "another type"),
        (wat(f'(import "wasi_snapshot_preview1" "fd_read" (global i32)) {PROGRAM}'),
         Reason.UNKNOWN_IMPORT, "another type"),
        (wat(f'(import "env" "send_response" (func)) {PROGRAM}'), Reason.ABI_UNSUPPORTED, "CRE"),
        (wat(_MEMORY), Reason.MISSING_EXPORT, "_start"),
        (wat(_START), Reason.MISSING_EXPORT, "memory"),
        (wat(f'{_MEMORY} (func (export "_start") (param i32))'),
         Reason.MISSING_EXPORT, "without parameters"),
        (wat(f'{_MEMORY} (global (export "_start") i32 (i32.const 0))'),
         Reason.MISSING_EXPORT, "_start that is no function"),
        (wat(f'{_START} (global (export "memory") i32 (i32.const 0))'),
         Reason.MISSING_EXPORT, "no linear memory"),
        (wat(f'(memory (export "memory") 1 1 shared) {_START}'), Reason.MODULE_INVALID, "threads"),
        (wat(f'(memory (export "memory") i64 1) {_START}'), Reason.MODULE_INVALID, "memory64"),
        (wat(f"{PROGRAM} (memory 1)"), Reason.MODULE_INVALID, "multiple memories"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_run_here_is_refused_before_it_serves(
    lab: Lab, wasm: bytes, reason: Reason, words: str
) -> None:
    """Each kind of unfit module has its reason, and waits for nothing but another module."""
    refusal = _refusal(lab, wasm)
    assert isinstance(refusal, WorkflowInvalid)
    assert not isinstance(refusal, ContentInvalid)
    assert refusal.reason is reason
    assert words in refusal.message


def test_a_module_of_many_and_long_names_is_told_in_few_words(own_lab: Lab) -> None:
    """Neither a record nor a message grows with what a hostile module calls its exports."""
    exports = "".join(f'(export "{i:05}{"x" * 200}" (func 0))' for i in range(20_000))
    entry = own_lab.compiling(wat(PROGRAM + exports)).run().entry
    assert len(entry.record["exports"]) == 32
    assert max(map(len, entry.record["exports"])) <= 64
    unknown = _refusal(own_lab, wat(f'(import "env" "{"x" * 90_000}" (func)) {PROGRAM}'))
    assert len(unknown.message) < 2000


@pytest.mark.parametrize("mib", [1, 24, 45, 75, 125])
def test_a_giant_function_is_out_of_memory_whatever_the_limit(lab: Lab, mib: int) -> None:
    """Wherever the limit falls, in an import, a thread or the compiler, it is named."""
    compilation = lab.compilation(giant(5_000), compile_memory_bytes_max=mib * MIB)
    with pytest.raises(WorkflowInvalid) as refused:
        compilation.run()
    assert refused.value.reason is Reason.COMPILE_OUT_OF_MEMORY
    assert f"more than {mib} MiB" in refused.value.message


def test_the_same_giant_compiles_under_a_larger_limit(lab: Lab) -> None:
    """The limit, not the size, is what refused it."""
    answer = lab.compilation(giant(5_000), compile_memory_bytes_max=300 * MIB).run()
    assert answer["peak_bytes"] < 300 * MIB


def test_below_the_full_limit_it_is_only_too_early(lab: Lab) -> None:
    """A child that was given what the pod had left is tried again; its author has done no wrong."""
    with pytest.raises(HeadroomExceeded, match="more than the 75 MiB that the pod had") as refused:
        lab.compilation(giant(5_000), memory_bytes=75 * MIB).run()
    assert refused.value.cap_bytes == 75 * MIB
    assert refused.value.reason is Reason.WAITING_FOR_MEMORY


@pytest.mark.parametrize("wasm", [wat(PROGRAM), giant(5_000), busy(500)], ids=len)
def test_a_module_compiles_under_the_peak_that_was_learned(any_lab: Lab, wasm: bytes) -> None:
    """What a compile peaked at is enough for the next one, so a prediction can be kept to."""
    peak = any_lab.compilation(wasm).run()["peak_bytes"]
    margin = 2 * MIB  # threads do not meet in the same moment each time
    assert any_lab.compilation(wasm, memory_bytes=peak + margin).run()["compiled_bytes"] > 0


def test_half_of_its_peak_is_not_enough_for_a_large_one(lab: Lab) -> None:
    """The peak is no fiction: the limit holds what it says."""
    peak = lab.compilation(giant(5_000)).run()["peak_bytes"]
    with pytest.raises(HeadroomExceeded):
        lab.compilation(giant(5_000), memory_bytes=peak // 2).run()


def test_the_baseline_tier_takes_little_for_a_giant_function(labs: dict[Tier, Lab]) -> None:
    """What the optimizing compiler cannot fit the other one compiles in a fraction of it."""
    baseline = labs[Tier.BASELINE].compilation(giant(5_000), memory_bytes=75 * MIB).run()
    assert baseline["peak_bytes"] < 75 * MIB


def test_a_compile_beyond_its_cpu_time_is_ended(lab: Lab) -> None:
    """CPU time is bounded apart from memory, and the module is to blame."""
    with pytest.raises(WorkflowInvalid) as refused:
        lab.compilation(busy(6_000), compile_cpu_s_max=1, compile_memory_bytes_max=2048 * MIB).run()
    assert refused.value.reason is Reason.COMPILE_TIMED_OUT
    assert "more than 1 s of CPU" in refused.value.message


def test_the_baseline_compiler_beyond_its_cpu_time_is_no_verdict(labs: dict[Tier, Lab]) -> None:
    """Only the optimizing tier may call a module too slow to compile."""
    with pytest.raises(BaselineRefused, match="more than 1 s of CPU"):
        labs[Tier.BASELINE].compilation(
            busy(40_000), compile_cpu_s_max=1, compile_memory_bytes_max=4096 * MIB
        ).run()


def test_a_compile_beyond_its_wall_time_is_ended_and_tried_again(lab: Lab) -> None:
    """A machine that is too slow is not the module's fault: the refusal is a transient one."""
    with pytest.raises(EngineRefused) as refused:
        lab.compilation(
            busy(6_000), compile_wall_s_max=0, compile_memory_bytes_max=2048 * MIB
        ).run()
    assert refused.value.reason is Reason.COMPILE_TIMED_OUT


def test_a_compile_that_was_cancelled_before_it_began_starts_no_child(lab: Lab) -> None:
    """Cancelling is safe at any time, twice and too early as well."""
    compilation = lab.compilation(guest(_ECHO))
    compilation.cancel()
    compilation.cancel()
    with pytest.raises(EngineRefused, match="cancelled"):
        compilation.run()


def test_a_compile_can_be_cancelled_while_it_runs(lab: Lab) -> None:
    """The child is killed at once and the waiting thread is told why."""
    compilation = lab.compilation(busy(6_000), compile_memory_bytes_max=2048 * MIB)
    with _in_thread(compilation) as ended:
        compilation.cancel()
    assert "cancelled" in str(ended[0])


def test_a_child_that_is_killed_from_outside_is_not_the_module_s_fault(lab: Lab) -> None:
    """A kernel short of memory kills the child; the module is compiled again later."""
    compilation = lab.compilation(busy(6_000), compile_memory_bytes_max=2048 * MIB)
    with _in_thread(compilation) as ended:
        os.kill(_child(compilation), signal.SIGKILL)
    assert isinstance(ended[0], EngineRefused)
    assert "killed from outside" in str(ended[0])


def test_a_crash_of_the_compiler_itself_is_told_as_one(lab: Lab) -> None:
    """A child that ends with a signal far below its limit has not run out of memory."""
    compilation = lab.compilation(busy(6_000), compile_memory_bytes_max=1 << 45)
    with _in_thread(compilation) as ended:
        os.kill(_child(compilation), signal.SIGABRT)
    assert isinstance(ended[0], EngineRefused)
    assert "SIGABRT" in str(ended[0])


def test_a_crash_of_the_baseline_compiler_is_no_verdict(labs: dict[Tier, Lab]) -> None:
    """A module that kills one compiler is given to the other, not tried for ever."""
    compilation = labs[Tier.BASELINE].compilation(busy(40_000), compile_memory_bytes_max=1 << 45)
    with _in_thread(compilation) as ended:
        os.kill(_child(compilation), signal.SIGABRT)
    assert isinstance(ended[0], BaselineRefused)
    assert "died of SIGABRT" in str(ended[0])


def test_an_abort_near_the_limit_is_out_of_memory_without_a_word(lab: Lab) -> None:
    """Where the child dies mute, how much it had taken tells."""
    compilation = lab.compilation(busy(6_000), compile_memory_bytes_max=1 << 45)
    with _in_thread(compilation) as ended:
        compilation._peak_bytes = 1 << 45  # a fault that is hard to make on purpose
        os.kill(_child(compilation), signal.SIGABRT)
    assert isinstance(ended[0], WorkflowInvalid)
    assert ended[0].reason is Reason.COMPILE_OUT_OF_MEMORY


def _child(compilation: Compilation) -> int:
    process = compilation._process
    assert process is not None
    return process.pid


class _in_thread:  # noqa: N801 - read as a statement
    """Run a compile until the body has done its worst to the child, then see how it ended."""

    def __init__(self, compilation: Compilation) -> None:
        self._compilation = compilation
        self._ended: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> list[BaseException]:
        self._thread.start()
        while not (self._compilation._process and self._locked()):
            assert self._thread.is_alive(), self._ended
            os.sched_yield()
        return self._ended

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _locked(self) -> bool:
        status = Path(f"/proc/{_child(self._compilation)}/status").read_text()
        return "NoNewPrivs:\t1" in status

    def _run(self) -> None:
        try:
            self._compilation.run()
        except SluiceError as e:
            self._ended.append(e)
