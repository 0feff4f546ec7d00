"""A process that accepts and runs events until it is killed, and says on stdout what it does.

``A id``: the event was acknowledged. ``B id``: its guest begins. ``F id``: its end was told.
Usage: victim.py DATA_DIR JOURNAL COUNT ACKNOWLEDGED: the ids are numbers, those below were.
"""

import asyncio
import os
import sys
from pathlib import Path

from executions.held import ECHO, A, B, C, event, of
from fakes import MemorySource, until
from sluice.errors import EngineRefused
from sluice.executions import Executions
from sluice.executions.journal import Journal
from sluice.metrics import Metrics
from sluice.outcome import Outcome
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.supply import Supply
from sluice.wasm.engine import Cancel, Engine, Execution
from sluice.wasm.runtime import Runtime
from sluice.workflow import WorkflowKey

_KEYS = (A, B, C)
_SENDERS = 24


def say(word: str, id_: str) -> None:
    os.write(1, f"{word} {id_}\n".encode())  # whole or not at all: it is shorter than a pipe's page


class Saying(Engine):
    def run(self, execution: Execution, cancel: Cancel | None = None) -> Outcome:
        say("B", execution.event.partition(b'"id":"')[2].partition(b'"')[0].decode())
        return super().run(execution, cancel)


def told(_: WorkflowKey, run: Run) -> None:
    assert run.outcome.ok, run.outcome
    say("F", run.id)


async def send(executions: Executions, ids: "asyncio.Queue[int]") -> None:
    while not ids.empty():
        id_ = ids.get_nowait()
        while True:
            try:
                await executions.accept(_KEYS[id_ % 3], event(id_, id=f"{id_}"))
            except EngineRefused:
                await asyncio.sleep(0.001)  # the queue is full, as it may well be
            else:
                break
        say("A", f"{id_}")


async def main(data: Path, journal: Path, ids: list[int]) -> None:
    settings = Settings(
        data_dir=data, workers=2, attempts_max=10_000, ids_remembered_max=100_000,
        events_memory_bytes_max=4096,
    )  # fmt: skip
    runtime, source = Runtime(settings), MemorySource()
    source.put("team", "parts", {"part": ECHO})
    supply = Supply(source, runtime, settings, Metrics())
    module = (await supply.module(of(A))).module
    executions = Executions(Journal(journal, settings, Metrics()), settings, Metrics(), told)
    for key in _KEYS:
        executions.attach(of(key), Saying(runtime, module, of(key), ""))
    waiting = asyncio.Queue[int]()
    for id_ in ids:
        waiting.put_nowait(id_)
    await asyncio.gather(*(send(executions, waiting) for _ in range(_SENDERS)))
    await until(lambda: not any(line.entries for line in executions._lines.values()))
    await executions.drain()
    await executions.close()


if __name__ == "__main__":
    unsent = [int(id_) for id_ in sys.stdin.read().split()]
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), unsent))
