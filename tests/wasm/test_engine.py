import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sluice.outcome import OutcomeKind
from sluice.wasm.config import Tier
from sluice.wasm.engine import Execution
from wasm.lab import PROGRAM, Lab, wat

_WASI = '(import "wasi_snapshot_preview1"'


@pytest.fixture
def lab(any_lab: Lab) -> Lab:
    """Every claim here holds on both tiers: code that serves soon is bounded like any other."""
    return any_lab


def test_an_echo_gives_back_what_came_in(lab: Lab) -> None:
    """The event reaches the guest's stdin whole, and its stdout is the result."""
    event = b"{" + b"x" * 50_000 + b"}"
    outcome = lab.run("echo", event=event)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.COMPLETED, 0)
    assert outcome.result == event


def test_a_guest_is_given_its_args_env_and_config_and_no_more(lab: Lab) -> None:
    """The environment is what the spec grants; nothing of the operator's leaks into it."""
    spec = {"env": [{"name": "A", "value": "1"}]}
    engine = lab.engine("acts", "env", config="c", **spec)
    assert engine.run(_nothing()).result == b"A=1\nSLUICE_CONFIG=c\n"
    assert lab.act("args", "x y", "").result == b"flow\nargs\nx y\n\n"


def test_nothing_of_the_host_is_within_reach(lab: Lab) -> None:
    """No file, no directory, no descriptor and no socket of the host can be opened or used."""
    outcome = lab.act("pry")
    assert (outcome.kind, outcome.result) == (OutcomeKind.COMPLETED, b"")


def test_chance_and_clocks_work(lab: Lab) -> None:
    """Two runs draw different random bytes, and the wall clock is the host's."""
    assert lab.act("chance").result != lab.act("chance").result
    wall, _ = map(int, lab.act("now").result.split())
    assert abs(wall - time.time()) < 60


@pytest.mark.parametrize("code", [1, 125, 126, 255, -1])
def test_an_exit_code_is_told(lab: Lab, code: int) -> None:
    """Any code but 0 is a failure that names it, those above WASI's own range as well."""
    outcome = lab.act("exit", code)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.FAILED, code)
    assert outcome.message == f"exit code {code}"


def test_exit_0_is_success(lab: Lab) -> None:
    """A program that ends itself with 0 has completed."""
    assert lab.act("exit", 0).kind is OutcomeKind.COMPLETED


def test_a_failing_guest_s_result_and_log_are_kept(lab: Lab) -> None:
    """What was written before a failure is there to look at."""
    outcome = lab.act("answer", "half", 7)
    assert (outcome.kind, outcome.result, outcome.log) == (
        OutcomeKind.FAILED,
        b"half",
        b"log of half",
    )


@pytest.mark.parametrize(("act", "words"), [("abort", "unreachable"), ("divide", "divide by zero")])
def test_a_trap_says_which(lab: Lab, act: str, words: str) -> None:
    """The message is the one line that says why, not a backtrace."""
    outcome = lab.act(act)
    assert outcome.kind is OutcomeKind.TRAPPED
    assert outcome.message.startswith("wasm trap:")
    assert words in outcome.message


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


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("fd_write", (1, 0xFFFFFFF8, 1, 0)),
        ("fd_write", (2, 0, 0xFFFFFFFF, 0)),
        ("fd_write", (1, 0, 0, 0xFFFFFFFF)),
        ("fd_read", (0, 65_532, 1, 0)),
        ("fd_read", (0, 0, 1025, 0)),
        ("poll_oneoff", (0xFFFFFFFF, 0, 1, 0)),
        ("poll_oneoff", (0, 65_535, 1, 0)),
    ],
)
def test_pointers_outside_the_memory_are_an_error_of_the_guest(
    lab: Lab, function: str, arguments: tuple[int, ...]
) -> None:
    """Hostile pointers get EFAULT as their answer; neither the host nor its memory is touched."""
    given = " ".join(f"(i32.const {argument})" for argument in arguments)
    guest = wat(
        f'{_WASI} "{function}" (func $f (param i32 i32 i32 i32) (result i32)))'
        f'{_WASI} "proc_exit" (func $exit (param i32)))'
        '(memory (export "memory") 1) (data (i32.const 8) "\\ff\\ff\\ff\\ff\\ff\\ff\\ff\\ff")'
        f'(func (export "_start") (call $exit (call $f {given})))'
    )
    assert lab.run(guest).exit_code == 21


@pytest.mark.parametrize("length", [1 << 26, 0xFFFFFFFF])
def test_randomness_without_measure_is_the_guest_s_failure(lab: Lab, length: int) -> None:
    """A request for gigabytes of random bytes traps; it is never the operator's failure."""
    greedy = wat(
        f'{_WASI} "random_get" (func $r (param i32 i32) (result i32))) (memory (export "memory") 1)'
        f'(func (export "_start") (drop (call $r (i32.const 0) (i32.const {length}))))'
    )
    assert lab.run(greedy).kind is OutcomeKind.TRAPPED


def test_poll_tells_which_streams_are_ready(lab: Lab) -> None:
    """Standard streams are always ready, and what is not open is an error of its own event."""
    assert lab.act("poll").result == b"3 in=1 out=1 bad=1"


def test_an_uncaught_exception_of_the_guest_is_a_trap(labs: dict[Tier, Lab]) -> None:
    """A thrown WebAssembly exception is told as one."""
    outcome = labs[Tier.OPTIMIZING].run(
        wat('(tag $t) (memory (export "memory") 1) (func (export "_start") (throw $t))')
    )
    assert outcome.kind is OutcomeKind.TRAPPED
    assert "exception" in outcome.message


def test_the_words_of_a_runtime_tell_of_memory(lab: Lab) -> None:
    """A guest that dies of a refused allocation is named for it, even before its memory is full."""
    assert lab.act("oom").kind is OutcomeKind.OUT_OF_MEMORY


def _nothing() -> Execution:
    return Execution(event=b"")
