"""Many workflows at once, whose capabilities answer from other threads, and none disturbs one."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from sluice.cre.proto import sdk_pb2 as sdk
from sluice.errors import EngineRefused
from sluice.wasm.cre_engine import CreEngine
from wasm.cre_lab import Cre, Helper, any_of, firing, needs_go
from wasm.lab import Lab

pytestmark = needs_go
_SECONDS = 60 if os.environ.get("SLUICE_PROOF") else 4
_WORKFLOWS = 10


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads with stacks as deep as those of the operator's workers."""
    before = threading.stack_size(8 << 20)
    with ThreadPoolExecutor(count) as pool:
        yield pool
    threading.stack_size(before)


class _Elsewhere(Helper):
    """A helper whose capabilities answer from threads of their own, like the operator's loop."""

    def __init__(self, name: str, pool: ThreadPoolExecutor) -> None:
        super().__init__(execution_id=name, node_ns=lambda: 5)
        self.call = lambda request: pool.submit(self._answer, request)

    def _answer(self, request: sdk.CapabilityRequest) -> sdk.CapabilityResponse:
        said = f"{self.execution_id}:{request.callback_id}:{request.payload.value.decode()}"
        return sdk.CapabilityResponse(payload=any_of(said))


def _script(n: int) -> list[str]:
    calls = [f"call c@1 M {i} {n}-{i}" for i in range(1, 6)]
    return [
        "mode 1", f"log {n}", "config", "seed 1", "now", *calls, f"work {20_000 * (n % 3)}",
        f"secrets 1 s{n}/main", "await 4096 5 4 3 2 1", "reveal 4096 1", f"log {n} is over",
    ]  # fmt: skip


def _run(engine: CreEngine, n: int, pool: ThreadPoolExecutor) -> tuple[bytes, bytes, list[str]]:
    helper = _Elsewhere(f"execution-{n}", pool)
    outcome = engine.run(firing(*_script(n), helper=helper))
    assert outcome.ok, outcome
    return outcome.result, outcome.log, helper.logged


def test_ten_workflows_on_two_threads_do_as_they_do_alone(lab: Lab) -> None:
    """Results, logs and order are equal to those of each alone, run after run."""
    engines = [Cre(lab).engine(config=f"config {n}") for n in range(_WORKFLOWS)]
    with _threads(2) as guests, _threads(2) as answers:
        alone = [_run(engine, n, answers) for n, engine in enumerate(engines)]
        assert len({result for result, _, _ in alone}) == _WORKFLOWS
        until, runs = time.monotonic() + _SECONDS, 0
        while time.monotonic() < until:
            at_once: list[Future[tuple[bytes, bytes, list[str]]]] = [
                guests.submit(_run, engine, n, answers) for n, engine in enumerate(engines)
            ]
            assert [future.result() for future in at_once] == alone
            runs += 1
    assert runs > 1


def test_a_host_that_fails_one_execution_fails_no_other(lab: Lab) -> None:
    """What is raised in one guest's host function never reaches another thread's guest."""
    engine = Cre(lab).engine()

    def broken() -> int:
        raise ZeroDivisionError("made by the test")

    def one(n: int) -> bool:
        if n % 2:
            return engine.run(firing("mode 1", "now", "id")).result.endswith(b'\\n0"')
        with pytest.raises(EngineRefused, match="made by the test"):
            engine.run(firing("mode 1", "now", helper=Helper(don_ns=broken)))
        return True

    with _threads(2) as pool:
        assert all(pool.map(one, range(300)))
