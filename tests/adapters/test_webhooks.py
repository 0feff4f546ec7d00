"""The trigger port as its callers meet it: real requests, the executions behind it a stand-in."""

import asyncio
import hashlib
import hmac
import json
import logging
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from adapters.door import BAD, GOOD, HELLO, HOOK, TOKEN, Desk, Door
from fakes import in_virtual_time, until
from sluice.errors import EngineRefused, SourceUnavailable
from sluice.event import Event
from sluice.reasons import Reason


async def test_an_event_is_accepted_and_its_execution_can_be_asked_for() -> None:
    """202 comes with an id and where to look; there it waits, and then it is over."""
    async with Door().serving() as door:
        answer = await door.http.post(HOOK, json={"a": 1}, headers=GOOD)
        id_ = (await answer.json())["id"]
        where = answer.headers["Location"]
        assert (answer.status, where) == (202, f"{HOOK}/executions/{id_}")
        assert door.desk.events[id_].data == {"a": 1}
        assert (await door.get(where))[1]["state"] == "Waiting"
        door.desk.finish(id_)
        status, told = await door.get(where)
        assert status == 200
        assert (told["outcome"], told["result"]) == ("Completed", '{"ok":true}')
        assert "what it logged" not in json.dumps(told)
        assert door.answered(202) == 1
        assert door.answered(200) == 2


async def test_the_only_http_trigger_needs_no_name() -> None:
    """One trigger is meant by its workflow's path; of two, none is."""
    async with Door().serving() as door:
        assert (await door.post(HELLO))[0] == 202
        with door.open("second"):
            assert (await door.post(HELLO))[0] == 401
            assert (await door.post(f"{HELLO}/triggers/second"))[0] == 202
        assert (await door.post(f"{HELLO}/triggers/second"))[0] == 401
        assert (await door.post(HELLO))[0] == 202


async def test_a_caller_may_wait_for_the_end() -> None:
    """With ?wait the answer is the outcome, or 202 when it is not over in time."""
    async with Door().serving() as door:
        request = asyncio.create_task(
            door.post(f"{HOOK}?wait=30s", headers=GOOD | {"Idempotency-Key": "a"})
        )
        await until(lambda: "a" in door.desk.ends)
        door.desk.finish("a", b"\xff")
        status, told = await request
        assert (status, told["outcome"], told["resultBase64"]) == (200, "Completed", "/w==")
        assert (await door.post(f"{HOOK}?wait=10ms"))[0] == 202
        status, told = await door.post(f"{HOOK}?wait=61s")
        assert (status, "at most 60s" in told["error"]) == (400, True)


async def test_a_repeated_id_is_one_execution() -> None:
    """The same Idempotency-Key answers the first one's id and state, then its outcome."""
    async with Door().serving() as door:
        again: dict[str, Any] = {"headers": GOOD | {"Idempotency-Key": "a"}}
        assert await door.post(json=1, **again) == (202, {"id": "a"})
        status, told = await door.post(json=2, **again)
        assert (status, told["id"], told["state"]) == (202, "a", "Waiting")
        door.desk.finish("a")
        status, told = await door.post(json=3, **again)
        assert (status, told["outcome"]) == (200, "Completed")
        assert door.desk.events["a"].data == 1
        door.desk.events.clear()  # forgotten, but for the id
        assert await door.post(**again) == (202, {"id": "a", "state": "Finished"})


async def test_a_triggers_callers_see_its_own_executions_alone() -> None:
    """What another trigger of the workflow has started is not there, and its id is taken."""
    async with Door().serving() as door:
        door.desk.trigger = "nightly"
        await door.desk.fire(Event(kind="cron", trigger="nightly", id="a"))
        assert (await door.get(f"{HOOK}/executions/a"))[0] == 404
        for _ in ("pending", "over"):
            status, told = await door.post(f"{HOOK}?wait=1s",
                                           headers=GOOD | {"Idempotency-Key": "a"})  # fmt: skip
            assert (status, set(told)) == (409, {"error"})
            if not door.desk.ends["a"].done():
                door.desk.finish("a")


async def test_one_answer_for_all_that_is_not_ones_own() -> None:
    """No workflow, no trigger, wrong, no or other credentials: not a byte of the answer differs."""
    asked = [
        ("POST", "/v1/namespaces/other/workflows/hello/triggers/hook", GOOD),
        ("POST", "/v1/namespaces/team/workflows/other/triggers/hook", GOOD),
        ("POST", f"{HELLO}/triggers/other", GOOD),
        ("POST", "/v1/namespaces/team/workflows/other", GOOD),
        ("POST", HOOK, BAD),
        ("POST", HOOK, {}),
        ("POST", HOOK, {"X-Hub-Signature-256": "sha256=00"}),
        ("POST", f"{HOOK}?wait=never", BAD),
        ("POST", HOOK, BAD | {"Content-Type": "application/cloudevents-batch+json"}),
        ("GET", f"{HOOK}/executions/a", BAD),
        ("GET", f"{HOOK}/executions/none", BAD),
        ("GET", "/v1/namespaces/team/workflows/other/executions/a", GOOD),
    ]
    async with Door().serving() as door:
        await door.desk.fire(Event(kind="http", trigger="hook", id="a"))
        seen = set()
        for method, path, headers in asked:
            async with door.http.request(method, path, headers=headers, data=b"{") as answer:
                raw = {k: v for k, v in answer.raw_headers if k != b"Date"}
                seen.add((answer.status, str(sorted(raw.items())), await answer.text()))
        assert len(seen) == 1
        assert seen.pop()[0] == 401
        assert set(door.desk.events) == {"a"}


@pytest.mark.parametrize("takes_s", [0.0, 0.15])
def test_a_refusal_comes_after_one_time(takes_s: float) -> None:
    """Whether there was a Secret to be read anew does not show in when the answer comes."""

    async def refused_after(name: str) -> float:
        door = Door()
        door.vault.takes_s = takes_s
        match = {"namespace": "team", "name": name, "trigger": "hook"}
        request = make_mocked_request("POST", "/", headers=BAD, match_info=match)
        with door.open():
            answer = await door.webhooks._let_in(request, b"")
        assert getattr(answer, "status", None) == 401
        return asyncio.get_running_loop().time()

    known, unknown = (in_virtual_time(refused_after(name)) for name in ("hello", "other"))
    assert known == unknown > takes_s


async def test_a_triggers_own_limit_is_told_to_its_callers() -> None:
    """A body beyond http.body is 413 to who may come in; one of that size is accepted."""
    async with Door().serving(body=100) as door:
        status, told = await door.post(data=b"x" * 101)
        assert (status, "more than 100 bytes" in told["error"]) == (413, True)
        assert (await door.post(data=b"x" * 101, headers=BAD))[0] == 401
        assert (await door.post(data=b"x" * 100))[0] == 202


async def test_a_signature_covers_the_body_as_it_was_sent() -> None:
    """HMAC is over the raw bytes; for a look it is over the path, so it is good for that alone."""

    def signed(what: bytes) -> dict[str, str]:
        made = hmac.new(TOKEN.encode(), what, hashlib.sha256).hexdigest()
        return {"X-Hub-Signature-256": f"sha256={made}"}

    body = b'{ "a":1 }\n'
    async with Door().serving(auth={"hmac": {"secretKeyRef": {"name": "hook"}}}) as door:
        status, told = await door.post(data=body, headers=signed(body))
        assert status == 202
        assert (await door.post(data=body.strip(), headers=signed(body)))[0] == 401
        path = f"{HOOK}/executions/{told['id']}"
        assert (await door.get(path, headers=signed(path.encode())))[0] == 200
        for other in (b"", f"{HOOK}/executions/other".encode()):
            assert (await door.get(path, headers=signed(other)))[0] == 401


async def test_a_rate_is_told_with_when_to_come_again() -> None:
    """Beyond the rate it is 429 with Retry-After; strangers use none of it up."""
    async with Door().serving(rate={"perMinute": 1, "burst": 2}) as door:
        for _ in range(3):
            assert (await door.post(headers=BAD))[0] == 401
        assert [(await door.post())[0] for _ in range(2)] == [202, 202]
        async with door.http.post(HOOK, headers=GOOD) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "60")
        where = f"{HOOK}/executions/{next(iter(door.desk.events))}"
        assert [(await door.get(where))[0] for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("reason", "status"), [(Reason.QUEUE_FULL, 429), (Reason.RUN_REFUSED, 503)]
)
async def test_what_cannot_be_accepted_is_to_come_again(reason: Reason, status: int) -> None:
    """A full queue is 429, a workflow that does not serve just now 503; both with Retry-After."""
    async with Door().serving() as door:
        door.desk.fault = EngineRefused(reason, "50 executions wait already (queue_max)")
        async with door.http.post(HOOK, headers=GOOD) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (status, "5")
            assert "queue_max" in (await answer.json())["error"]


async def test_what_is_wrong_with_a_request_is_told() -> None:
    """Who may come in learns what was not understood, as JSON."""
    json_type = GOOD | {"Content-Type": "application/json"}
    async with Door().serving() as door:
        status, told = await door.post(data=b'{"a":', headers=json_type)
        assert (status, "the body is not JSON" in told["error"]) == (400, True)
        batch = GOOD | {"Content-Type": "application/cloudevents-batch+json"}
        assert (await door.post(data=b"[]", headers=batch))[0] == 415
        assert (await door.post(headers=GOOD | {"Idempotency-Key": "a/b"}))[0] == 400
        assert door.desk.events == {}


@pytest.mark.parametrize(("method", "path", "status", "allow"), [
    ("GET", HOOK, 405, "OPTIONS,POST"),
    ("HEAD", HOOK, 405, "OPTIONS,POST"),
    ("PUT", HELLO, 405, "OPTIONS,POST"),
    ("DELETE", f"{HOOK}/executions/a", 405, "GET,HEAD,OPTIONS"),
    ("OPTIONS", HOOK, 204, "POST, OPTIONS"),
    ("OPTIONS", f"{HELLO}/executions/a", 204, "GET, HEAD, OPTIONS"),
    ("HEAD", f"{HOOK}/executions/a", 200, None),
    ("POST", "/", 404, None),
    ("POST", HOOK + "/", 404, None),
    ("GET", "/metrics", 404, None),
    ("GET", "/status", 404, None),
])  # fmt: skip
async def test_other_methods_and_paths(
    method: str, path: str, status: int, allow: str | None
) -> None:
    """What a path is not for is 405 with what it is for; nothing else is on this port."""
    async with Door().serving() as door:
        await door.desk.fire(Event(kind="http", trigger="hook", id="a"))
        async with door.http.request(method, path, headers=GOOD) as answer:
            assert (answer.status, answer.headers.get("Allow")) == (status, allow)
            assert answer.headers["Server"] == "sluice"


async def test_while_it_starts_nobody_is_sent_away_for_good() -> None:
    """Until all workflows had their turn a refusal is 503; who is known is let in already."""
    async with Door().serving() as door:
        door.starting = True
        for path, headers in ((HOOK, BAD), (f"{HELLO}/triggers/other", GOOD)):
            async with door.http.post(path, headers=headers) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert (await door.post())[0] == 202
        door.starting = False
        assert (await door.post(headers=BAD))[0] == 401


async def test_an_api_server_that_is_away_is_not_the_callers_fault() -> None:
    """A Secret that cannot be read makes it 503, for who asks for what is not there as well."""
    async with Door().serving() as door:
        door.vault.fault = SourceUnavailable(Reason.SOURCE_UNAVAILABLE, "no answer")
        assert (await door.post())[0] == 503
        assert (await door.post(f"{HELLO}/triggers/other"))[0] == 503


async def test_why_it_was_refused_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """One line a minute says why, with the workflow's name; no line has what was shown."""
    async with Door().serving() as door:
        door.vault.fault = SourceUnavailable(Reason.SECRET_NOT_FOUND, "Secret hook is not there")
        for _ in range(3):
            assert (await door.post())[0] == 401
        told = [r for r in caplog.records if r.levelno >= logging.INFO]
        assert len(told) == 1
        assert "Secret hook is not there" in told[0].message
        assert told[0].__dict__["workflow"] == "hello"
        assert TOKEN not in caplog.text


async def test_a_failure_of_ours_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong inside is 500 and a trace in the log, without what was sent."""
    async with Door().serving() as door:
        door.desk.fault = RuntimeError("inside")
        status, told = await door.post(data=b"what was sent")
        assert (status, told) == (500, {"error": "the operator's log says how"})
        assert "inside" in caplog.text
        assert TOKEN not in caplog.text
        assert "what was sent" not in caplog.text


async def test_the_newer_revision_counts_at_once() -> None:
    """While one revision takes another's place no request is lost, and the newer one has it."""
    async with Door().serving() as door:
        newer = Desk()
        with door.open(desk=newer):
            assert (await door.post())[0] == 202
            assert (len(door.desk.events), len(newer.events)) == (0, 1)
        assert (await door.post())[0] == 202
        assert len(door.desk.events) == 1


async def test_a_taken_port_is_one_line() -> None:
    """A port that cannot be had is told with its number."""
    async with Door().serving() as door:
        with pytest.raises(EngineRefused, match=f"cannot listen on 127.0.0.1:{door.port}"):
            async with Door().webhooks.serving("127.0.0.1", door.port):
                pass
