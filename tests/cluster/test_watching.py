"""The watch of one trigger on a real API server: nothing is lost, nothing is told twice."""

import json
from pathlib import Path

import pytest

from cluster.watched import Stage, grant
from fakes import until
from ground.controlplane import ControlPlane
from ground.proxy import Proxy
from ground.scene import Scene


@pytest.fixture
def stage(scene: Scene) -> Stage:
    """Return a stage where the operator may watch ConfigMaps."""
    grant(scene)
    return Stage(scene)


async def test_every_change_is_told_once_in_order(stage: Stage) -> None:
    """What exists is no event; added, modified and deleted are, with the object."""
    stage.put("before")
    async with stage.watching():
        stage.put("a")
        stage.put("a", "2")
        stage.put("unlabelled", seen=False)
        stage.put("before", "2")
        stage.delete("a")
        await stage.until_told("Added a", "Modified a", "Modified before", "Deleted a")
    first, second, *_, last = stage.journal.events.values()
    assert first.data["object"]["kind"] == "ConfigMap"
    assert [e.data["object"]["data"]["v"] for e in (first, second, last)] == ["1", "2", "2"]
    assert first.subject == f"{stage.scene.namespace}/a"
    assert "managedFields" not in first.data["object"]["metadata"]
    assert stage.journal.duplicates == 0
    assert stage.open() == 0


async def test_only_what_is_asked_for_is_told(stage: Stage) -> None:
    """``on`` and a field selector narrow it."""
    async with stage.watching(on=["Deleted"], fieldSelector="metadata.name=a"):
        for name in ("b", "a"):
            stage.put(name)
            stage.put(name, "2")
            stage.delete(name)
        await stage.until_told("Deleted a")


async def test_a_label_that_comes_and_goes(stage: Stage) -> None:
    """An object that begins to match is added, one that matches no more is deleted."""
    stage.put("a", seen=False)
    async with stage.watching():
        stage.put("a")
        stage.scene.kubectl("label", "configmap", "a", "seen-")
        stage.scene.kubectl("label", "configmap", "a", "seen=again")
        await stage.until_told("Added a", "Deleted a", "Added a")


async def test_what_changes_while_nobody_watches_is_told_after(stage: Stage) -> None:
    """A restart goes on where the last event left it: nothing missing, nothing twice."""
    async with stage.watching():
        stage.put("a")
        stage.put("b")
        await stage.until_told("Added a", "Added b")
    stage.put("c")
    stage.put("a", "2")
    stage.delete("b")
    async with stage.watching():
        stage.put("d")
        await stage.until_told(
            "Added a", "Added b", "Added c", "Modified a", "Deleted b", "Added d"
        )
    assert stage.gaps == 0
    assert stage.journal.duplicates == 0


async def test_what_changes_right_after_the_first_arming_is_told_after_a_restart(
    stage: Stage,
) -> None:
    """Where no event has stored a cursor yet, the arming has."""
    async with stage.watching():
        pass
    stage.put("a")
    async with stage.watching():
        await stage.until_told("Added a")


async def test_a_cursor_that_lagged_tells_nothing_anew(stage: Stage) -> None:
    """After a death between accepting and remembering, what comes again is a duplicate."""
    async with stage.watching():
        stage.put("a")
        await stage.until_told("Added a")
        lagged = stage.journal.cursor
        stage.put("a", "2")
        stage.delete("a")
        await stage.until_told("Added a", "Modified a", "Deleted a")
    stage.journal.cursor = lagged
    async with stage.watching():
        await until(lambda: stage.journal.duplicates == 2)
    await stage.until_told("Added a", "Modified a", "Deleted a")


async def test_a_forgotten_past_is_compared(stage: Stage, plane: ControlPlane) -> None:
    """410 Gone: added, modified, made anew and deleted are told from a list, each once."""
    for name in ("kept", "edited", "gone", "anew"):
        stage.put(name)
    async with stage.watching():
        pass
    stage.put("edited", "2")
    stage.put("edited", "3")
    stage.delete("gone")
    stage.delete("anew")
    stage.put("anew")
    stage.put("new")
    stage.put("came")
    stage.delete("came")
    plane.compact_etcd()
    async with stage.watching():
        await until(lambda: len(stage.journal.events) >= 5)
        stage.put("after")
        await until(lambda: "Added after" in stage.journal.told)
    told = stage.journal.told
    assert sorted(told[:2]) == ["Deleted anew", "Deleted gone"]
    assert sorted(told[2:5]) == ["Added anew", "Added new", "Modified edited"]
    assert told[5:] == ["Added after"]
    assert stage.gaps == 1
    edited = next(e for e in stage.journal.events.values() if "edited" in str(e.subject))
    assert edited.data["object"]["data"] == {"v": "3"}


async def test_a_gap_while_it_watches(stage: Stage, plane: ControlPlane, tmp_path: Path) -> None:
    """Cut off until the past is forgotten, the same watch finds what it missed."""
    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        async with stage.watching(proxy.kubeconfig):
            stage.put("a")
            await stage.until_told("Added a")
            proxy.shut()
            stage.put("b")
            stage.delete("a")
            plane.compact_etcd()
            proxy.open()
            await stage.until_told("Added a", "Deleted a", "Added b")
    assert stage.gaps == 1


async def test_a_gap_of_more_objects_than_are_known(stage: Stage, plane: ControlPlane) -> None:
    """Past watched_objects_max, additions and changes are told after a gap, deletions are not."""
    few = {"watched_objects_max": 2}
    for name in ("a", "b", "c"):
        stage.put(name)
    async with stage.watching(settings=few):
        pass
    stage.delete("a")
    stage.put("b", "2")
    stage.put("d")
    plane.compact_etcd()
    async with stage.watching(settings=few):
        await until(lambda: len(stage.journal.events) >= 2)
        stage.put("e")
        await until(lambda: "Added e" in stage.journal.told)
    told = stage.journal.told
    assert [one.split()[1] for one in sorted(told, key=lambda one: one.split()[1])] == [*"bde"]
    assert {"Added d", "Added e"} < set(told)


async def test_a_cursor_from_another_past_is_compared(stage: Stage) -> None:
    """After a restore of etcd a cursor may be ahead of the cluster: it does not wait for years."""
    stage.put("a")
    async with stage.watching():
        pass
    cursor = json.loads(str(stage.journal.cursor))
    cursor["version"] = str(10**12)
    stage.journal.cursor = json.dumps(cursor)
    stage.put("b")
    async with stage.watching():
        await stage.until_told("Added b")
        stage.put("c")
        await stage.until_told("Added b", "Added c")


async def test_a_full_queue_loses_nothing(stage: Stage) -> None:
    """While events are refused the watch waits with the one it holds; then all come, in order."""
    stage.journal.refusals = 2
    async with stage.watching():
        for name in ("a", "b", "c"):
            stage.put(name)
        await stage.until_told("Added a", "Added b", "Added c")
    assert stage.journal.refused == 2


async def test_a_refused_event_comes_again_after_a_restart(stage: Stage) -> None:
    """What was never accepted is not passed over by the cursor."""
    stage.journal.refusals = 1000
    async with stage.watching():
        stage.put("a")
        await until(lambda: stage.journal.refused)
    stage.journal.refusals = 0
    async with stage.watching():
        await stage.until_told("Added a")


async def test_a_stream_that_breaks_again_and_again(
    stage: Stage, plane: ControlPlane, tmp_path: Path
) -> None:
    """Cut between any two changes, the watch tells each once."""
    names = [f"n{i}" for i in range(6)]
    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        async with stage.watching(proxy.kubeconfig):
            for name in names:
                proxy.cut()
                stage.put(name)
            await stage.until_told(*(f"Added {name}" for name in names))
    assert stage.journal.duplicates == 0


async def test_a_silent_watch_is_opened_anew(
    stage: Stage, plane: ControlPlane, tmp_path: Path
) -> None:
    """A connection over which nothing comes is given up after watch_silence_s_max."""
    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        settings = {"watch_silence_s_max": 0.3}
        async with stage.watching(proxy.kubeconfig, settings):
            await until(lambda: sum("watch=true" in path for _, path in proxy.requests) >= 3)
            stage.put("a")
            await stage.until_told("Added a")
