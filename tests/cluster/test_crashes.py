"""The operator ends, by the kernel or by the kubelet, at every moment; the next one goes on."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ground.controlplane import ControlPlane
from ground.manifests import Writing, Written, distinct, write
from ground.operator import Operator
from ground.proxy import Proxy
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest
from sluice.workflow import RUN_AT

StartOperator = Callable[..., Operator]
_GRACE_S = 30  # of a pod


def _acts(name: str, *args: str, number: int = 0, **spec: Any) -> Written:
    how = Writing(name=name, parts=3, spec={"args": list(args), **spec})
    return write(distinct(guest("acts"), number), how)


def _slow(name: str = "slow") -> Written:
    """Return a workflow that takes seconds to compile."""
    return write(guest("report"), Writing(name=name, parts=6))


@pytest.fixture
def proxy(plane: ControlPlane, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        yield proxy


def _ask(scene: Scene, name: str, token: str) -> None:
    text = json.dumps({"metadata": {"annotations": {RUN_AT: token}}})
    scene.kubectl("patch", "slw", name, "--type=merge", "-p", text)


def _tokens(scene: Scene, name: str) -> list[str]:
    return [run["id"] for run in scene.status(name).get("executions", ())]


def _probe() -> Written:
    return _acts("probe", suspend=True)


def _begin(scene: Scene, name: str, token: str) -> None:
    """Ask for a run that takes long, and return once the operator has taken the request up."""
    _ask(scene, name, token)
    # What changes later is seen later: when this one's is refused, that one's has been seen.
    _ask(scene, "probe", token)
    wait_until(
        lambda: scene.status("probe").get("lastHandledRunAt") == token, 20, "it has been seen"
    )
    assert token not in _tokens(scene, name)


def _results(scene: Scene, name: str) -> list[str | None]:
    return [run.get("result") for run in scene.status(name).get("executions", ())]


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _files(operator: Operator, folder: str) -> list[str]:
    return sorted(path.name for path in (operator.data / folder).glob("*"))


def _ready(operator: Operator) -> float:
    return operator.metrics()["sluice_workflows{state=ready}"]


def _compiled(operator: Operator) -> float:
    metrics = operator.metrics()
    return sum(v for k, v in metrics.items() if k.startswith("sluice_compiles_total{result=comp"))


def _completed(operator: Operator) -> float:
    return operator.metrics()["sluice_executions_total{outcome=Completed}"]


class TestKilled:
    """With SIGKILL: nothing is said, nothing is cleared away."""

    def test_while_a_module_is_assembled(
        self, scene: Scene, start_operator: StartOperator, proxy: Proxy
    ) -> None:
        """Half a binary on disk is never taken for one; it is read anew and cleared away."""
        operator = start_operator(kubeconfig=proxy.kubeconfig)
        hold = proxy.hold(lambda _, path: path.endswith("/configmaps/acts-2"))
        scene.apply(_acts("acts", "answer", "whole"))
        wait_until(lambda: hold.held, 20, "two parts of three are read")
        assert _files(operator, "assembling")
        operator.kill()
        hold.release()
        operator.start()
        scene.until_ready("acts")
        assert _files(operator, "assembling") == []
        assert scene.run("acts", "after")["result"] == "whole"

    def test_while_a_module_is_compiled(self, scene: Scene, start_operator: StartOperator) -> None:
        """The compile child dies with the operator, and what it left is not a cache entry."""
        operator = start_operator("--tiers=optimizing")
        scene.apply(_slow())
        (child,) = wait_until(operator.children, 20, "a compile child runs")
        operator.kill()
        wait_until(lambda: _gone(child), 5, "the child is gone")
        operator.start()
        scene.until_ready("slow")
        assert _files(operator, "assembling") == []
        assert operator.metrics()["sluice_cache_lookups_total{result=hit}"] == 0
        assert _compiled(operator) == 1

    def test_while_many_start(self, scene: Scene, start_operator: StartOperator) -> None:
        """Those that were done come from the cache, the others start; in the end all serve."""
        operator = start_operator("--starts-max=2", "--tiers=optimizing")
        names = [f"acts-{i}" for i in range(6)]
        scene.apply(*(_acts(name, "answer", name, number=i) for i, name in enumerate(names)))
        wait_until(lambda: _ready(operator) >= 2, 20, "two serve")
        operator.kill()
        operator.start()
        wait_until(lambda: _ready(operator) == len(names), 30, "all serve")
        scene.until_ready(*names)
        hits = operator.metrics()["sluice_cache_lookups_total{result=hit}"]
        assert hits >= 2
        assert hits + _compiled(operator) == len(names)
        assert [scene.run(name, "after")["result"] for name in names] == names

    def test_right_after_ready_and_again(self, scene: Scene, start_operator: StartOperator) -> None:
        """The cache entry that the first one wrote is whole, however often it is killed."""
        operator = start_operator()
        scene.apply(_acts("acts", "answer", "here"))
        scene.until_ready("acts")
        for token in ("one", "two"):
            operator.kill()
            operator.start()
            wait_until(lambda: _ready(operator) == 1, 20, "it serves")
            assert _compiled(operator) == 0
            assert scene.run("acts", token)["result"] == "here"

    def test_in_the_middle_of_a_run(self, scene: Scene, start_operator: StartOperator) -> None:
        """A run that was asked for and cut off is run, under its id; a finished one never again."""
        operator = start_operator()
        scene.apply(_acts("acts", "answer", "x"), _probe())
        scene.until_ready("acts")
        scene.run("acts", "finished")
        scene.patch("acts", {"args": ["spin"]})
        scene.until_ready("acts")
        _begin(scene, "acts", "cut-off")
        operator.kill()
        assert scene.status("acts")["lastHandledRunAt"] == "finished"
        scene.patch("acts", {"args": ["answer", "x"]})
        operator.start()
        wait_until(lambda: _tokens(scene, "acts") == ["cut-off", "finished"], 20, "it is run")
        operator.kill()
        operator.start()
        wait_until(lambda: _ready(operator) == 1, 20, "it serves")
        scene.run("acts", "next")
        assert _tokens(scene, "acts") == ["next", "cut-off", "finished"]
        assert _completed(operator) == 1


class TestTerminated:
    """With SIGTERM, as the kubelet does it: in order, in time, exit code 0."""

    def test_an_execution_ends_first(self, scene: Scene, start_operator: StartOperator) -> None:
        """What runs may finish, though the signal comes twice, and its result is told."""
        operator = start_operator()
        scene.apply(_acts("acts", "rest", "2500"), _probe())
        scene.until_ready("acts")
        _begin(scene, "acts", "last")
        operator.signal(signal.SIGTERM)
        operator.until_log("stopping")
        operator.signal(signal.SIGTERM)
        assert operator.wait(_GRACE_S) == 0
        (run,) = scene.status("acts")["executions"]
        assert (run["id"], run["outcome"], run["result"]) == ("last", "Completed", "rested")
        assert scene.status("acts")["lastHandledRunAt"] == "last"
        assert scene.condition("acts")["status"] == "True"

    def test_what_waits_is_run_later(self, scene: Scene, start_operator: StartOperator) -> None:
        """A run that was asked for and had not begun is not lost: the next operator runs it."""
        operator = start_operator("--workers=1", "--workers-spare=0", "--drain-s=0.5")
        scene.apply(_acts("acts", "answer", "at last"), _acts("busy", "spin"), _probe())
        scene.until_ready("acts", "busy")
        _begin(scene, "busy", "endless")
        _begin(scene, "acts", "waiting")
        operator.signal(signal.SIGTERM)
        assert operator.wait(_GRACE_S) == 0
        assert "executions left for the next start: 2" in operator.log
        assert "lastHandledRunAt" not in scene.status("acts")
        scene.delete_all("busy")
        operator.start()
        wait_until(lambda: _results(scene, "acts") == ["at last"], 20, "it is run")

    def test_a_longer_one_is_cut_and_run_later(
        self, scene: Scene, start_operator: StartOperator
    ) -> None:
        """Beyond drain_s it is cut off, the exit is clean, and the next operator runs it."""
        operator = start_operator("--drain-s=0.5")
        scene.apply(_acts("acts", "spin"), _probe())
        scene.until_ready("acts")
        _begin(scene, "acts", "long")
        operator.signal(signal.SIGTERM)
        assert operator.wait(_GRACE_S) == 0
        assert "cut off" in operator.log
        assert "lastHandledRunAt" not in scene.status("acts")
        scene.patch("acts", {"args": ["answer", "at last"]})
        operator.start()
        wait_until(lambda: _tokens(scene, "acts") == ["long"], 20, "it is run")
        assert scene.status("acts")["executions"][0]["result"] == "at last"

    def test_a_compile_is_ended(self, scene: Scene, start_operator: StartOperator) -> None:
        """Nobody waits for a compile: the child is ended, nothing of it is left, exit code 0."""
        operator = start_operator()
        scene.apply(_slow())
        (child,) = wait_until(operator.children, 20, "a compile child runs")
        operator.signal(signal.SIGTERM)
        assert operator.wait(_GRACE_S) == 0
        assert _gone(child)
        assert _files(operator, "assembling") == []
        assert _files(operator, "modules") == ["key"]
        assert "Traceback" not in operator.log

    @pytest.mark.parametrize("how", ["refused", "silent"])
    def test_without_an_api_server(
        self, scene: Scene, start_operator: StartOperator, proxy: Proxy, how: str
    ) -> None:
        """An API server that is away, or never answers, does not keep it beyond its grace."""
        operator = start_operator("--drain-s=1", kubeconfig=proxy.kubeconfig)
        cron = [{"name": "c", "cron": {"schedule": "* * * * * *"}}]
        scene.apply(_acts("acts", "answer", "x", triggers=cron))
        scene.until_ready("acts")
        if how == "refused":
            proxy.shut()
        else:
            hold = proxy.hold(lambda _, __: True)
            proxy.cut()
            wait_until(lambda: hold.held, 10, "it waits for an answer")
        before = _completed(operator)
        wait_until(lambda: _completed(operator) > before + 1, 20, "there is something to tell")
        operator.signal(signal.SIGTERM)
        assert operator.wait(_GRACE_S) == 0
