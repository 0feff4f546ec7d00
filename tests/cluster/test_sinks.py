"""Results in ConfigMaps and over HTTP: a real API server, a real receiver, the real operator."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client, config

from fakes import workflow
from ground.manifests import Writing, Written, write
from ground.operator import ROLE, Operator
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest
from sluice.adapters.kubernetes.api import Api
from sluice.adapters.kubernetes.sink import ConfigMapSink
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.settings import Settings
from sluice.sinks import Undelivered
from sluice.snapshot import Run
from sluice.workflow import Workflow

StartOperator = Callable[..., Operator]


def _grant(scene: Scene) -> None:
    """Bind the role that ships for it, in this namespace alone."""
    scene.plane.kubectl(
        "apply", "--server-side", "-f", str(ROLE.with_name("clusterrole-sink.yaml"))
    )
    scene.kubectl(
        "create", "rolebinding", "sink", "--clusterrole=sluice-operator-sink",
        "--user=sluice-operator",
    )  # fmt: skip


def _config_map(scene: Scene, name: str = "result") -> dict[str, Any]:
    path = f"/api/v1/namespaces/{scene.namespace}/configmaps/{name}"
    found: dict[str, Any] = scene.plane.api("GET", path).json()
    return found


# One write at a time


@asynccontextmanager
async def _sink(scene: Scene, **settings: Any) -> AsyncIterator[ConfigMapSink]:
    configuration = client.Configuration()
    file = str(scene.plane.kubeconfig("operator"))
    await config.load_kube_config(file, client_configuration=configuration)
    async with aclosing(Api(configuration)) as api:
        yield ConfigMapSink(api, Settings(**settings), Metrics())


def _own(scene: Scene, uid: str = "11111111-0000-0000-0000-000000000000") -> Workflow:
    given = workflow(
        ("0" * 64, 1), namespace=scene.namespace, sink={"configMap": {"name": "result"}}
    )
    return Workflow(key=given.key, uid=uid, generation=1, spec=given.spec)


def _run(result: bytes, id_: str = "id-1", kind: OutcomeKind = OutcomeKind.COMPLETED) -> Run:
    return Run(id_, "manual", datetime(2026, 1, 1, tzinfo=UTC), Outcome(kind, result=result))


async def test_the_key_holds_the_newest_result(scene: Scene) -> None:
    """The ConfigMap belongs to its workflow, and says whose result it holds."""
    _grant(scene)
    async with _sink(scene) as sink:
        await sink.put(_own(scene), _run(b"first"))
        await sink.put(_own(scene), _run(b"second", "id-2", OutcomeKind.FAILED))
    found = _config_map(scene)
    assert found["data"] == {"result": "second"}
    annotations = found["metadata"]["annotations"]
    assert annotations == {"sluice.dev/execution": "id-2", "sluice.dev/outcome": "Failed"}
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Workflow", "hello", _own(scene).uid)
    assert not owner.get("controller")


async def test_bytes_and_text_take_each_others_place(scene: Scene) -> None:
    """A result that is no text lies under binaryData, and leaves nothing of the one before."""
    _grant(scene)
    async with _sink(scene) as sink:
        await sink.put(_own(scene), _run(b"text"))
        await sink.put(_own(scene), _run(b"\xff\x00"))
        found = _config_map(scene)
        assert (found.get("data"), found["binaryData"]) == (None, {"result": "/wA="})
        await sink.put(_own(scene), _run(b"text again"))
    found = _config_map(scene)
    assert (found["data"], found.get("binaryData")) == ({"result": "text again"}, None)


async def test_other_keys_are_left_alone(scene: Scene) -> None:
    """What a person adds to the ConfigMap stays; what he does to our key does not."""
    _grant(scene)
    async with _sink(scene) as sink:
        await sink.put(_own(scene), _run(b"first"))
        patch = json.dumps({"data": {"mine": "stays", "result": "edited"}})
        scene.kubectl("patch", "configmap", "result", "--type=merge", "-p", patch)
        await sink.put(_own(scene), _run(b"second"))
    assert _config_map(scene)["data"] == {"mine": "stays", "result": "second"}


@pytest.mark.parametrize("owner", [None, "22222222-0000-0000-0000-000000000000"])
async def test_a_config_map_that_is_not_ours_is_not_written(
    scene: Scene, owner: str | None
) -> None:
    """Through the operator nobody writes what he could not write himself."""
    _grant(scene)
    async with _sink(scene) as sink:
        if owner:
            await sink.put(_own(scene, owner), _run(b"another workflow's"))
        else:
            scene.kubectl("create", "configmap", "result", "--from-literal=result=somebody's")
        before = _config_map(scene)
        with pytest.raises(Undelivered, match="not this workflow's own") as told:
            await sink.put(_own(scene), _run(b"taken over"))
    assert told.value.passing is False
    assert _config_map(scene) == before


async def test_one_that_is_deleted_meanwhile_is_made_anew(scene: Scene) -> None:
    """The next result is in a new one."""
    _grant(scene)
    async with _sink(scene) as sink:
        await sink.put(_own(scene), _run(b"first"))
        scene.delete("configmap", "result")
        await sink.put(_own(scene), _run(b"second"))
    assert _config_map(scene)["data"] == {"result": "second"}


async def test_a_result_that_fits_and_one_that_does_not(scene: Scene) -> None:
    """Up to the bound it is written, whatever its bytes; one byte more is refused, told why."""
    _grant(scene)
    most = Settings().sink_config_map_bytes_max
    async with _sink(scene) as sink:
        for byte in (b"x", b"\xff", b'"', "ü".encode()):
            await sink.put(_own(scene), _run(byte * (most // len(byte))))
        with pytest.raises(Undelivered, match="sink_config_map_bytes_max") as told:
            await sink.put(_own(scene), _run(b"x" * (most + 1)))
    assert told.value.passing is False


@pytest.mark.parametrize(("given", "missing"), [("patch", "create"), ("create", "patch")])
async def test_a_missing_right_names_the_role(scene: Scene, given: str, missing: str) -> None:
    """One of the two rights is not enough; the message has what is missing, and the role."""
    scene.kubectl("create", "role", "half", f"--verb={given}", "--resource=configmaps")
    scene.kubectl("create", "rolebinding", "half", "--role=half", "--user=sluice-operator")
    async with _sink(scene) as sink:
        with pytest.raises(Undelivered, match="sluice-operator-sink") as told:
            await sink.put(_own(scene), _run(b"x"))
    assert f"cannot {missing} resource" in told.value.message
    assert told.value.passing is False


# The operator


class _Receiver(http.server.ThreadingHTTPServer):
    """Takes what is posted; refuses as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.refusals = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/results"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver = self.server
        assert isinstance(receiver, _Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if receiver.refusals:
            receiver.refusals -= 1
            self.send_response(503)
        else:
            receiver.seen.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[_Receiver]:
    with _Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, daemon=True)
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


def _workflow(sink: dict[str, Any], *args: str) -> Written:
    spec = {"args": list(args) or ["answer", "[42]"], "sink": sink}
    return write(guest("acts"), Writing(name="hello", spec=spec))


def test_results_are_posted(
    scene: Scene, start_operator: StartOperator, receiver: _Receiver
) -> None:
    """Each result arrives as a CloudEvent, though the receiver was away at first."""
    operator = start_operator("--egress-allow=127.0.0.1")
    receiver.refusals = 1
    scene.apply(_workflow({"http": {"url": receiver.url}}))
    scene.until_ready("hello")
    scene.run("hello", "first")
    wait_until(lambda: receiver.seen, 20, "it was posted")
    [(told, body)] = receiver.seen
    assert body == b"[42]"
    assert told["content-type"] == "application/json"
    assert told["ce-type"] == "dev.sluice.execution.Completed"
    assert (told["ce-id"], told["ce-sluicetrigger"]) == ("first", "manual")
    assert told["ce-source"] == f"/{scene.namespace}/hello"
    assert "authorization" not in told
    delivered = "sluice_sink_deliveries_total{kind=http,result=delivered}"
    wait_until(lambda: operator.metrics()[delivered] == 1, 10, "it was counted")


def test_a_failure_is_posted_too(
    scene: Scene, start_operator: StartOperator, receiver: _Receiver
) -> None:
    """Whatever the outcome, the receiver hears of it once, after the last try."""
    start_operator("--egress-allow=127.0.0.1")
    written = _workflow({"http": {"url": receiver.url}}, "answer", "half", "3")
    written.spec["retries"] = {"limit": 1, "backoff": "10ms"}
    scene.apply(written)
    scene.until_ready("hello")
    scene.run("hello", "first")
    wait_until(lambda: receiver.seen, 20, "it was posted")
    [(told, body)] = receiver.seen
    assert told["ce-type"] == "dev.sluice.execution.Failed"
    assert body == b"half"


def test_what_is_around_the_operator_is_not_posted_to(
    scene: Scene, start_operator: StartOperator, receiver: _Receiver
) -> None:
    """Without the admin's word loopback is closed, even in a range: SinkFailed tells it."""
    operator = start_operator("--egress-allow=0.0.0.0/0")
    scene.apply(_workflow({"http": {"url": f"{receiver.url}?token=hunter2"}}))
    scene.until_ready("hello")
    assert scene.run("hello", "first")["outcome"] == "Completed"
    wait_until(lambda: "SinkFailed" in scene.reasons("hello"), 20, "it was told")
    [event] = [e for e in scene.events("hello") if e["reason"] == "SinkFailed"]
    assert event["type"] == "Warning"
    assert "127.0.0.1 is " in event["note"]
    assert "egress_allow" in event["note"]
    assert "hunter2" not in event["note"] + operator.log
    assert receiver.seen == []


def test_the_api_server_is_not_posted_to(scene: Scene, start_operator: StartOperator) -> None:
    """A range that the admin opens does not open the API server that lies in it."""
    start_operator("--egress-allow=127.0.0.0/8")
    scene.apply(_workflow({"http": {"url": f"{scene.plane.server}/api"}}))
    scene.until_ready("hello")
    scene.run("hello", "first")
    wait_until(lambda: "SinkFailed" in scene.reasons("hello"), 20, "it was told")
    [event] = [e for e in scene.events("hello") if e["reason"] == "SinkFailed"]
    assert "API server" in event["note"]


def test_a_result_is_kept_in_a_config_map(scene: Scene, start_operator: StartOperator) -> None:
    """What kubectl reads is the newest result; the ConfigMap is the workflow's."""
    _grant(scene)
    start_operator()
    scene.apply(_workflow({"configMap": {"name": "answer", "key": "the.answer"}}))
    scene.until_ready("hello")
    scene.run("hello", "first")
    wait_until(lambda: "data" in _config_map(scene, "answer"), 20, "it is written")
    found = _config_map(scene, "answer")
    assert found["data"] == {"the.answer": "[42]"}
    owner = found["metadata"]["ownerReferences"][0]["uid"]
    assert owner == scene.get("hello")["metadata"]["uid"]
    assert "SinkFailed" not in scene.reasons("hello")


def test_without_the_right_the_event_says_how(scene: Scene, start_operator: StartOperator) -> None:
    """The run itself is not the worse for it."""
    start_operator()
    scene.apply(_workflow({"configMap": {"name": "answer"}}))
    scene.until_ready("hello")
    assert scene.run("hello", "first")["outcome"] == "Completed"
    wait_until(lambda: "SinkFailed" in scene.reasons("hello"), 20, "it was told")
    [event] = [e for e in scene.events("hello") if e["reason"] == "SinkFailed"]
    assert "sluice-operator-sink" in event["note"]


def test_without_a_cluster_results_are_posted_too(tmp_path: Path, receiver: _Receiver) -> None:
    """`sluice run --once` ends when what it ran was delivered."""
    for i, item in enumerate(_workflow({"http": {"url": receiver.url}}).items()):
        (tmp_path / f"{i}.json").write_text(json.dumps(item))
    command = [sys.executable, "-m", "sluice", "run", "--once", "--egress-allow=127.0.0.1"]
    data = f"--data-dir={tmp_path / 'data'}"
    done = subprocess.run(
        [*command, data, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    [(told, body)] = receiver.seen
    assert (told["ce-type"], body) == ("dev.sluice.execution.Completed", b"[42]")


def test_a_rule_that_cannot_be_read_ends_the_start(
    scene: Scene, start_operator: StartOperator
) -> None:
    """An operator with a guard that nobody understood does not run; it says what is wrong."""
    operator = Operator(
        scene.plane.kubeconfig("operator"), scene.plane.directory, (scene.namespace,),
        "--egress-allow=10.0.0.1/8",
    )  # fmt: skip
    operator.start(ready=False)
    assert operator.wait(30) not in {0, None}
    assert 'egress_allow: "10.0.0.1/8"' in operator.log
    assert "Traceback" not in operator.log
    operator.stop()
