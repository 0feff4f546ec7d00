"""Results over HTTP, to a real server: what arrives, and which answers are tried again."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from fakes import workflow
from sluice.adapters.egress import Egress
from sluice.adapters.sink_http import HttpSink, headers
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.settings import Settings
from sluice.sinks import Undelivered
from sluice.snapshot import Run
from sluice.workflow import Workflow


class Receiver:
    """A real server that answers what it is told to."""

    def __init__(self) -> None:
        self.status, self.headers = 204, dict[str, str]()
        self.seen: list[tuple[Mapping[str, str], bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status, headers=self.headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application(client_max_size=8 << 20)
    app.router.add_post("/results", receiver.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/results?token=hunter2"
    yield receiver
    await runner.cleanup()


@asynccontextmanager
async def _sink(allow: str = "127.0.0.1") -> AsyncIterator[HttpSink]:
    settings = Settings(egress_allow=allow)
    egress = Egress(settings, Metrics())
    try:
        yield HttpSink(egress, settings)
    finally:
        await egress.aclose()


def _workflow(url: str) -> Workflow:
    return workflow(("0" * 64, 1), sink={"http": {"url": url}})


def _run(result: bytes = b"", kind: OutcomeKind = OutcomeKind.COMPLETED, message: str = "") -> Run:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    return Run("id-1", "nightly", started, Outcome(kind, message, result=result, duration_s=2))


async def test_a_result_arrives_as_a_cloud_event(receiver: Receiver) -> None:
    """In binary mode: the attributes in headers, the body exactly what the guest wrote."""
    async with _sink() as sink:
        await sink.put(_workflow(receiver.url), _run(b'{"alert": false}'))
    [(told, body)] = receiver.seen
    assert json.loads(body) == {"alert": False}
    attributes = {name: value for name, value in told.items() if name.startswith("ce-")}
    assert attributes == {
        "ce-specversion": "1.0",
        "ce-type": "dev.sluice.execution.Completed",
        "ce-source": "/team/hello",
        "ce-id": "id-1",
        "ce-subject": "id-1",
        "ce-time": "2026-01-01T00:00:02+00:00",
        "ce-sluicetrigger": "nightly",
    }
    assert told["Content-Type"] == "application/json"


async def test_a_failure_is_told_with_its_message(receiver: Receiver) -> None:
    """What went wrong is in a header, and what the guest had written is the body."""
    run = _run(b"half a res\xff", OutcomeKind.FAILED, 'exit code 3: "größe" 100 %\r\nx: y')
    async with _sink() as sink:
        await sink.put(_workflow(receiver.url), run)
    [(told, body)] = receiver.seen
    assert body == b"half a res\xff"
    assert told["ce-type"] == "dev.sluice.execution.Failed"
    assert told["Content-Type"] == "application/octet-stream"
    assert unquote(told["ce-sluicemessage"]) == run.outcome.message
    assert "x" not in told


@given(st.text(max_size=100))
def test_no_message_breaks_out_of_its_header(message: str) -> None:
    """Whatever a guest makes us say, each header is one line of visible ASCII."""
    told = headers(
        _workflow("https://example.org/"), _run(kind=OutcomeKind.FAILED, message=message)
    )
    assert all(" " <= c <= "~" for value in told.values() for c in value)


@pytest.mark.parametrize(
    ("result", "content_type"),
    [
        (b"{}", "application/json"),
        (b" [1, 2]\n", "application/json"),
        (b'"text"', "application/json"),
        (b"", "application/octet-stream"),
        (b"text", "application/octet-stream"),
        (b"{} {}", "application/octet-stream"),
        (b"{", "application/octet-stream"),
        (b'"\xff"', "application/octet-stream"),
    ],
)
def test_json_is_called_json_and_nothing_else_is(result: bytes, content_type: str) -> None:
    """A receiver may trust the type."""
    told = headers(_workflow("https://example.org/"), _run(result))
    assert told["Content-Type"] == content_type


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_a_2xx_is_delivered(receiver: Receiver, status: int) -> None:
    """Whatever the body says, the status is the answer."""
    receiver.status = status
    async with _sink() as sink:
        await sink.put(_workflow(receiver.url), _run())
    assert len(receiver.seen) == 1


@pytest.mark.parametrize(
    ("status", "passing"),
    [
        (301, False), (307, False), (400, False), (401, False), (404, False), (410, False),
        (413, False), (408, True), (425, True), (429, True), (500, True), (502, True), (503, True),
    ],
)  # fmt: skip
async def test_other_answers(receiver: Receiver, status: int, passing: bool) -> None:
    """What may pass is told from what will not; the URL, which may hold a secret, is not told."""
    receiver.status = status
    receiver.headers = {"Location": "/elsewhere", "Retry-After": "7"}
    async with _sink() as sink:
        with pytest.raises(Undelivered, match=str(status)) as told:
            await sink.put(_workflow(receiver.url), _run())
    assert told.value.passing is passing
    assert told.value.retry_after_s == (7 if status >= 400 else None)
    assert "hunter2" not in told.value.message
    assert len(receiver.seen) == 1


async def test_an_address_that_is_closed_is_not_tried_again(receiver: Receiver) -> None:
    """The guard's refusal is told with what an admin can do."""
    async with _sink(allow="") as sink:
        with pytest.raises(Undelivered, match="egress_allow") as told:
            await sink.put(_workflow(receiver.url), _run())
    assert told.value.passing is False
    assert receiver.seen == []


async def test_nobody_there_is_tried_again() -> None:
    """A receiver that is being restarted is waited for."""
    async with _sink() as sink:
        with pytest.raises(Undelivered) as told:
            await sink.put(_workflow("http://127.0.0.1:1/"), _run())
    assert told.value.passing is True
