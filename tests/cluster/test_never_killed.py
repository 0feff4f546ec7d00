"""The promise: no restart and no rollout gets the pod killed for memory.

A real operator in a real memory cgroup, on a real API server. ``make prove`` runs it with 200
workflows and 20 restarts; the suite runs the same with fewer.
"""

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ground.cgroup import MemoryCgroup, memory_cgroup, unavailable
from ground.controlplane import ControlPlane
from ground.manifests import Writing, Written, distinct, write
from ground.operator import Operator
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest
from wasm.shapes import giant

_LIMIT_BYTES = 256 << 20
_WHOLE = bool(os.environ.get("SLUICE_PROOF"))
_WORKFLOWS, _RESTARTS = (200, 20) if _WHOLE else (16, 3)
_LARGE_EVERY = 5  # one in so many is 3.7 MB of Go, whose compile peaks at 115 MiB
_READY_S_MAX = 900
_REASONS_OF_A_GIANT = {"WaitingForMemory", "CompileOutOfMemory"}


@dataclass
class Pod:
    """An operator in a cgroup, as a kubelet would run it."""

    operator: Operator
    cgroup: MemoryCgroup
    scene: Scene

    def ready(self) -> int:
        return int(self.operator.metrics()["sluice_workflows{state=ready}"])

    def until_ready(self, count: int) -> None:
        wait_until(lambda: self.ready() >= count, _READY_S_MAX, f"{count} workflows are ready")


@pytest.fixture
def pod(plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Pod]:
    if reason := unavailable():
        pytest.skip(reason)
    with memory_cgroup(_LIMIT_BYTES) as cgroup:
        operator = Operator(
            plane.kubeconfig("operator"), tmp_path, (namespace,), within=cgroup.command
        )
        yield Pod(operator, cgroup, Scene(plane, namespace))
        operator.stop()


def _workflow(number: int) -> Written:
    large = number % _LARGE_EVERY == 0
    wasm = distinct(guest("report" if large else "acts"), number)
    how = Writing(name=f"w{number}", parts=6 if large else 1, spec={"args": ["answer", "yes"]})
    return write(wasm, how)


def _giant() -> Written:
    spec = {"tiers": "optimizing"}
    return write(giant(60_000), Writing(name="giant", parts=2, spec=spec))


@pytest.mark.slow
def test_never_killed(pod: Pod) -> None:
    """Cold, warm, killed in the middle, beside a compile giant: no kill, and all are Ready."""
    chance = random.Random(1)
    for number in range(_WORKFLOWS):
        pod.scene.apply(_workflow(number))
    pod.scene.apply(_giant())
    pod.operator.start()
    pod.until_ready(_WORKFLOWS)
    for restart in range(_RESTARTS):
        pod.operator.stop()
        if restart % 4 == 1:
            shutil.rmtree(pod.operator.data)  # as on a new node: all of it is compiled again
        pod.operator.start(ready=False)
        pod.operator.until_log("answered on port")
        pod.until_ready(chance.randrange(_WORKFLOWS + 1))
        pod.operator.kill()
        pod.operator.start()
        pod.until_ready(_WORKFLOWS)
        assert pod.cgroup.oom_kills() == 0
    assert pod.scene.run("w1", "last")["result"] == "yes"
    wait_until(
        lambda: pod.scene.condition("giant").get("reason") in _REASONS_OF_A_GIANT,
        _READY_S_MAX,
        "the giant says what it lacks",
    )
