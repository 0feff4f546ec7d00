import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ground.waiting import wait_until
from sluice.outcome import Outcome, OutcomeKind
from sluice.wasm.engine import Cancel, Engine, Execution
from wasm.lab import PROGRAM, Lab, wat

_WHY = (OutcomeKind.CANCELLED, "a newer one replaces it")


@pytest.fixture
def lab(any_lab: Lab) -> Lab:
    """Every claim here holds on both tiers: code that serves soon is bounded like any other."""
    return any_lab


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    before = threading.stack_size(8 << 20)
    with ThreadPoolExecutor(4) as threads:
        yield threads
    threading.stack_size(before)


class _Watched(Cancel):
    """A cancel that tells when its guest has gone to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = threading.Event()

    def wait(self, seconds: float) -> None:
        self.asleep.set()
        super().wait(seconds)


def _begun(pool: ThreadPoolExecutor, engine: Engine, cancel: Cancel) -> Future[Outcome]:
    running = pool.submit(engine.run, Execution(event=b"{}"), cancel)
    wait_until(lambda: engine._running, 30, "the guest begins")
    return running


def _end(outcome: Outcome) -> tuple[OutcomeKind, str]:
    return outcome.kind, outcome.message


def test_a_busy_guest_is_cancelled(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """A loop without end has one when somebody cancels it, and the outcome is what they said."""
    cancel = Cancel()
    running = _begun(pool, lab.engine("acts", "spin"), cancel)
    cancel.cancel(*_WHY)
    assert _end(running.result()) == _WHY


def test_a_sleeping_guest_is_cancelled(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """An hour's sleep ends when somebody cancels it."""
    cancel = _Watched()
    running = _begun(pool, lab.engine("acts", "rest", "3600000", limits={"timeout": "2h"}), cancel)
    assert cancel.asleep.wait(30)
    cancel.cancel(*_WHY)
    assert _end(running.result()) == _WHY


def test_a_start_function_is_cancelled(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """Code that runs while the module is instantiated can be ended like the rest."""
    cancel = Cancel()
    endless = wat(f"{PROGRAM} (func $s (loop (br 0))) (start $s)")
    running = _begun(pool, lab.engine(endless), cancel)
    cancel.cancel(*_WHY)
    assert _end(running.result()) == _WHY


def test_what_was_written_before_a_cancel_is_kept(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """The log of a cancelled execution is there to look at."""
    cancel = _Watched()
    running = _begun(pool, lab.engine("acts", "note", "3600000", limits={"timeout": "2h"}), cancel)
    assert cancel.asleep.wait(30)
    cancel.cancel(*_WHY)
    assert running.result().log == b"before"


def test_a_cancel_before_the_begin_starts_nothing(lab: Lab) -> None:
    """What was cancelled while it waited does not run at all."""
    cancel = Cancel()
    cancel.cancel(*_WHY)
    outcome = lab.engine("acts", "answer", "done", "0").run(Execution(event=b"{}"), cancel)
    assert _end(outcome) == _WHY
    assert outcome.result == b""


def test_a_cancel_after_the_end_changes_nothing(lab: Lab) -> None:
    """An execution that has completed stays completed."""
    cancel = Cancel()
    outcome = lab.engine("acts", "answer", "done", "0").run(Execution(event=b"{}"), cancel)
    cancel.cancel(*_WHY)
    assert _end(outcome) == (OutcomeKind.COMPLETED, "")


def test_the_first_cancel_counts() -> None:
    """Two that cancel the same execution get one outcome, that of the first."""
    cancel = Cancel()
    cancel.cancel(OutcomeKind.TIMED_OUT, "activeDeadlineSeconds 60 are over")
    cancel.cancel(*_WHY)
    assert cancel.why == (OutcomeKind.TIMED_OUT, "activeDeadlineSeconds 60 are over")


def test_a_cancel_reaches_its_own_execution_alone(lab: Lab, pool: ThreadPoolExecutor) -> None:
    """Of several executions of one engine, the others go on."""
    engine = lab.engine("acts", "spin", limits={"timeout": "1s"})
    cancels = [Cancel() for _ in range(4)]
    running = [pool.submit(engine.run, Execution(event=b"{}"), cancel) for cancel in cancels]
    wait_until(lambda: engine._running == 4, 30, "all four run")
    for cancel in cancels[::2]:
        cancel.cancel(*_WHY)
    kinds = [future.result().kind for future in running]
    assert kinds == [OutcomeKind.CANCELLED, OutcomeKind.TIMED_OUT] * 2
