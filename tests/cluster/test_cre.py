"""A CRE workflow from an applied object to its reports, on a real API server and a real port."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from capabilities.prices import Sources, serving
from ground.manifests import Writing, write
from ground.operator import Operator
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest, has_go
from sluice.remembered import Remembered
from triggers.eth_token import ACCOUNT, STRANGER, token

pytestmark = pytest.mark.skipif(not has_go(), reason="no `go` here to build a guest with")
StartOperator = Callable[..., Operator]
FLAGS = ("--egress-allow=127.0.0.1", "--cre-cron-s-min=1")
NEVER = "0 0 1 1 *"


@pytest.fixture
def sources() -> Iterator[Sources]:
    with serving() as known:
        yield known


def apply(scene: Scene, config: dict[str, Any], **spec: Any) -> None:
    written = Writing(name="feed", parts=8, spec={"config": json.dumps(config)} | spec)
    scene.apply(write(guest("cre/price-feed"), written))


def test_a_price_feed_serves(scene: Scene, start_operator: StartOperator, sources: Sources) -> None:
    """Applied as it is, it is Ready with its own triggers, fires by its schedule, and reports."""
    start_operator(*FLAGS)
    apply(scene, sources.config(schedule="* * * * * *", report=f"{sources.url}/report"))
    scene.until_ready("feed")
    wait_until(lambda: sources.sent, 30, "a report is sent")
    run: dict[str, Any] = wait_until(
        lambda: next(iter(scene.status("feed").get("executions", ())), {}), 30, "a run is told"
    )
    assert (run["trigger"], run["outcome"]) == ("cron-0", "Completed")
    assert json.loads(run["result"])["price"] == 97.5
    report = sources.sent[0]["report"]
    assert report.endswith(f"{97_5000_0000:064x}")
    assert scene.status("feed")["serving"]["abi"] == "cre"


def test_a_run_on_request_fires_a_trigger(
    scene: Scene, start_operator: StartOperator, sources: Sources
) -> None:
    """A manual run says which trigger fires, and what cannot be is told in its outcome."""
    start_operator(*FLAGS)
    apply(scene, sources.config(schedule=NEVER, key=ACCOUNT.address))
    scene.until_ready("feed")
    first = scene.run("feed", "first")
    assert json.loads(first["result"])["trigger"] == 0
    second = scene.run("feed", "second", {"trigger": 1, "event": {"a": 1}})
    assert json.loads(second["result"])["trigger"] == 1
    third = scene.run("feed", "third", {"trigger": 2})
    assert third["outcome"] == "Refused"
    assert "there is no trigger 2; the module has 2" in third["message"]


async def test_an_authorized_key_calls_it(
    scene: Scene, start_operator: StartOperator, sources: Sources
) -> None:
    """Who has signed the request starts it, once for each token; a stranger does not."""
    operator = start_operator(*FLAGS)
    apply(scene, sources.config(schedule=NEVER, key=ACCOUNT.address))
    scene.until_ready("feed")
    url = f"{operator.hooks}/v1/namespaces/{scene.namespace}/workflows/feed?wait=30s"
    request = {
        "jsonrpc": "2.0", "id": "1", "method": "workflows.execute",
        "params": {"input": {"why": "asked"}, "workflow": {"workflowID": "feed"}},
    }  # fmt: skip
    body = json.dumps(request, separators=(",", ":")).encode()

    async def call(shown: str, sent: bytes = body) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {shown}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession() as client:  # noqa: SIM117 - two steps of one call
            async with client.post(url, data=sent, headers=headers) as answer:
                return answer.status, await answer.json()

    shown = token(body)
    code, run = await call(shown)
    assert (code, run["outcome"]) == (200, "Completed"), run
    assert run["id"] == "t-1"
    asked = len(sources.asked)
    code, again = await call(shown)  # its end is told again, and nothing runs
    assert (code, again["id"], len(sources.asked)) == (200, "t-1", asked)
    assert (await call(token(body, STRANGER)))[0] == 401
    assert (await call(token(body, jti="t-2"), body + b" "))[0] == 200  # the same envelope
    assert (await call(token(body, jti="t-3"), body.replace(b"asked", b"other")))[0] == 401


def test_a_restart_need_not_ask_again(
    scene: Scene, start_operator: StartOperator, sources: Sources
) -> None:
    """What it has said it subscribes to is believed after a restart, and asked for a new config."""
    operator = start_operator(*FLAGS)
    config = sources.config(schedule=NEVER)
    apply(scene, config)
    scene.until_ready("feed")
    operator.stop()
    # One trigger more than it has: whoever asked it again would not know of that.
    remembered = Remembered(operator.data / "subscriptions", 10)
    digest = hashlib.sha256(guest("cre/price-feed")).hexdigest()
    said = remembered.find(digest, json.dumps(config))
    assert said
    said.subscriptions.append(said.subscriptions[0])
    remembered.keep(digest, json.dumps(config), said)
    operator.start()
    run = scene.run("feed", "after", {"trigger": 1})
    assert json.loads(run["result"])["trigger"] == 1
    scene.patch("feed", {"config": json.dumps(config | {"schedule": "1 0 1 1 *"})})
    scene.until_ready("feed")
    run = scene.run("feed", "anew", {"trigger": 1})
    assert "there is no trigger 1; the module has 1" in run["message"]


def test_what_it_cannot_have_is_told(
    scene: Scene, start_operator: StartOperator, sources: Sources
) -> None:
    """A schedule, a config or a trigger that cannot be is the condition's message."""
    start_operator("--egress-allow=127.0.0.1")
    apply(scene, sources.config(schedule="* * * * * *"))
    ready = scene.until_reason("feed", "InvalidSchedule")
    assert "the fastest schedule is every 30 s (cre_cron_s_min)" in ready["message"]
    scene.patch("feed", {"config": "no JSON"})
    ready = scene.until_reason("feed", "SubscribeFailed")
    assert "the config is not JSON" in ready["message"]
    scene.patch("feed", {"config": json.dumps(sources.config(key="0x12"))})
    ready = scene.until_reason("feed", "TriggerUnsupported")
    assert "subscription 1 of the module, http-trigger@1.0.0-alpha" in ready["message"]
    scene.patch("feed", {"config": json.dumps(sources.config())})
    scene.until_ready("feed")


def test_a_config_map_that_is_mended_heals_it(
    scene: Scene, start_operator: StartOperator, sources: Sources
) -> None:
    """A config that the module refuses is looked at until it changes; nothing is applied anew."""
    start_operator(*FLAGS)

    def config(text: str) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "feed-config"}}
        scene.kubectl("apply", "-f", "-", stdin=json.dumps(body | {"data": {"config": text}}))

    config("no JSON")
    reference = {"configMapKeyRef": {"name": "feed-config", "key": "config"}}
    written = Writing(name="feed", parts=8, spec={"configFrom": reference})
    scene.apply(write(guest("cre/price-feed"), written))
    ready = scene.until_reason("feed", "SubscribeFailed")
    assert "the config is not JSON" in ready["message"]
    config(json.dumps(sources.config()))
    scene.until_ready("feed")
