"""kubernetes triggers end to end: kubectl on one side, the operator's process on the other."""

import json
import random
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ground.controlplane import ControlPlane
from ground.manifests import Writing, Written, write
from ground.operator import ROLE, Operator
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest

StartOperator = Callable[..., Operator]

_ROLE_FILE = ROLE.with_name("clusterrole-watch.yaml")
_WATCH = {"apiVersion": "v1", "kind": "ConfigMap", "labelSelector": "seen"}


def _workflow(name: str = "hello", *args: str, guest_name: str = "echo", **watch: Any) -> Written:
    triggers = [
        {"name": "manual", "manual": {}},
        {"name": "changes", "kubernetes": _WATCH | watch},
    ]
    return write(
        guest(guest_name), Writing(name=name, spec={"args": list(args), "triggers": triggers})
    )


def _grant(scene: Scene) -> None:
    """Bind the role that ships for it, in this namespace alone."""
    scene.plane.kubectl("apply", "--server-side", "-f", str(_ROLE_FILE))
    scene.kubectl(
        "create", "rolebinding", "watch", "--clusterrole=sluice-operator-watch",
        "--user=sluice-operator",
    )  # fmt: skip


def _put(scene: Scene, *names: str, value: str = "1") -> None:
    items = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"seen": "yes"}},
            "data": {"v": value},
        }
        for name in names
    ]
    scene.kubectl("apply", "-f", "-", stdin=json.dumps(
        {"apiVersion": "v1", "kind": "List", "items": items}
    ))  # fmt: skip


def _executions(operator: Operator, scene: Scene, name: str = "hello") -> list[dict[str, Any]]:
    """Return all that is over, the oldest first."""
    path = f"/v1/namespaces/{scene.namespace}/workflows/{name}/executions?limit=100"
    found = json.loads(operator._get(path) or '{"executions": []}')["executions"]
    return [one for one in reversed(found) if one["state"] == "Finished"]


def _changes(executions: list[dict[str, Any]]) -> list[str]:
    """Return what each execution of the echoing guest was told of: ``Added a``."""
    events = [json.loads(one["result"]) for one in executions]
    return [f"{e['data']['type']} {e['subject'].rpartition('/')[2]}" for e in events]


def _until(operator: Operator, scene: Scene, *changes: str) -> None:
    """Return once exactly these were told."""
    wait_until(
        lambda: len(_executions(operator, scene)) >= len(changes), 30, f"{changes} were executed"
    )
    assert sorted(_changes(_executions(operator, scene))) == sorted(changes)


def test_a_change_starts_an_execution(scene: Scene, start_operator: StartOperator) -> None:
    """What kubectl does to an object is what the guest reads, as a CloudEvent."""
    _grant(scene)
    _put(scene, "before")
    operator = start_operator()
    scene.apply(_workflow())
    scene.kubectl("wait", "slw/hello", "--for=condition=Ready", "--timeout=30s")
    _put(scene, "a")
    _until(operator, scene, "Added a")
    scene.kubectl("delete", "configmap", "a")
    _until(operator, scene, "Added a", "Deleted a")
    event = json.loads(_executions(operator, scene)[0]["result"])
    uid = event["data"]["object"]["metadata"]["uid"]
    version = event["data"]["object"]["metadata"]["resourceVersion"]
    assert event["type"] == "dev.sluice.kubernetes"
    assert event["source"] == f"/{scene.namespace}/hello/triggers/changes"
    assert event["subject"] == f"{scene.namespace}/a"
    assert event["id"] == f"{uid}@{version}-Added"
    assert event["data"]["object"]["data"] == {"v": "1"}
    wait_until(lambda: scene.status("hello").get("executions"), 10, "the status tells of it")
    assert scene.status("hello")["executions"][0]["trigger"] == "changes"
    assert operator.metrics()["sluice_events_total{result=accepted,trigger=kubernetes}"] == 2
    scene.delete_all("hello")
    wait_until(lambda: operator.metrics()["sluice_watches{state=open}"] == 0, 10, "it is closed")


def test_a_missing_right_is_a_condition_and_heals(
    scene: Scene, start_operator: StartOperator
) -> None:
    """No trigger is armed until an admin types what the condition says; no restart is needed."""
    operator = start_operator()
    scene.apply(_workflow())
    ready = scene.until_reason("hello", "TriggerForbidden")
    assert ready["status"] == "False"
    assert "list and watch configmaps" in ready["message"]
    assert scene.condition("hello", "Serving").get("status") != "True"
    _put(scene, "early")
    for command in re.findall("`([^`]+)`", ready["message"]):
        scene.plane.kubectl(*shlex.split(command)[1:])
    scene.until_ready("hello")
    _put(scene, "a")
    _until(operator, scene, "Added a")
    assert scene.run("hello", "by-hand")["outcome"] == "Completed"
    assert "failed inside the operator" not in operator.log


@pytest.mark.parametrize("number", range(2))
def test_killed_again_and_again_every_change_is_executed_once(
    scene: Scene, start_operator: StartOperator, number: int
) -> None:
    """SIGKILL at random moments, while it is down too: each change is told, and finished once."""
    _grant(scene)
    operator = start_operator("--history-max=100")
    scene.apply(_workflow(on=["Added"]))
    scene.until_ready("hello")
    chance, names = random.Random(number), [f"n{i:02}" for i in range(24)]
    for i in range(0, len(names), 3):
        _put(scene, *names[i : i + 3])
        if chance.random() < 0.4:
            operator.kill()
            if chance.random() < 0.5:
                _put(scene, f"{names[i]}-down")
                names.append(f"{names[i]}-down")
            operator.start()
    names_of_all = {f"Added {name}" for name in names}
    wait_until(
        lambda: set(_changes(_executions(operator, scene))) >= names_of_all, 60, "all were told"
    )
    counted = Counter(one["id"] for one in _executions(operator, scene))
    assert len(counted) == len(names_of_all)
    assert set(counted.values()) == {1}


def test_a_burst_into_a_small_queue_loses_nothing(
    scene: Scene, start_operator: StartOperator
) -> None:
    """Where the watch is faster than the workflow it waits; all are executed, in the end."""
    _grant(scene)
    operator = start_operator("--queue-max=2", "--running-max=1", "--workers=1")
    scene.apply(_workflow("hello", "rest", "50", guest_name="acts", on=["Added"]))
    scene.until_ready("hello")
    names = [f"n{i:02}" for i in range(12)]
    _put(scene, *names)
    wait_until(lambda: len(_executions(operator, scene)) == len(names), 60, "all were executed")
    assert operator.metrics()["sluice_events_total{result=refused,trigger=kubernetes}"] > 0
    assert {one["outcome"] for one in _executions(operator, scene)} == {"Completed"}


def test_an_edit_goes_on_where_the_revision_before_was(
    scene: Scene, start_operator: StartOperator
) -> None:
    """While another revision takes over, and while it is suspended, no change is missed."""
    _grant(scene)
    operator = start_operator()
    scene.apply(_workflow(on=["Added"]))
    scene.until_ready("hello")
    _put(scene, "a")
    _until(operator, scene, "Added a")
    scene.patch("hello", {"env": [{"name": "X", "value": "y"}]})
    _put(scene, "b")
    scene.until_ready("hello")
    _until(operator, scene, "Added a", "Added b")
    scene.patch("hello", {"suspend": True})
    scene.until_reason("hello", "Suspended")
    _put(scene, "c")
    scene.patch("hello", {"suspend": False})
    scene.until_ready("hello")
    _until(operator, scene, "Added a", "Added b", "Added c")


@pytest.mark.slow
def test_an_api_server_that_restarts(
    scene: Scene, plane: ControlPlane, start_operator: StartOperator
) -> None:
    """While it is away what serves serves; what changes after is told."""
    _grant(scene)
    operator = start_operator()
    scene.apply(_workflow(on=["Added", "Deleted"]))
    scene.until_ready("hello")
    _put(scene, "a")
    _until(operator, scene, "Added a")
    plane.compact_etcd()
    scene.kubectl("delete", "configmap", "a")
    _put(scene, "b")
    _until(operator, scene, "Added a", "Deleted a", "Added b")
    assert operator.live()


def test_what_the_admin_does_not_allow_is_said(scene: Scene, start_operator: StartOperator) -> None:
    """Another namespace and a kind without one are refused with the setting that opens them."""
    start_operator()
    scene.apply(_workflow("other", namespace="kube-system"), _workflow("node", kind="Node"))
    for name in ("other", "node"):
        ready = scene.until_reason(name, "InvalidSpec")
        assert "watch_namespaces" in ready["message"]


def test_the_role_that_ships_is_what_the_docs_say() -> None:
    """List and watch for each kind, and nothing else."""
    text = Path(_ROLE_FILE).read_text()
    assert re.findall(r"verbs: (.*)", text) == ["[list, watch]"]
