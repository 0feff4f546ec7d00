"""What a start, a rollout and an idle workflow cost, measured on a real API server.

Prints figures; asserts nothing, since a slow machine is no mistake. ``make bench`` runs it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from ground.controlplane import ControlPlane
from ground.manifests import Writing, distinct, write
from ground.operator import Operator, grant
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest

_CRDS = Path(__file__).parents[2] / "crds"
_WAIT_S = 900


def main() -> None:
    """Measure on a control plane of its own and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workflows", type=int, default=1000, help="idle ones")
    parser.add_argument("--tiers", default="auto", help="the operator's policy")
    parser.add_argument("--starts", type=int, default=30, help="cached starts, one by one")
    options = parser.parse_args()
    with ControlPlane() as plane, tempfile.TemporaryDirectory(prefix="sluice-bench-") as place:
        plane.kubectl("apply", "--server-side", "-f", str(_CRDS))
        plane.kubectl("wait", "--for=condition=Established", "-f", str(_CRDS))
        grant(plane)
        scene = Scene(plane, plane.create_namespace("bench"))
        config, tiers = plane.kubeconfig("operator"), f"--tiers={options.tiers}"
        operator = Operator(config, Path(place), (scene.namespace,), tiers)
        operator.start()
        try:
            _at_rest(operator)
            _starts(scene, options.starts)
            _idle(scene, operator, options.workflows, options.starts + 1)
        finally:
            operator.stop()


def _at_rest(operator: Operator) -> None:
    memory = _memory(operator.pid)
    _say("the operator at rest", f"{memory['Rss'] / 1024:.0f} MiB resident, "
         f"{memory['Anonymous'] / 1024:.0f} of it anonymous")  # fmt: skip


def _starts(scene: Scene, count: int) -> None:
    """Apply workflows whose module is cached, one by one, and wait for each."""
    scene.apply(write(guest("acts"), Writing(name="first")))
    scene.until_ready("first")
    took = []
    for i in range(count):
        body = write(guest("acts"), Writing(name=f"start-{i}")).items()
        for item in body:
            plural, group = (
                ("configmaps", "/api/v1")
                if item["kind"] == "ConfigMap"
                else ("workflows", f"/apis/{item['apiVersion']}")
            )
            began = time.monotonic()
            path = f"{group}/namespaces/{scene.namespace}/{plural}"
            answer = scene.plane.api("POST", path, item)
            if answer.status >= 300:
                sys.exit(f"the API server said {answer.status}: {answer.text}")
        scene.until_ready(f"start-{i}")
        took.append((time.monotonic() - began) * 1000)
    trips = []
    for _ in range(20):
        began = time.monotonic()
        scene.status("first")
        trips.append((time.monotonic() - began) * 1000)
    _say("apply to Ready, cached", f"p50 {statistics.median(took):.0f} ms, "
         f"p90 {sorted(took)[int(count * 0.9) - 1]:.0f} ms (polled every 50 ms); "
         f"one API round trip {statistics.median(trips):.0f} ms")  # fmt: skip


def _idle(scene: Scene, operator: Operator, count: int, before: int) -> None:
    memory = _memory(operator.pid)
    writes = _writes(operator)
    began = time.monotonic()
    for first in range(0, count, 50):
        numbers = range(first, min(first + 50, count))
        scene.apply(
            *(write(distinct(guest("acts"), n), Writing(name=f"idle-{n}")) for n in numbers)
        )
    _say("applying", f"{count} workflows in {time.monotonic() - began:.0f} s")
    ready = "sluice_workflows{state=ready}"
    wait_until(lambda: operator.metrics()[ready] == before + count, _WAIT_S, "all Ready")
    _say("all Ready", f"after {time.monotonic() - began:.0f} s")
    wait_until(lambda: _settled(operator), _WAIT_S, "all optimised and told")
    grown = _memory(operator.pid)["Anonymous"] - memory["Anonymous"]
    _say("an idle workflow", f"{grown / count:.0f} KiB anonymous, of {count}")
    _say("API writes a workflow", f"{(_writes(operator) - writes) / count:.2f}")
    operator.stop()
    began = time.monotonic()
    operator.start()
    wait_until(lambda: operator.metrics()[ready] == before + count, _WAIT_S, "all Ready again")
    took = time.monotonic() - began
    _say("warm restart", f"{count} Ready {took:.1f} s after the process began; "
         f"{_writes(operator):.0f} API writes, {operator.compiles():.0f} compiles")  # fmt: skip


def _settled(operator: Operator) -> bool:
    metrics = operator.metrics()
    return not (metrics["sluice_starts_waiting"] or metrics["sluice_starts_in_flight"])


def _writes(operator: Operator) -> float:
    metrics = operator.metrics()
    return sum(metrics[f"sluice_api_writes_total{{kind={kind}}}"] for kind in ("status", "event"))


def _memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}


def _say(what: str, text: str) -> None:
    print(f"{what:<24}{text}", flush=True)


if __name__ == "__main__":
    main()
