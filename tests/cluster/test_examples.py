"""The examples as a user meets them: one plain kubectl apply, then a run of each."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ground.controlplane import ControlPlane
from ground.operator import Operator
from ground.scene import Scene

_EXAMPLES = Path(__file__).parents[2] / "examples"
_SOURCES = sorted(path.parent for path in _EXAMPLES.glob("src/*/pack.json"))
_NAMES = [source.name for source in _SOURCES]
_RESULT_CHARS_MAX = 1024  # as much as a status shows of a result


class Stage(NamedTuple):
    plane: ControlPlane
    scene: Scene
    operator: Operator

    def trigger(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``sluice trigger`` as an author who may get and patch Workflows, and no more."""
        return subprocess.run(
            [sys.executable, "-m", "sluice", "trigger", "-n", self.scene.namespace, *arguments],
            env={"KUBECONFIG": str(self.plane.kubeconfig("author"))},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def stage(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    namespace = plane.create_namespace("examples")
    scene = Scene(plane, namespace)
    rights = ("--verb=get,patch", "--resource=workflows.sluice.dev")
    scene.kubectl("create", "role", "author", *rights)
    scene.kubectl("create", "rolebinding", "author", "--role=author", "--user=author")
    directory = tmp_path_factory.mktemp("examples")
    operator = Operator(plane.kubeconfig("operator"), directory, (namespace,))
    operator.start()
    yield Stage(plane, scene, operator)
    assert operator.stop() == 0
    plane.delete_namespace(namespace)


def test_all_of_them_are_ready_after_a_plain_apply(stage: Stage) -> None:
    """``kubectl apply -f examples/`` and ``kubectl wait`` is all that it takes."""
    scene = stage.scene
    scene.kubectl("apply", "-f", str(_EXAMPLES))
    wait = ("wait", "slw", "--all", "--for=condition=Ready", "--timeout=180s")
    ready = stage.plane.kubectl("-n", scene.namespace, *wait, timeout_s=200).stdout.splitlines()
    assert ready == [f"workflow.sluice.dev/{name} condition met" for name in _NAMES]
    assert scene.kubectl("apply", "-f", str(_EXAMPLES)).count("unchanged") > len(_NAMES)


@pytest.mark.parametrize("source", _SOURCES, ids=_NAMES)
def test_a_run_on_request_gives_what_lies_beside_the_source(stage: Stage, source: Path) -> None:
    """The manual trigger runs on the data of the spec, and the result stands in the status."""
    run = stage.scene.run(source.name, "first")
    assert run["outcome"] == "Completed"
    (expected,) = source.glob("expected.*")
    text = expected.read_text()
    if expected.suffix == ".json":
        text = json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    shown = run["result"].rstrip("\n")
    if len(text) < _RESULT_CHARS_MAX and expected.suffix == ".json":
        assert json.loads(shown) == json.loads(text)
    else:
        assert shown == text[:_RESULT_CHARS_MAX].rstrip("\n")


def test_sluice_trigger_brings_an_event_and_prints_the_result(stage: Stage, tmp_path: Path) -> None:
    """An author with get and patch on Workflows sends data from a file or stdin and waits."""
    event = tmp_path / "quote.json"
    event.write_text('{"symbol": "SLUICE", "price": "106.50"}')
    done = stage.trigger("price-alert", "--event", str(event), "--wait", "30")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["alert"], answer["reason"]) == (True, "above 105.00")
    done = stage.trigger("price-alert", "--event", "-", "--wait", "30", stdin='{"symbol": "NIL"}')
    assert done.returncode == 1
    assert done.stdout.startswith("Failed")


def test_sluice_trigger_says_what_is_wrong_in_one_line(stage: Stage) -> None:
    """A name that is not there and a namespace that is not allowed are told apart by exit code."""
    missing = stage.trigger("nothing", "--wait", "30")
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "there is no workflow" in missing.stderr
    forbidden = stage.trigger("price-alert", "-n", "default")
    assert (forbidden.returncode, forbidden.stdout) == (4, "")
    for done in (missing, forbidden):
        assert len(done.stderr.splitlines()) == 1
