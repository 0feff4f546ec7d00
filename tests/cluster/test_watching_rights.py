"""Who may watch what, and how many at once: on a real API server, with real rights."""

import json
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.watched import Stage, grant
from fakes import until
from ground.controlplane import ControlPlane
from ground.proxy import Proxy
from ground.scene import Scene
from sluice.errors import EngineRefused, SourceUnavailable, WorkflowInvalid
from sluice.reasons import Reason


@pytest.fixture
def bare(scene: Scene) -> Stage:
    """Return a stage where the operator has no more than the rights that ship."""
    return Stage(scene)


@pytest.fixture
def stage(scene: Scene) -> Stage:
    """Return a stage where the operator may watch ConfigMaps."""
    grant(scene)
    return Stage(scene)


async def test_a_missing_right_says_how_to_grant_it(bare: Stage) -> None:
    """The commands of the message, typed by an admin, are all it takes."""
    with pytest.raises(SourceUnavailable) as told:
        async with bare.watching():
            pass
    assert told.value.reason is Reason.TRIGGER_FORBIDDEN
    namespace = bare.scene.namespace
    assert f"list and watch configmaps in namespace {namespace}" in told.value.message
    for command in re.findall("`([^`]+)`", told.value.message):
        bare.scene.plane.kubectl(*shlex.split(command)[1:])
    async with bare.watching():
        bare.put("a")
        await bare.until_told("Added a")


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_one_right_alone_is_not_enough(bare: Stage, verb: str) -> None:
    """Without list a gap could not be closed: a trigger is armed with both or not at all."""
    bare.scene.kubectl("create", "role", "half", f"--verb={verb}", "--resource=configmaps")
    bare.scene.kubectl("create", "rolebinding", "half", "--role=half", "--user=sluice-operator")
    for cursor in (None, '{"version":"1"}'):
        bare.journal.cursor = cursor
        with pytest.raises(SourceUnavailable) as told:
            async with bare.watching():
                pass
        assert told.value.reason is Reason.TRIGGER_FORBIDDEN


async def test_a_right_that_is_taken_away_and_given_back(
    stage: Stage, plane: ControlPlane, tmp_path: Path
) -> None:
    """It is told once; when it is back, what changed meanwhile is told."""
    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        async with stage.watching(proxy.kubeconfig):
            stage.scene.delete("rolebinding", "watch")
            await until(lambda: [proxy.cut()] and stage.verdicts)
            stage.put("a")
            assert stage.open() == 0
            stage.scene.kubectl(
                "create", "rolebinding", "watch", "--role=watch", "--user=sluice-operator"
            )
            await stage.until_told("Added a")
    assert [reason for reason, _ in stage.verdicts] == [Reason.TRIGGER_FORBIDDEN]


async def test_an_unknown_kind_may_still_come(bare: Stage) -> None:
    """Before its CRD is there a kind is unknown; afterwards it is watched."""
    spec: dict[str, Any] = {"apiVersion": "shop.example/v1", "kind": "Order", "labelSelector": None}
    for unknown in (spec, {"kind": "NoSuchKind"}):
        with pytest.raises(SourceUnavailable, match="does not know") as told:
            async with bare.watching(**unknown):
                pass
        assert told.value.reason is Reason.INVALID_SPEC
    bare.scene.plane.kubectl("apply", "-f", "-", stdin=json.dumps(_CRD))
    bare.scene.plane.kubectl("wait", "--for=condition=Established", "crd/orders.shop.example")
    bare.scene.kubectl(
        "create", "role", "orders", "--verb=list,watch", "--resource=orders.shop.example"
    )
    bare.scene.kubectl("create", "rolebinding", "orders", "--role=orders", "--user=sluice-operator")
    order = {"apiVersion": "shop.example/v1", "kind": "Order", "metadata": {"name": "o1"}}
    async with bare.watching(**spec):
        bare.scene.apply_object(order | {"spec": {"item": "tea"}})
        await bare.until_told("Added o1")
    assert next(iter(bare.journal.events.values())).data["object"]["spec"] == {"item": "tea"}


_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "orders.shop.example"},
    "spec": {
        "group": "shop.example",
        "scope": "Namespaced",
        "names": {"plural": "orders", "singular": "order", "kind": "Order"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}, "cannot be watched"),
        ({"kind": "Node"}, "lies in no namespace"),
        ({"namespace": "kube-system"}, "watch_namespaces"),
        ({"fieldSelector": "data.v=1"}, "not a known field selector"),
    ],
)
async def test_what_can_never_be_watched(stage: Stage, spec: dict[str, Any], why: str) -> None:
    """The author is told what is wrong with the trigger."""
    with pytest.raises(WorkflowInvalid, match=why) as told:
        async with stage.watching(**spec):
            pass
    assert told.value.message.startswith("trigger watch: ")


async def test_what_lies_in_no_namespace(stage: Stage, plane: ControlPlane) -> None:
    """With the admin's star and the right, namespaces can be watched; the subject is the name."""
    name = stage.scene.namespace
    role = f"watch-{name}"
    plane.kubectl("create", "clusterrole", role, "--verb=list,watch", "--resource=namespaces")
    plane.kubectl(
        "create", "clusterrolebinding", role, f"--clusterrole={role}", "--user=sluice-operator"
    )
    try:
        async with stage.watching(settings={"watch_namespaces": "*"}, kind="Namespace"):
            plane.kubectl("label", "namespace", name, "seen=yes")
            await stage.until_told(f"Added {name}")
        assert next(iter(stage.journal.events.values())).subject == name
    finally:
        plane.kubectl("delete", "clusterrolebinding", role)
        plane.kubectl("delete", "clusterrole", role)


async def test_another_namespace_that_the_admin_allows(stage: Stage, plane: ControlPlane) -> None:
    """Right and setting together open it."""
    other = Scene(plane, plane.create_namespace())
    grant(other)
    settings = {"watch_namespaces": other.namespace}
    async with stage.watching(settings=settings, namespace=other.namespace):
        Stage(other).put("there")
        await stage.until_told("Added there")
    plane.delete_namespace(other.namespace)


async def test_a_large_object_is_told_by_its_metadata(stage: Stage) -> None:
    """Seen by many watches at once, an object of 900 KB reaches nobody whole."""
    async with stage.door() as door, _all(stage.watch(door) for _ in range(8)):
        stage.put("large", "x" * 900_000)
        stage.put("small")
        await until(lambda: stage.journal.duplicates == 14)
    large, small = stage.journal.events.values()
    assert large.data["truncated"] is True
    assert large.data["object"]["metadata"]["name"] == "large"
    assert "data" not in large.data["object"]
    assert "truncated" not in small.data


@pytest.mark.parametrize("setting", ["watches_max", "namespace_watches_max"])
async def test_so_many_watches_and_no_more(stage: Stage, setting: str) -> None:
    """Up to the bound they are open; one more is refused, until one is closed."""
    bounds: dict[str, Any] = {setting: 2}
    async with stage.door(**bounds) as door:
        async with _all(stage.watch(door, _name=name) for name in ("one", "two")):
            assert stage.open() == 2
            with pytest.raises(EngineRefused, match=rf"\({setting}\)"):
                async with stage.watch(door, _name="three"):
                    pass
            # A revision that takes over is watched beside the one before it, at the bound too.
            async with stage.watch(door, _name="two"):
                assert stage.open() == 3
        async with stage.watch(door, _name="three"):
            assert stage.open() == 1


@asynccontextmanager
async def _all(blocks: Any) -> AsyncIterator[None]:
    async with AsyncExitStack() as held:
        for block in blocks:
            await held.enter_async_context(block)
        yield
