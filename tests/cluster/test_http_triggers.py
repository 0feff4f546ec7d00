"""HTTP triggers as a sender meets them: curl and aiohttp at the real port of a real operator."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import aiohttp
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kubernetes.aio import client, config

from cluster.hooks import BEARER, SECRETS_ROLE, TOKEN, Hooks
from ground.controlplane import ControlPlane
from ground.manifests import Writing, write
from ground.operator import Operator
from ground.proxy import Proxy
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest
from sluice.adapters.kubernetes.api import Api
from sluice.adapters.kubernetes.secrets import Secrets
from sluice.errors import SourceUnavailable
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import SecretKeyRef

StartOperator = Callable[..., Operator]


@pytest.fixture
def hooks(scene: Scene) -> Hooks:
    made = Hooks(scene)
    made.allow()
    return made


def test_a_suspended_workflow_asks_its_callers_to_come_back(
    hooks: Hooks, start_operator: StartOperator
) -> None:
    """A sender with the credentials hears 503, not that they are wrong; a stranger hears nothing.

    Its executions can still be looked at, and it takes events again when it is resumed.
    """
    hooks.operator = start_operator()
    hooks.secret()
    hooks.apply("echo", BEARER)
    hooks.scene.until_ready("echo")
    code, before = hooks.send("echo", rest="?wait=30s")
    assert code == 200
    hooks.suspend("echo", suspend=True)
    hooks.scene.until_reason("echo", Reason.SUSPENDED)
    code, told = hooks.send("echo", "-H", "Idempotency-Key: later")
    assert (code, "id" in told) == (503, False)
    assert hooks.curl("echo", "-X", "POST", "-H", "Authorization: Bearer wrong")[0] == 401
    assert hooks.ended("echo", before["id"])["outcome"] == "Completed"
    hooks.suspend("echo", suspend=False)
    hooks.scene.until_ready("echo")
    assert hooks.send("echo", "-H", "Idempotency-Key: later") == (202, {"id": "later"})
    assert hooks.ended("echo", "later")["outcome"] == "Completed"


def test_a_workflow_that_cannot_start_asks_its_callers_to_come_back(
    hooks: Hooks, start_operator: StartOperator
) -> None:
    """What a missing ConfigMap keeps from serving loses no sender: they hear 503 until it heals."""
    hooks.operator = start_operator()
    hooks.secret()
    spec = {
        "triggers": [{"name": "hook", "http": {"auth": BEARER}}],
        "configFrom": {"configMapKeyRef": {"name": "late"}},
    }
    hooks.scene.apply(write(guest("echo"), Writing(name="echo", spec=spec)))
    hooks.scene.until_reason("echo", Reason.CONFIG_MAP_NOT_FOUND)
    assert hooks.send("echo")[0] == 503
    assert hooks.curl("echo", "-X", "POST", "-H", "Authorization: Bearer wrong")[0] == 401
    hooks.scene.kubectl("create", "configmap", "late", "--from-literal=config=x")
    hooks.scene.until_ready("echo")
    assert hooks.send("echo", "-H", "Idempotency-Key: now") == (202, {"id": "now"})
    assert hooks.ended("echo", "now")["outcome"] == "Completed"


def test_a_request_becomes_an_execution(hooks: Hooks, start_operator: StartOperator) -> None:
    """What is sent with the Secret's token reaches the guest, and its result the sender."""
    hooks.operator = start_operator("--log-level=debug")
    hooks.secret()
    hooks.apply("echo", BEARER)
    hooks.scene.until_ready("echo")
    assert hooks.curl("echo", "-X", "POST", "-H", "Authorization: Bearer wrong")[0] == 401
    data = ("-H", "Content-Type: application/json", "-d", '{"price": 97}')
    code, told = hooks.send("echo", *data, "-H", "Idempotency-Key: order-1")
    assert (code, told) == (202, {"id": "order-1"})
    event = json.loads(hooks.ended("echo", "order-1")["result"])
    assert (event["id"], event["data"]) == ("order-1", {"price": 97})
    assert event["type"] == "dev.sluice.http"
    code, told = hooks.send("echo", *data, rest="/triggers/hook?wait=30s")
    assert (code, told["outcome"]) == (200, "Completed")
    code, told = hooks.send("echo", "-H", "Idempotency-Key: order-1")
    assert (code, told["id"], told["outcome"]) == (200, "order-1", "Completed")
    assert hooks.operator.metrics()["sluice_events_total{result=accepted,trigger=http}"] == 2
    assert hooks.operator.metrics()["sluice_webhook_requests_total{code=401}"] == 1
    assert TOKEN not in hooks.operator.log


def test_a_signed_delivery_of_github(hooks: Hooks, start_operator: StartOperator) -> None:
    """A delivery signed as GitHub signs is taken once, with its id and what kind it is."""
    hooks.operator = start_operator()
    hooks.secret("It's a Secret to Everybody", key="secret")
    hooks.apply("echo", {"hmac": {"secretKeyRef": {"name": "hook"}}})
    hooks.scene.until_ready("echo")
    signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    signed = f"X-Hub-Signature-256: sha256={signature}"
    delivery = ("-H", "X-GitHub-Delivery: 72d3162e", "-H", "X-GitHub-Event: push",
                "-H", "Content-Type: text/plain", "-H", signed, "-X", "POST")  # fmt: skip
    code, told = hooks.curl("echo", *delivery, "-d", "Hello, World!", rest="?wait=30s")
    event = json.loads(told["result"])
    assert (code, event["id"], event["subject"]) == (200, "72d3162e", "push")
    assert event["data"] == "Hello, World!"
    assert hooks.curl("echo", *delivery, "-d", "Hello, world!")[0] == 401


def test_a_signed_token_and_a_cloudevent(hooks: Hooks, start_operator: StartOperator) -> None:
    """A JWT of the spec's key lets a CloudEvent in, in both its modes; another key's does not."""
    hooks.operator = start_operator()
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    hooks.apply("echo", {"jwt": {"keys": [{"pem": pem.decode()}], "audience": "echo"}})
    hooks.scene.until_ready("echo")

    def bearer(signer: ec.EllipticCurvePrivateKey) -> tuple[str, ...]:
        token = jwt.encode({"exp": int(time.time()) + 60, "aud": "echo"}, signer, "ES256")
        return ("-X", "POST", "-H", f"Authorization: Bearer {token}")

    binary = ("-H", "ce-specversion: 1.0", "-H", "ce-id: evt-1", "-H", "ce-source: /shop",
              "-H", "ce-type: order.paid", "-H", "Content-Type: application/json",
              "-d", '{"a": 1}')  # fmt: skip
    structured = ("-H", "Content-Type: application/cloudevents+json", "-d", json.dumps({
        "specversion": "1.0", "id": "evt-2", "source": "/shop", "type": "order.paid",
        "data": {"a": 1},
    }))  # fmt: skip
    for sent in (binary, structured):
        assert hooks.curl("echo", *bearer(other), *sent)[0] == 401
        code, told = hooks.curl("echo", *bearer(key), *sent, rest="?wait=30s")
        assert code == 200, told
        event = json.loads(told["result"])
        assert (event["source"], event["type"], event["data"]) == (
            "/shop", "order.paid", {"a": 1},
        )  # fmt: skip


def test_a_changed_secret_counts_soon(hooks: Hooks, start_operator: StartOperator) -> None:
    """A rotated token is good within seconds although the old one was good just now; it no more."""
    hooks.operator = start_operator()
    hooks.secret()
    hooks.apply("echo", BEARER)
    hooks.scene.until_ready("echo")
    assert hooks.send("echo")[0] == 202
    hooks.secret("rotated")
    rotated = ("-X", "POST", "-H", "Authorization: Bearer rotated")
    wait_until(lambda: hooks.curl("echo", *rotated)[0] == 202, 20, "the new token is good")
    assert hooks.send("echo")[0] == 401


def test_a_secret_that_cannot_be_had_is_a_condition(
    scene: Scene, start_operator: StartOperator
) -> None:
    """Whether the right, the Secret or its key is missing: the workflow says so, then is Ready."""
    hooks = Hooks(scene)
    hooks.operator = start_operator("--source-retry-s-max=1", "--secret-age-s-max=1")
    hooks.apply("echo", BEARER)
    told = scene.until_reason("echo", "SecretForbidden")
    assert "may not read Secret hook" in told["message"]
    hooks.allow()
    scene.until_reason("echo", "SecretNotFound")
    hooks.secret(key="other")
    wait_until(
        lambda: "no key token" in scene.condition("echo").get("message", ""), 30, "the key is told"
    )
    hooks.secret()
    scene.until_ready("echo")
    assert hooks.send("echo")[0] == 202


def test_the_right_to_secrets_is_used_by_name_alone(
    plane: ControlPlane, hooks: Hooks, start_operator: StartOperator, tmp_path: Path
) -> None:
    """The operator gets the one Secret that a trigger names; the opt-in Role grants only that."""
    rules = yaml.safe_load(SECRETS_ROLE.read_text())["rules"]
    assert rules == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        hooks.operator = start_operator(kubeconfig=proxy.kubeconfig)
        hooks.secret()
        hooks.secret(name="another")
        hooks.apply("echo", BEARER)
        hooks.scene.until_ready("echo")
        assert [hooks.send("echo")[0] for _ in range(3)] == [202] * 3
        read = [(method, path) for method, path in proxy.requests if "/secrets" in path]
        assert hooks.operator.stop() == 0
    assert read == [("GET", f"/api/v1/namespaces/{hooks.scene.namespace}/secrets/hook")]


@pytest.mark.parametrize("there", [True, False])
def test_who_guesses_does_not_make_us_flood_the_api_server(
    plane: ControlPlane, hooks: Hooks, tmp_path: Path, there: bool
) -> None:
    """However many ask for a Secret anew, it is read once; one that is not there as well."""
    if there:
        hooks.secret()

    async def ask(secrets: Secrets) -> bytes | str:
        try:
            ref = SecretKeyRef(name="hook", key="token")
            return await secrets.secret(hooks.scene.namespace, ref, fresh=True)
        except SourceUnavailable as e:
            return e.reason

    async def ask_often() -> set[bytes | str]:
        configuration = client.Configuration()
        await config.load_kube_config(str(proxy.kubeconfig), client_configuration=configuration)
        async with aclosing(Api(configuration)) as api:
            secrets = Secrets(api, Settings())
            answers = await asyncio.gather(*(ask(secrets) for _ in range(100)))
            return {*answers, await ask(secrets)}

    with Proxy(plane.kubeconfig("operator"), tmp_path) as proxy:
        assert asyncio.run(ask_often()) == {TOKEN.encode() if there else Reason.SECRET_NOT_FOUND}
        assert len(proxy.requests) == 1


def test_accepted_survives_a_kill(hooks: Hooks, start_operator: StartOperator) -> None:
    """What was answered with 202 runs after SIGKILL, once, and can be asked for by its id."""
    hooks.operator = start_operator("--workers=1")
    hooks.secret()
    hooks.apply("slow", BEARER, "rest", "300")
    hooks.scene.until_ready("slow")
    ids = [f"order-{i}" for i in range(5)]
    for id_ in ids:
        assert hooks.send("slow", "-H", f"Idempotency-Key: {id_}")[0] == 202
    hooks.operator.kill()
    hooks.operator.start()
    seen: list[int] = []

    def open_again() -> bool:
        seen.append(hooks.send("slow", "-H", "Idempotency-Key: order-0")[0])
        return seen[-1] in {200, 202}

    wait_until(open_again, 30, f"the trigger is open again; it answered {seen}")
    assert set(seen) <= {503, 202, 200}  # nobody was sent away for good meanwhile
    for id_ in ids:
        assert hooks.ended("slow", id_)["outcome"] == "Completed"
    listed = _sluice(
        hooks.operator, "executions", "slow", "-n", hooks.scene.namespace, "-o", "json"
    )
    assert sorted(one["id"] for one in json.loads(listed)) == ids


def test_the_admin_sees_executions_and_their_logs(
    hooks: Hooks, start_operator: StartOperator
) -> None:
    """`sluice executions` and `sluice logs` tell of them, by the same port as `sluice status`."""
    hooks.operator = start_operator()
    hooks.apply("acts", {"anonymous": {}}, "answer", "hello")
    hooks.scene.until_ready("acts")
    code, told = hooks.curl("acts", "-X", "POST", rest="?wait=30s")
    assert (code, told["result"]) == (200, "hello")
    where = ("acts", "-n", hooks.scene.namespace)
    header, row = _sluice(hooks.operator, "executions", *where).splitlines()
    assert header.split() == ["ID", "TRIGGER", "STARTED", "TOOK", "OUTCOME", "RESULT"]
    assert [told["id"], "hook"] == row.split()[:2]
    assert row.split()[-2:] == ["Completed", "hello"]
    head, log = _sluice(hooks.operator, "logs", *where).splitlines()
    assert told["id"] in head
    assert log == "log of hello"


def test_a_flood_hurts_neither_probes_nor_neighbours(
    hooks: Hooks, start_operator: StartOperator
) -> None:
    """While strangers flood the port and hold connections open, probes and a sender are served."""
    operator = hooks.operator = start_operator("--http-read-s-max=2")
    hooks.secret()
    hooks.apply("echo", BEARER, rate={"perMinute": 6000, "burst": 1000})
    hooks.scene.until_ready("echo")
    asyncio.run(_flood(operator, hooks.path("echo"), served=20))
    assert operator.live()
    assert operator.metrics()["sluice_webhook_requests_total{code=401}"] > 100
    assert hooks.send("echo", rest="?wait=30s")[0] == 200


async def _flood(operator: Operator, path: str, served: int) -> None:
    """Flood with wrong tokens and slow clients until ``served`` good requests got through."""
    over = asyncio.Event()
    port = int(operator.hooks.rpartition(":")[2])

    async def strangers(http: aiohttp.ClientSession) -> None:
        while not over.is_set():
            headers = {"Authorization": "Bearer wrong"}
            async with http.post(path, headers=headers, data=b"x" * 10_000) as answer:
                await answer.read()

    async def slow() -> None:
        while not over.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"POST {path} HTTP/1.1\r\nContent-Length: 9999\r\n\r\n".encode())
            await reader.read()
            writer.close()

    async with (
        aiohttp.ClientSession(operator.hooks, connector=aiohttp.TCPConnector(limit=0)) as http,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(60):
            group.create_task(strangers(http))
        for _ in range(30):
            group.create_task(slow())
        async with asyncio.timeout(60):
            for _ in range(served):
                headers = {"Authorization": f"Bearer {TOKEN}"}
                async with http.post(f"{path}?wait=30s", headers=headers) as answer:
                    assert answer.status == 200
                async with http.get(f"{operator.url}/healthz") as answer:
                    assert answer.status == 200
        over.set()


def test_a_waiting_caller_is_told_at_the_end(hooks: Hooks, start_operator: StartOperator) -> None:
    """At SIGTERM who waits is answered 202, and the next operator finishes what was begun."""
    operator = hooks.operator = start_operator("--drain-s=1")
    hooks.apply("slow", {"anonymous": {}}, "rest", "5000")
    hooks.scene.until_ready("slow")

    async def ended() -> tuple[int, int | None]:
        async with aiohttp.ClientSession(operator.hooks) as http:
            path = f"{hooks.path('slow')}?wait=60s"
            waits = asyncio.create_task(http.post(path, headers={"Idempotency-Key": "a"}))
            await asyncio.to_thread(wait_until, lambda: _running(operator), 30, "it runs")
            code = await asyncio.to_thread(operator.stop)
            return (await waits).status, code

    assert asyncio.run(ended()) == (202, 0)
    operator.start()
    hooks.scene.until_ready("slow")
    wait_until(lambda: "Completed" in _sluice(operator, "executions", "slow", "-n",
                                              hooks.scene.namespace), 30, "it ran")  # fmt: skip


def _running(operator: Operator) -> bool:
    return operator.metrics()["sluice_executions_running"] == 1


def _sluice(operator: Operator, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sluice", *words, "--url", operator.url],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
