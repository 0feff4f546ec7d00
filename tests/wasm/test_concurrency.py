import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sluice.errors import EngineRefused
from sluice.outcome import Outcome, OutcomeKind
from sluice.wasm.abi.wasi import Streams
from sluice.wasm.engine import Execution
from wasm.lab import Lab

_THREADS, _ROUNDS = 8, 40


@pytest.fixture
def lab(any_lab: Lab) -> Lab:
    """Every claim here holds on both tiers: code that serves soon is bounded like any other."""
    return any_lab


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads with stacks as deep as those of the operator's workers."""
    before = threading.stack_size(8 << 20)
    with ThreadPoolExecutor(_THREADS) as threads:
        yield threads
    threading.stack_size(before)


def _answers(lab: Lab, n: int) -> bool:
    outcome = lab.act("answer", f"{n}", n % 3)
    return (outcome.result, outcome.log, outcome.exit_code) == (
        f"{n}".encode(), f"log of {n}".encode(), n % 3
    )  # fmt: skip


def _is(kind: OutcomeKind, *act: object, **limits: object) -> Callable[[Lab, int], bool]:
    def check(lab: Lab, n: int) -> bool:
        outcome: Outcome = lab.act(*act, **limits)
        return outcome.kind is kind and outcome.log == b""

    return check


_KINDS: list[Callable[[Lab, int], bool]] = [
    _answers,
    _is(OutcomeKind.TRAPPED, "abort"),
    _answers,
    _is(OutcomeKind.FAILED, "stdout", 200_000),
    _is(OutcomeKind.TIMED_OUT, "rest", 60_000, timeout="20ms"),
    _is(OutcomeKind.TIMED_OUT, "spin", timeout="20ms"),
    _is(OutcomeKind.OUT_OF_MEMORY, "grow", 20, memory="1Mi"),
]


def test_every_thread_gets_its_own_outcome_and_streams(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """Eight threads with guests of every fate: none sees another's result, log or failure."""
    lab.act("answer", "first", 0)

    def one(n: int) -> bool:
        return _KINDS[n % len(_KINDS)](lab, n)

    assert all(pool.map(one, range(_THREADS * _ROUNDS)))


def test_one_engine_serves_several_threads(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """The executions of one workflow share nothing but their code."""
    engine = lab.engine("echo")

    def one(n: int) -> bool:
        return engine.run(_event(n)).result == _event(n).event

    assert all(pool.map(one, range(400)))


def test_sleeping_guests_do_not_hold_the_interpreter(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """While guests sleep for a minute, others start, run and end."""
    sleeping = [pool.submit(lab.act, "rest", 60_000, timeout="1s") for _ in range(_THREADS - 1)]
    for n in range(50):
        assert lab.act("answer", f"{n}", 0).result == f"{n}".encode()
    assert not any(future.done() for future in sleeping)
    assert {future.result().kind for future in sleeping} == {OutcomeKind.TIMED_OUT}


def test_a_failure_of_the_host_reaches_the_thread_it_belongs_to(
    lab: Lab, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a host function fail, its own execution is refused, and no other one."""
    read = Streams.read

    def faulty(streams: Streams, size: int) -> bytes:
        if bytes(streams.stdin[:3]) == b"bad":
            raise ZeroDivisionError("made by the test")
        return read(streams, size)

    monkeypatch.setattr(Streams, "read", faulty)
    engine = lab.engine("echo")

    def one(n: int) -> bool:
        if n % 2:
            return engine.run(_event(n)).result == _event(n).event
        with pytest.raises(EngineRefused, match="made by the test"):
            engine.run(Execution(event=b"bad"))
        return True

    assert all(pool.map(one, range(400)))


def _event(n: int) -> Execution:
    return Execution(event=f"{n}".encode() * 100)
