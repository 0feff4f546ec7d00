import time

import pytest

from sluice.outcome import OutcomeKind
from sluice.wasm.config import Tier
from sluice.wasm.engine import Execution
from wasm.lab import Lab, wat

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
