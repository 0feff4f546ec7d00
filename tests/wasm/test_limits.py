"""Each bound of one execution in pairs: who keeps it is not troubled, who breaks it is ended."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sluice.bench.guests import OFFENDERS
from sluice.outcome import Outcome, OutcomeKind
from sluice.wasm.abi import wasi
from sluice.wasm.config import Tier
from wasm.lab import PROGRAM, Lab, wat, whole

_WASI = '(import "wasi_snapshot_preview1"'


@pytest.fixture
def lab(any_lab: Lab) -> Lab:
    """Every claim here holds on both tiers: code that serves soon is bounded like any other."""
    return any_lab


def _offend(lab: Lab, name: str, **limits: str) -> Outcome:
    offender = OFFENDERS[name]
    return lab.run(whole(offender.wat), limits=offender.limits | limits)


@pytest.mark.parametrize("name", OFFENDERS)
def test_no_offender_outlives_its_limits(lab: Lab, name: str) -> None:
    """Whatever a guest takes without end, it is ended for it, and the next one runs."""
    outcome = _offend(lab, name, timeout="300ms")
    assert outcome.kind in {OutcomeKind.TIMED_OUT, OutcomeKind.TRAPPED, OutcomeKind.FAILED}
    assert lab.act("answer", "next", 0).result == b"next"


def test_cpu_within_the_limit_is_had(lab: Lab) -> None:
    """A guest that needs less CPU than limits.cpu completes, and its rest does not count."""
    outcome = lab.act("rest", 300, cpu="200ms")
    assert outcome.kind is OutcomeKind.COMPLETED
    assert outcome.cpu_s < 0.2 < outcome.duration_s


def test_cpu_beyond_the_limit_ends_the_guest(lab: Lab) -> None:
    """One that needs more is ended long before its time is over, and told which limit it was."""
    outcome = lab.act("spin", cpu="200ms", timeout="1h")
    assert outcome.kind is OutcomeKind.TIMED_OUT
    assert outcome.message == "used more than limits.cpu 200ms of CPU"
    assert outcome.cpu_s >= 0.2


def test_what_the_host_does_for_a_guest_is_the_guest_s_cpu(lab: Lab) -> None:
    """Nobody gets around limits.cpu by letting the host work."""
    outcome = _offend(lab, "calls of the host", cpu="200ms", timeout="1h")
    assert "limits.cpu 200ms" in outcome.message


class _Time:
    """The clock that host functions look at, which counts how often they rest."""

    def __init__(self) -> None:
        self.rests = 0

    def sleep(self, seconds: float) -> None:
        self.rests += 1
        time.sleep(seconds)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def test_a_guest_that_only_calls_the_host_lets_others_go_first(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of calls stands aside again and again; a few calls cost no rest at all."""
    clock = _Time()
    monkeypatch.setattr(wasi, "time", clock)
    assert lab.act("answer", "few calls", 0).ok
    assert clock.rests == 0
    assert lab.act("stderr", 640 * 1024).ok  # a KiB a call
    assert clock.rests == 640 // wasi._CALLS_UNTIL_REST


def test_endless_tail_calls_are_ended(labs: dict[Tier, Lab]) -> None:
    """A loop without a loop, which never fills the stack, ends at the time limit too."""
    endless = wat('(memory (export "memory") 1) (func $f (export "_start") (return_call $f))')
    outcome = labs[Tier.OPTIMIZING].run(endless, limits={"timeout": "100ms"})
    assert outcome.kind is OutcomeKind.TIMED_OUT


def test_deep_recursion_is_a_trap(lab: Lab) -> None:
    """A guest that runs out of stack is stopped, and the process lives."""
    assert lab.act("deep", 100).kind is OutcomeKind.COMPLETED
    endless = wat('(memory (export "memory") 1) (func $f (export "_start") (call $f))')
    outcome = lab.run(endless)
    assert outcome.kind is OutcomeKind.TRAPPED
    assert "call stack exhausted" in outcome.message


_WIDE = "".join(
    f"(local.set {i} (i64.add (local.get {i}) (i64.load (i32.const {8 * i}))))" for i in range(2000)
)


@pytest.mark.parametrize("body", [
    f"(local {'i64 ' * 20_000}) {_WIDE} (call $f) {_WIDE}",
    "(drop (call $w (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 64))) (call $f)",
])  # fmt: skip
def test_the_stack_of_a_worker_is_never_overrun(lab: Lab, body: str) -> None:
    """Frames of 160 KB, or the host's own frames on top, end as a trap on 1 MiB of stack too."""
    wasm = wat(
        f'{_WASI} "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        f'(memory (export "memory") 1) (func $f (export "_start") {body})'
    )
    before = threading.stack_size(1 << 20)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(lab.run, wasm).result()
    threading.stack_size(before)
    assert outcome.kind is OutcomeKind.TRAPPED
    assert "call stack exhausted" in outcome.message


@pytest.mark.parametrize("act", [("spin",), ("rest", 3_600_000)])
def test_the_time_limit_ends_a_guest(lab: Lab, act: tuple[object, ...]) -> None:
    """Neither a busy loop nor an hour's sleep outlives limits.timeout."""
    outcome = lab.act(*act, timeout="100ms")
    assert outcome.kind is OutcomeKind.TIMED_OUT
    assert "limits.timeout 100ms" in outcome.message
    assert outcome.duration_s >= 0.1


def test_a_sleep_within_the_time_limit_is_slept(lab: Lab) -> None:
    """A guest may rest; what it waits for comes, and it costs no CPU."""
    outcome = lab.act("rest", 30, timeout="1m")
    assert (outcome.kind, outcome.result) == (OutcomeKind.COMPLETED, b"rested")
    assert outcome.duration_s >= 0.03


def test_a_start_function_runs_under_the_same_limits(lab: Lab) -> None:
    """Code that runs while the module is instantiated is bounded and heard like the rest."""
    spin = wat(f"{PROGRAM} (func $s (loop (br 0))) (start $s)")
    assert lab.run(spin, limits={"timeout": "100ms"}).kind is OutcomeKind.TIMED_OUT
    write = wat(
        f'{_WASI} "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        f'{PROGRAM} (data (i32.const 0) "\\08\\00\\00\\00\\02\\00\\00\\00hi")'
        "(func $s (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))"
        "(start $s)"
    )
    assert lab.run(write).result == b"hi"


def test_memory_within_the_limit_is_had(lab: Lab) -> None:
    """A guest that stays within limits.memory gets what it asks for."""
    outcome = lab.act("grow", 8, memory="10Mi")
    assert (outcome.kind, outcome.result) == (OutcomeKind.COMPLETED, b"8")
    assert 8 << 20 < outcome.memory_bytes <= 10 << 20


def test_memory_beyond_the_limit_is_refused(lab: Lab) -> None:
    """A guest that asks for more is refused it, and the outcome says which limit."""
    outcome = lab.act("grow", 64, memory="10Mi")
    assert outcome.kind is OutcomeKind.OUT_OF_MEMORY
    assert "limits.memory 10Mi" in outcome.message
    assert outcome.memory_bytes <= 10 << 20


def test_a_module_that_begins_above_the_memory_limit_is_told(lab: Lab) -> None:
    """A module whose memory is too large from the start runs out of memory, not of luck."""
    large = wat('(memory (export "memory") 200) (func (export "_start"))')
    assert lab.run(large, limits={"memory": "13Mi"}).kind is OutcomeKind.COMPLETED
    outcome = lab.run(large, limits={"memory": "12Mi"})
    assert outcome.kind is OutcomeKind.OUT_OF_MEMORY


def test_a_garbage_collected_heap_is_memory_too(labs: dict[Tier, Lab]) -> None:
    """Objects of the WebAssembly GC proposal do not slip past limits.memory."""
    hoard = wat(
        "(type $s (struct (field i64) (field (ref null $s))))"
        "(global $g (mut (ref null $s)) (ref.null $s))"
        '(memory (export "memory") 1) (func (export "_start") (loop'
        " (global.set $g (struct.new $s (i64.const 1) (global.get $g))) (br 0)))"
    )
    outcome = labs[Tier.OPTIMIZING].run(hoard, limits={"memory": "4Mi"})
    assert outcome.kind is OutcomeKind.OUT_OF_MEMORY


def test_tables_are_bounded(lab: Lab) -> None:
    """A table cannot be used as memory without a limit."""

    def grows_by(elements: int) -> bytes:
        return wat(
            '(table $t 1 funcref) (memory (export "memory") 1) (func (export "_start")'
            f" (if (i32.eq (table.grow $t (ref.null func) (i32.const {elements}))"
            " (i32.const -1)) (then unreachable)))"
        )

    assert lab.run(grows_by(100_000)).kind is OutcomeKind.COMPLETED
    assert lab.run(grows_by(1_000_000)).kind is OutcomeKind.TRAPPED
    assert lab.run(wat(f"(table 1000000 funcref) {PROGRAM}")).kind is OutcomeKind.REFUSED


def test_a_response_within_its_limit_is_kept_whole(lab: Lab) -> None:
    """A result of exactly limits.response is no byte too long."""
    outcome = lab.act("stdout", 102_400)
    assert (outcome.kind, len(outcome.result)) == (OutcomeKind.COMPLETED, 102_400)


def test_a_response_beyond_its_limit_ends_the_guest(lab: Lab) -> None:
    """One byte more fails the run, and the message says which limit."""
    outcome = lab.act("stdout", 102_401)
    assert outcome.kind is OutcomeKind.FAILED
    assert "limits.response 100Ki" in outcome.message
    assert len(outcome.result) <= 102_400


def test_a_log_is_cut_to_its_tail(lab: Lab) -> None:
    """The last words of a guest are kept, however much it logged; a log never fails a run."""
    outcome = lab.act("tail", 500_000, log="1Ki")
    assert outcome.kind is OutcomeKind.COMPLETED
    assert len(outcome.log) == 1024
    assert outcome.log.endswith(b"x last")
    assert lab.act("tail", 10).log == b"first xxxxxxxxxx last"


def test_a_write_of_overlapping_vectors_does_not_block_the_host(lab: Lab) -> None:
    """1,024 vectors over the whole memory cost the host its bound, not a hundred GiB of copies."""
    flood = wat(
        f'{_WASI} "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))'
        '(memory (export "memory") 60) (func (export "_start") (local $i i32)'
        " (loop $l"
        "  (i32.store offset=4 (i32.mul (local.get $i) (i32.const 8)) (i32.const 3900000))"
        "  (local.set $i (i32.add (local.get $i) (i32.const 1)))"
        "  (br_if $l (i32.lt_u (local.get $i) (i32.const 1024))))"
        " (if (call $w (i32.const 2) (i32.const 0) (i32.const 1024) (i32.const 9000))"
        "  (then unreachable)))"
    )
    outcome = lab.run(flood, limits={"log": "1Ki"})
    assert (outcome.kind, len(outcome.log)) == (OutcomeKind.COMPLETED, 1024)
    assert outcome.cpu_s < 1


def test_a_refused_growth_is_the_guest_s_to_handle(lab: Lab) -> None:
    """memory.grow beyond the limit answers -1; a guest that goes on with what it has completes."""
    modest = wat(
        '(memory (export "memory") 1) (func (export "_start")'
        " (loop $l (br_if $l (i32.ne (i32.const -1) (memory.grow (i32.const 1))))))"
    )
    outcome = lab.run(modest, limits={"memory": "2Mi"})
    assert (outcome.kind, outcome.memory_bytes) == (OutcomeKind.COMPLETED, 2 << 20)


def test_the_number_of_tables_is_bounded(lab: Lab) -> None:
    """Four tables are had; a module that asks for a fifth is not started."""
    tables = "(table 1 funcref)"
    assert lab.run(wat(f"{tables * 4} {PROGRAM}")).kind is OutcomeKind.COMPLETED
    assert lab.run(wat(f"{tables * 5} {PROGRAM}")).kind is OutcomeKind.REFUSED


def test_a_log_of_few_lines_is_kept_whole(lab: Lab) -> None:
    """As many lines as are allowed are all there, whether the last one is ended or not."""
    most = lab.settings.log_lines_max
    assert _logged(lab, "\n" * most).count(b"\n") == most
    assert _logged(lab, "\n" * (most - 1) + "x") == b"\n" * (most - 1) + b"x"


def test_a_log_of_many_lines_is_cut_to_the_last(lab: Lab) -> None:
    """A flood of short lines does not become a flood of records."""
    most = lab.settings.log_lines_max
    log = _logged(lab, "first\n" + "x\n" * (most - 1) + "last")
    assert len(log.splitlines()) == most
    assert log.endswith(b"x\nlast")


def _logged(lab: Lab, text: str) -> bytes:
    return lab.run("acts", "log", event=text.encode()).log
