"""Whatever the way to the API server does, no change is lost and nothing that serves is touched.

One operator goes through all of it, with the settings that ship: what it must survive in a test
it must survive after everything before it too. The one door to the API server is a proxy's.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from ground.controlplane import ControlPlane
from ground.manifests import Writing, Written, distinct, write
from ground.operator import Operator
from ground.proxy import Fault, Proxy
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest

_SOON_S = 25
_FOR_EVER = 1_000_000


class Stage(NamedTuple):
    scene: Scene
    proxy: Proxy
    operator: Operator


@pytest.fixture(scope="module")
def _shared(
    plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stage, int]]:
    """One operator behind a proxy, and one workflow that serves all along."""
    namespace, directory = plane.create_namespace("faults"), tmp_path_factory.mktemp("faults")
    with Proxy(plane.kubeconfig("operator"), directory) as proxy:
        operator = Operator(proxy.kubeconfig, directory, (namespace,))
        operator.start()
        scene = Scene(plane, namespace)
        scene.apply(_workflow("steady", "steady"))
        scene.until_ready("steady")
        yield Stage(scene, proxy, operator), operator.pid
        assert operator.stop() == 0
    plane.delete_namespace(namespace)


@pytest.fixture
def stage(_shared: tuple[Stage, int]) -> Iterator[Stage]:
    """Yield the stage; whatever is done to it, it stays the same process, live, and serves."""
    stage, pid = _shared
    before = stage.scene.condition("steady")
    with _asked_whether_live(stage.operator) as answers:
        yield stage
    assert answers
    assert all(answers)
    assert stage.operator.pid == pid
    assert stage.scene.condition("steady") == before
    assert "failed inside the operator" not in stage.operator.log


@contextmanager
def _asked_whether_live(operator: Operator) -> Iterator[list[bool]]:
    answers: list[bool] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.2):
            answers.append(operator.live())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


@contextmanager
def _broken_on_and_on(proxy: Proxy) -> Iterator[list[int]]:
    """Break every stream, again and again; the counts of how many there were are yielded."""
    broken: list[int] = []
    over = threading.Event()

    def break_them() -> None:
        while not over.wait(0.1):
            broken.append(proxy.cut())

    thread = threading.Thread(target=break_them, daemon=True)
    thread.start()
    try:
        yield broken
    finally:
        over.set()
        thread.join()


def _workflow(name: str, answer: str, **spec: Any) -> Written:
    return write(guest("acts"), Writing(name=name, spec={"args": ["answer", answer], **spec}))


def _answer(scene: Scene, name: str, answer: str) -> None:
    scene.patch(name, {"args": ["answer", answer]})


def _known(operator: Operator) -> int:
    metrics = operator.metrics()
    return int(sum(v for k, v in metrics.items() if k.startswith("sluice_workflows{")))


def _everything(_: str, __: str) -> bool:
    return True


def _status_of(name: str) -> Callable[[str, str], bool]:
    return lambda method, path: method == "PATCH" and f"/workflows/{name}/status" in path


def _config_map(name: str) -> Callable[[str, str], bool]:
    return lambda _, path: path.endswith(f"/configmaps/{name}")


def _lists(proxy: Proxy) -> int:
    paths = [path for _, path in proxy.requests]
    return sum(bool(re.search(r"/workflows\?", p)) and "watch=true" not in p for p in paths)


def _tokens(scene: Scene, name: str) -> list[str]:
    return [run["id"] for run in scene.status(name).get("executions", ())]


class Changes:
    """A workflow that is edited, one that is deleted, one made anew, and one that is created."""

    def __init__(self, stage: Stage, prefix: str) -> None:
        self._stage, self._prefix = stage, prefix
        names = [*map(self._name, ("edited", "deleted", "anew"))]
        stage.scene.apply(*(_workflow(name, "old") for name in names))
        stage.scene.until_ready(*names, timeout_s=_SOON_S)
        self._uid = stage.scene.get(self._name("anew"))["metadata"]["uid"]

    def make(self) -> None:
        scene = self._stage.scene
        _answer(scene, self._name("edited"), "new")
        scene.delete_all(self._name("deleted"), self._name("anew"))
        scene.apply(*(_workflow(self._name(name), "new") for name in ("anew", "created")))

    def are_all_seen(self) -> None:
        """Return once what is alive, and what is said of it, equals what is wanted."""
        scene, names = self._stage.scene, [*map(self._name, ("edited", "anew", "created"))]
        scene.until_ready(*names, timeout_s=_SOON_S)
        for name in names:
            assert scene.run(name, "after")["result"] == "new"
        wait_until(self._nothing_is_left, _SOON_S, "the deleted one is forgotten")
        assert scene.get(self._name("anew"))["metadata"]["uid"] != self._uid
        scene.delete_all(*names)
        wait_until(self._nothing_is_left, _SOON_S, "all are forgotten")

    def _nothing_is_left(self) -> bool:
        """Whether the operator knows as many workflows as there are."""
        there = self._stage.scene.kubectl("get", "slw", "-o", "name").split()
        return _known(self._stage.operator) == len(there)

    def _name(self, name: str) -> str:
        return f"{self._prefix}-{name}"


def test_a_watch_that_breaks_loses_no_change(stage: Stage) -> None:
    """While every stream is broken again and again, all changes arrive."""
    changes = Changes(stage, "cut")
    with _broken_on_and_on(stage.proxy) as broken:
        changes.make()
    changes.are_all_seen()
    assert sum(broken) > 1


def test_changes_made_out_of_reach_are_caught_up_with(stage: Stage) -> None:
    """What was created, edited, deleted and made anew while nothing got through is seen after."""
    changes = Changes(stage, "shut")
    stage.proxy.shut()
    try:
        changes.make()
    finally:
        stage.proxy.open()
    changes.are_all_seen()


def test_410_gone(plane: ControlPlane, stage: Stage) -> None:
    """When the past is forgotten the operator lists anew, and finds what is gone by it."""
    changes, lists = Changes(stage, "gone"), _lists(stage.proxy)
    stage.proxy.shut()
    try:
        changes.make()
        plane.compact_etcd()
    finally:
        stage.proxy.open()
    changes.are_all_seen()
    assert _lists(stage.proxy) > lists


def test_an_api_server_that_restarts_with_no_past(plane: ControlPlane, stage: Stage) -> None:
    """A cron trigger fires all along; afterwards every change is seen and the runs are told of."""
    scene, operator = stage.scene, stage.operator
    cron = {"name": "c", "cron": {"schedule": "* * * * * *"}}
    scene.apply(_workflow("ticking", "tick", triggers=[cron]))
    wait_until(lambda: _tokens(scene, "ticking"), _SOON_S, "it has run")
    changes, before = Changes(stage, "restart"), _completed(operator)
    changes.make()
    with _broken_on_and_on(stage.proxy):  # an API server would wait for its watches to end
        plane.compact_etcd()
    assert _completed(operator) > before + 1
    told = set(_tokens(scene, "ticking"))
    changes.are_all_seen()
    wait_until(lambda: not told & set(_tokens(scene, "ticking")), _SOON_S, "new runs are told of")
    scene.delete_all("ticking")


def _completed(operator: Operator) -> float:
    return operator.metrics()["sluice_executions_total{outcome=Completed}"]


_PASSING = {"Retry-After": "1"}
_REFUSALS = [(409, 1), (429, 2), (429, 5), (500, 5), (503, 5), (401, 2), (403, 2)]


def test_a_status_write_that_is_refused_is_written_later(stage: Stage) -> None:
    """Whatever the API server says to a status write, soon after the status is right."""
    names = {f"status-{status}-{count}": (status, count) for status, count in _REFUSALS}
    faults = [
        stage.proxy.fail(_status_of(name), status, count, _PASSING)
        for name, (status, count) in names.items()
    ]
    stage.scene.apply(*(_workflow(name, "x") for name in names))
    stage.scene.until_ready(*names, timeout_s=_SOON_S)
    assert [fault.answered for fault in faults] == [count for _, count in _REFUSALS]
    stage.scene.delete_all(*names)


def test_a_config_map_that_cannot_be_read_is_read_later(stage: Stage) -> None:
    """A passing refusal costs a start some time, never the start."""
    refusals = [(429, 2), (500, 5), (403, 1)]
    names = {f"read-{status}-{count}": (status, count) for status, count in refusals}
    faults = [
        stage.proxy.fail(_config_map(f"{name}-0"), status, count, _PASSING)
        for name, (status, count) in names.items()
    ]
    for number, name in enumerate(names):
        stage.scene.apply(write(distinct(guest("acts"), number), Writing(name=name)))
    stage.scene.until_ready(*names, timeout_s=_SOON_S)
    assert [fault.answered for fault in faults] == [count for _, count in refusals]
    stage.scene.delete_all(*names)


def test_who_is_told_to_wait_long_holds_up_nobody(stage: Stage) -> None:
    """A Retry-After of an hour on one ConfigMap does not keep the others from being read."""
    scene = stage.scene
    fault = stage.proxy.fail(_config_map("patient-0"), 429, _FOR_EVER, {"Retry-After": "3600"})
    scene.apply(write(distinct(guest("acts"), 3600), Writing(name="patient")))
    wait_until(lambda: fault.answered, _SOON_S, "it is told to wait")
    scene.apply(write(distinct(guest("acts"), 3601), Writing(name="eager")))
    scene.until_ready("eager", timeout_s=_SOON_S)
    scene.until_reason("patient", "SourceUnavailable")
    scene.delete_all("patient", "eager")
    fault.end()


@pytest.mark.parametrize("status", [401, 503])
def test_an_api_server_that_refuses_everything_for_a_while(stage: Stage, status: int) -> None:
    """While every request is refused what serves serves; afterwards no change is missing."""
    changes = Changes(stage, f"all-{status}")
    fault = stage.proxy.fail(_everything, status, _FOR_EVER)
    try:
        stage.proxy.cut()
        changes.make()
        _refused_often(fault)
    finally:
        fault.end()
    changes.are_all_seen()


def _refused_often(fault: Fault) -> None:
    enough = fault.answered + 3
    wait_until(lambda: fault.answered >= enough, _SOON_S, "it tries, and is refused")
