"""The main job: from an applied object to results, on a real API server, with the shipped Role."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import yaml

from ground.controlplane import ControlPlane
from ground.manifests import Writing, distinct, write
from ground.operator import ROLE, Operator
from ground.proxy import Proxy
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest

StartOperator = Callable[..., Operator]


def _acts(name: str = "acts", *args: str, **spec: object) -> Writing:
    return Writing(name=name, parts=3, spec={"args": list(args), **spec})


def test_applied_workflow_runs(scene: Scene, start_operator: StartOperator) -> None:
    """What is applied with kubectl becomes Ready, and a run on request gives its result."""
    start_operator()
    scene.apply(write(guest("echo"), Writing(name="echo", parts=4)))
    scene.kubectl("wait", "slw/echo", "--for=condition=Ready", "--timeout=30s")
    run = scene.run("echo", "first", {"price": 97})
    event = json.loads(run["result"])
    assert run["outcome"] == "Completed"
    assert (event["id"], event["data"]) == ("first", {"price": 97})
    assert event["source"] == f"/{scene.namespace}/echo/triggers/manual"


def test_edit_replaces_without_a_gap(scene: Scene, start_operator: StartOperator) -> None:
    """While an edit starts, the revision before it serves; no moment is without one."""
    start_operator()
    scene.apply(write(guest("acts"), _acts("acts", "answer", "one")))
    scene.until_ready("acts")
    with _watching(scene, "acts") as seen:
        scene.apply(write(distinct(guest("acts"), 1), _acts("acts", "answer", "two")))
        scene.kubectl("wait", "slw/acts", "--for=condition=Ready", "--timeout=30s")
        # kubectl wait judges by observedGeneration: the answer is the new revision's at once.
        assert scene.run("acts", "after")["result"] == "two"
    assert seen
    assert all(status.get("serving") for status in seen)


def test_failed_edit_keeps_serving(scene: Scene, start_operator: StartOperator) -> None:
    """When the new revision cannot start, the old one goes on, and the status says both."""
    start_operator()
    scene.apply(write(guest("acts"), _acts("acts", "answer", "one")))
    scene.until_ready("acts")
    scene.patch("acts", {"module": {"digest": "sha256:" + "0" * 64}})
    ready = scene.until_reason("acts", "DigestMismatch")
    assert "generation 1" in ready["message"]
    assert "keeps serving" in ready["message"]
    assert scene.condition("acts", "Serving")["reason"] == "PreviousRevision"
    assert scene.run("acts", "old")["result"] == "one"


def test_suspend_and_resume(scene: Scene, start_operator: StartOperator) -> None:
    """A suspended workflow runs nothing and refuses a run; resumed, it is Ready from memory."""
    operator = start_operator()
    scene.apply(write(guest("acts"), _acts("acts", "answer", "one")))
    scene.until_ready("acts")
    scene.patch("acts", {"suspend": True})
    scene.until_reason("acts", "Suspended")
    assert scene.condition("acts", "Serving")["status"] == "False"
    scene.kubectl("annotate", "slw/acts", "sluice.dev/run-at=meanwhile")
    wait_until(
        lambda: scene.status("acts").get("lastHandledRunAt") == "meanwhile", 10, "it is refused"
    )
    scene.patch("acts", {"suspend": False})
    scene.until_ready("acts")
    assert scene.run("acts", "later")["result"] == "one"
    assert operator.compiles() == 1
    assert "RunRefused" in scene.reasons("acts")


def test_delete_and_suspend_never_wait(scene: Scene, start_operator: StartOperator) -> None:
    """While a long compile holds the only slot, what waits behind it can go at once."""
    operator = start_operator("--starts-max=1")
    slow = guest("report")
    scene.apply(write(slow, Writing(name="slow", parts=6)))
    wait_until(operator.children, 20, "a compile child runs")
    for name in ("second", "third"):
        scene.apply(write(distinct(guest("acts"), 2), _acts(name, "answer")))
    scene.until_reason("second", "WaitingForTurn")
    scene.patch("second", {"suspend": True})
    scene.until_reason("second", "Suspended")
    scene.delete("slw", "third")
    scene.delete("slw", "slow")
    wait_until(lambda: not operator.children(), 5, "its compile child is gone too")
    wait_until(
        lambda: operator.metrics()["sluice_starts_in_flight"] == 0, 5, "the permit is given back"
    )


def test_any_text_reaches_the_status(scene: Scene, start_operator: StartOperator) -> None:
    """A result with signs that YAML is particular about is shown whole, and holds up nothing."""
    start_operator()
    scene.apply(write(guest("echo"), Writing(name="echo")))
    scene.until_ready("echo")
    text = "\U0001f30d \U0001f42e \xfc \x7f \x85 \ufffe \u2028"
    run = scene.run("echo", "\U0001f42e-1", text)
    assert json.loads(run["result"])["data"] == text


def test_restart_serves_from_the_cache(scene: Scene, start_operator: StartOperator) -> None:
    """After a restart all is Ready without a compile, and nothing is written that was said."""
    operator = start_operator()
    names = [f"acts-{i}" for i in range(5)]
    for i, name in enumerate(names):
        scene.apply(write(distinct(guest("acts"), i), _acts(name, "answer", name)))
    scene.until_ready(*names)
    wait_until(
        lambda: operator.metrics()["sluice_serving{tier=optimizing}"] == len(names), 20,
        "all are optimised",
    )  # fmt: skip
    before = {name: scene.status(name) for name in names}
    assert operator.stop() == 0
    operator.start()
    wait_until(
        lambda: operator.metrics()["sluice_workflows{state=ready}"] == len(names), 20, "all serve"
    )
    metrics = operator.metrics()
    assert operator.compiles() == 0
    assert metrics["sluice_cache_lookups_total{result=hit}"] == len(names)
    assert metrics["sluice_api_writes_total{kind=status}"] == 0
    assert {name: scene.status(name) for name in names} == before
    assert scene.run("acts-3", "again")["result"] == "acts-3"


def test_three_writes_a_workflow(scene: Scene, start_operator: StartOperator) -> None:
    """A rollout costs the API server at most three writes a workflow, events included."""
    operator = start_operator("--starts-max=2")
    names = [f"acts-{i}" for i in range(12)]
    for i, name in enumerate(names):
        scene.apply(write(distinct(guest("acts"), i), _acts(name, "answer")))
    scene.until_ready(*names)
    metrics = operator.metrics()
    writes = sum(metrics[f"sluice_api_writes_total{{kind={kind}}}"] for kind in ("status", "event"))
    assert len(names) <= writes <= 3 * len(names)


def test_leaves_nothing_on_the_object(scene: Scene, start_operator: StartOperator) -> None:
    """No finalizer, label or annotation but the author's own is on an object that serves."""
    start_operator()
    scene.apply(write(guest("echo"), Writing(name="echo")))
    scene.until_ready("echo")
    metadata = scene.get("echo")["metadata"]
    assert not metadata.get("finalizers")
    assert not metadata.get("labels")
    assert set(metadata["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}


def test_the_role_is_enough_and_no_more(
    plane: ControlPlane, scene: Scene, start_operator: StartOperator, tmp_path: Path
) -> None:
    """The operator is never forbidden anything, and uses every right that the Role grants."""
    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        operator = start_operator("--source-check-s=0.5", kubeconfig=proxy.kubeconfig)
        scene.apply(write(guest("acts"), _acts("acts", "exit", "3")))
        scene.until_ready("acts")
        for i in range(4):  # refusals repeat, so their event becomes a series
            scene.kubectl("annotate", "--overwrite", "slw/acts", f"sluice.dev/run-at=bad-{i}",
                          "sluice.dev/run-data={")  # fmt: skip
            wait_until(
                lambda i=i: scene.status("acts").get("lastHandledRunAt") == f"bad-{i}",  # type: ignore[misc]
                10,
                "the refusal is told",
            )
        wait_until(lambda: "PATCH" in _verbs_on(proxy, "/events/"), 10, "the series is counted")
        used = {right for method, path in proxy.requests if (right := _right(method, path))}
        assert operator.stop() == 0
    granted = {
        (verb, resource)
        for rule in yaml.safe_load(ROLE.read_text())["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    assert used == granted
    assert "forbidden" not in operator.log.lower()


def test_log_names_the_tenant(scene: Scene, start_operator: StartOperator) -> None:
    """Each line about a workflow carries its namespace and name as fields of its own."""
    operator = start_operator("--log-format=json")
    scene.apply(write(guest("acts"), _acts("acts", "exit", "3")))
    scene.until_ready("acts")
    assert scene.run("acts", "one")["exitCode"] == 3
    lines = [json.loads(line) for line in operator.log.splitlines()]
    about = [line for line in lines if line.get("workflow") == "acts"]
    assert {line["namespace"] for line in about} == {scene.namespace}
    assert [line["execution"] for line in about if "execution" in line] == ["one"]


def _verbs_on(proxy: Proxy, part: str) -> set[str]:
    return {method for method, path in proxy.requests if part in path}


def _right(method: str, path: str) -> tuple[str, str] | None:
    """Return what RBAC calls a request: its verb and resource; None for discovery."""
    found = re.match(
        r"/apis?/(?:v1|[^/]+/[^/]+)/(?:namespaces/[^/]+/)?([a-z]+)(/[^/?]+)?(/[a-z]+)?(\?.*)?$",
        path,
    )
    if found is None:
        return None
    resource, name, subresource, query = found.groups()
    verbs = {"POST": "create", "PATCH": "patch", "GET": "get" if name else "list"}
    verb = "watch" if "watch=true" in (query or "") else verbs[method]
    return verb, resource + (subresource or "")


class _watching:  # noqa: N801 - read as a statement
    """Collects every status of a workflow that can be seen while the block runs."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene, self._name = scene, name
        self._over = threading.Event()
        self._seen: list[dict[str, object]] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> list[dict[str, object]]:
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            self._seen.append(self._scene.status(self._name))
