"""http-actions@1.0.0-alpha against a real server: what is sent, comes back and is refused."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from capabilities.asked import Execution, MemoryVault, Server, asking, asking_workflow, serving
from sluice.adapters.egress import Answer
from sluice.capabilities import CallContext, pack
from sluice.capabilities.http import Http
from sluice.capabilities.secrets import SecretReader
from sluice.capabilities.sending import Sending
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.http_client_pb2 import CacheSettings, HeaderValues, Request, Response
from sluice.settings import Settings
from sluice.spec import CreSpec
from sluice.workflow import WorkflowKey

_ID = "http-actions@1.0.0-alpha"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


async def _send(execution: Execution, request: Request) -> Response:
    return await execution.ask(_ID, "SendRequest", request, Response)


async def _told(execution: Execution, request: Request) -> CapabilityError:
    with pytest.raises(CapabilityError) as told:
        await _send(execution, request)
    return told.value


async def test_a_request_and_its_answer(server: Server) -> None:
    """Method, body and headers of both forms go out; status, body and headers come back."""
    server.status, server.body = 418, b"\0short and stout"
    server.headers = [("x-pot", "a"), ("X-Pot", "b"), ("x-UNIT-of", "c")]
    request = Request(
        url=f"{server.url}pot?milk=no", method="put", body=b"\0leaves",
        headers={"X-Old": "1", "X-Both": "old"},
        multi_headers={"x-both": HeaderValues(values=["new", "newer"])},
    )  # fmt: skip
    async with asking() as operator:
        response = await _send(operator.execution(), request)
    [seen] = server.requests
    assert (seen.method, seen.path_qs, server.bodies) == ("PUT", "/pot?milk=no", [b"\0leaves"])
    assert seen.headers.getall("X-Both") == ["new", "newer"]
    assert seen.headers["X-Old"] == "1"
    assert (response.status_code, response.body) == (418, server.body)
    assert response.headers["X-Pot"] == "a, b"
    assert list(response.multi_headers["X-Pot"].values) == ["a", "b"]
    assert response.headers["X-Unit-Of"] == "c"


async def test_without_a_method_it_is_a_get(server: Server) -> None:
    """As an SDK's host has it."""
    async with asking() as operator:
        await _send(operator.execution(), Request(url=server.url))
    assert server.requests[0].method == "GET"


async def test_redirects_are_answers(server: Server) -> None:
    """A server cannot send the operator anywhere; the guest sees where it wanted to."""
    server.status, server.headers = 302, [("Location", "http://169.254.169.254/")]
    async with asking() as operator:
        response = await _send(operator.execution(), Request(url=server.url))
    assert response.status_code == 302
    assert response.headers["Location"] == "http://169.254.169.254/"
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection"])
async def test_headers_of_the_connection_stay_ours(server: Server, name: str) -> None:
    """Nobody comes to another host, or into another's request, by a header."""
    request = Request(url=server.url, method="POST", body=b"ab", headers={name: "evil.example"})
    async with asking() as operator:
        await _send(operator.execution(), request)
    assert server.requests[0].headers["Host"] == f"127.0.0.1:{server.port}"
    assert server.bodies == [b"ab"]


@pytest.mark.parametrize(
    ("headers", "what"),
    [
        ({"X": "hunter2\r\nY: b"}, "the value of X"),
        ({"X\nhunter2": "a"}, "a name"),
        ({"X": "hunter2\0"}, "NUL"),
    ],
)
async def test_no_header_breaks_its_line(
    server: Server, headers: dict[str, str], what: str
) -> None:
    """It is refused as the guest's mistake, and its value is not repeated."""
    async with asking() as operator:
        told = await _told(operator.execution(), Request(url=server.url, headers=headers))
    assert told.code is Code.INVALID_ARGUMENT
    assert what in told.message
    assert "hunter2" not in told.message
    assert server.requests == []


@pytest.mark.parametrize(
    ("request_", "code", "what"),
    [
        (Request(url="http://127.0.0.1/", method="CONNECT"), Code.INVALID_ARGUMENT, "write one of"),
        (Request(url="http://127.0.0.1/", method="GET /x"), Code.INVALID_ARGUMENT, "write one of"),
        (Request(url="http://127.0.0.1/", mtls=b"\1"), Code.UNIMPLEMENTED, "mtls"),
        (Request(url="ftp://127.0.0.1/"), Code.INVALID_ARGUMENT, "not a URL of http"),
        (Request(url="http://[::1/"), Code.INVALID_ARGUMENT, "not a URL of http"),
        (Request(url=""), Code.INVALID_ARGUMENT, "not a URL of http"),
        (Request(url="http://a:b@127.0.0.1/"), Code.PERMISSION_DENIED, "credentials"),
        (
            Request(url="http://127.0.0.1/", timeout=Duration(seconds=-1)),
            Code.INVALID_ARGUMENT, "negative",
        ),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
async def test_what_is_no_request(request_: Request, code: Code, what: str) -> None:
    """Each is told as what it is, before anything is sent."""
    async with asking() as operator:
        told = await _told(operator.execution(), request_)
    assert (told.code, what in told.message) == (code, True), told.message


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://localhost/",
    ],
)
async def test_private_ranges_and_the_metadata_service_are_closed(url: str) -> None:
    """A spec that allows the host opens nothing that the admin has not."""
    host = url.split("/")[2]
    async with asking(allow="") as operator:
        execution = operator.execution(http={"allowHosts": [host]})
        told = await _told(execution, Request(url=url))
    assert told.code is Code.PERMISSION_DENIED
    assert "egress_allow" in told.message


@pytest.mark.parametrize(
    ("allowed", "good"),
    [
        (["127.0.0.1"], True), (["a.example", "127.0.0.1"], True), (["127.0.0.2"], False),
        ([".0.0.1"], True), ([".27.0.0.1"], False), (["27.0.0.1"], False), (None, True),
    ],
)  # fmt: skip
async def test_the_specs_hosts(server: Server, allowed: list[str] | None, good: bool) -> None:
    """Only those that are listed, or all below one that begins with a dot; without a list, any."""
    async with asking() as operator:
        execution = operator.execution(http={"allowHosts": allowed} if allowed else {})
        if good:
            assert (await _send(execution, Request(url=server.url))).status_code == 200
        else:
            told = await _told(execution, Request(url=server.url))
            assert told.text == (
                'Public:User:PermissionDenied:host "127.0.0.1" is not in the workflow\'s '
                "spec.cre.http.allowHosts"
            )
    assert len(server.requests) == good


async def test_the_admin_closes_what_a_spec_allows(server: Server) -> None:
    """His word is the last one."""
    async with asking(egress_deny="127.0.0.1") as operator:
        execution = operator.execution(http={"allowHosts": ["127.0.0.1"]})
        told = await _told(execution, Request(url=server.url))
    assert told.code is Code.PERMISSION_DENIED
    assert "egress_deny" in told.message
    assert server.requests == []


@pytest.mark.parametrize("url", ["http://[::1]:1/", "http://[0:0::1]:1/"])
async def test_a_host_may_be_an_address(url: str) -> None:
    """However it is spelled, it is the one that is listed; what refuses it then is nobody there."""
    async with asking(allow="::1") as operator:
        told = await _told(operator.execution(http={"allowHosts": ["[::1]"]}), Request(url=url))
    assert told.code is Code.UNAVAILABLE, told.message


@pytest.mark.parametrize("more", [0, 1])
async def test_bodies_have_a_bound_in_each_direction(server: Server, more: int) -> None:
    """10 KiB out and 100 KiB in are taken; one byte more is told, and not sent."""
    async with asking() as operator:
        out = Request(url=server.url, method="POST", body=b"x" * ((10 << 10) + more))
        server.body = b"y" * (100 << 10)
        if more:
            assert (await _told(operator.execution(), out)).code is Code.LIMIT_EXCEEDED
            assert server.requests == []
            server.body += b"y"
            back = await _told(operator.execution(), Request(url=server.url))
            assert back.text.endswith(
                "LimitExceeded:the response's body has more than 102,400 bytes"
            )
        else:
            response = await _send(operator.execution(), out)
            assert (server.bodies, response.body) == ([out.body], server.body)


@pytest.mark.parametrize("more", [0, 1])
async def test_the_head_has_a_bound_too(server: Server, more: int) -> None:
    """What does not fit into a body is not let out in headers."""
    head = {"A": "x" * 4000, "B": "x" * 4000}
    size = (10 << 10) - len(server.url) - 8002 - 1 + more
    request = Request(url=server.url, headers=head | {"C": "x" * size})
    async with asking() as operator:
        if more:
            assert (await _told(operator.execution(), request)).code is Code.LIMIT_EXCEEDED
        else:
            await _send(operator.execution(), request)
    assert len(server.requests) == 1 - more


async def test_a_server_that_does_not_answer_is_given_up(server: Server) -> None:
    """After the time that the guest gave, and the request is no longer waited for."""
    server.released.clear()
    async with asking() as operator:
        request = Request(url=server.url, timeout=Duration(nanos=50_000_000))
        told = await _told(operator.execution(), request)
    assert told.text == "Public:System:DeadlineExceeded:127.0.0.1: no answer in 0.05 s"


@pytest.mark.parametrize("ms", [0, 1])
async def test_a_timeout_has_a_bound(server: Server, ms: int) -> None:
    """Ten seconds may be asked for; more is refused and not shortened in secret."""
    request = Request(url=server.url, timeout=Duration(seconds=10, nanos=ms * 1_000_000))
    async with asking() as operator:
        if ms:
            assert (await _told(operator.execution(), request)).code is Code.LIMIT_EXCEEDED
        else:
            await _send(operator.execution(), request)
    assert len(server.requests) == 1 - ms


async def test_nobody_there_is_the_worlds_fault() -> None:
    """It names the host and keeps the rest of the URL, which may hold a key, to itself."""
    async with asking() as operator:
        told = await _told(operator.execution(), Request(url="http://127.0.0.1:1/?key=hunter2"))
    assert told.text.startswith("Public:System:Unavailable:127.0.0.1: ")
    assert "hunter2" not in told.text


def _cached(server: Server, store: bool = True, age_s: float = 60, **more: Any) -> Request:
    age = Duration(seconds=int(age_s), nanos=round(age_s % 1 * 1e9))
    return Request(
        url=server.url, cache_settings=CacheSettings(store=store, max_age=age), **more
    )  # fmt: skip


async def test_a_stored_answer_serves_another_execution(server: Server) -> None:
    """Of the same workflow, if it asks for the same and takes what is that old."""
    async with asking() as operator:
        of = asking_workflow()
        first = await _send(operator.execution(of, "1"), _cached(server))
        server.body = b"newer"
        assert await _send(operator.execution(of, "2"), _cached(server, store=False)) == first
        assert (await _send(operator.execution(of, "3"), _cached(server, age_s=0))).body == b"newer"
        assert (await _send(operator.execution(of, "4"), _cached(server))).body == b"newer"
    assert len(server.requests) == 2


async def test_the_cache_tells_requests_and_workflows_apart(server: Server) -> None:
    """Another body, header or method is another request; another workflow has its own answers."""
    async with asking() as operator:
        await _send(operator.execution(asking_workflow("a")), _cached(server))
        await _send(operator.execution(asking_workflow("b")), _cached(server))
        execution = operator.execution(asking_workflow("a"))
        with_header = _cached(server)
        with_header.headers["Authorization"] = "another"
        await _send(execution, with_header)
        await _send(execution, _cached(server, method="POST"))
        assert len(server.requests) == 4
        await _send(execution, _cached(server))
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "kept"), [(200, 1), (404, 1), (302, 0), (500, 0), (503, 0)])
async def test_a_servers_own_failure_is_not_kept(server: Server, status: int, kept: int) -> None:
    """What may be better the next time is asked for again."""
    server.status = status
    async with asking() as operator:
        execution = operator.execution()
        for _ in range(2):
            assert (await _send(execution, _cached(server))).status_code == status
    assert len(server.requests) == 2 - kept


async def test_what_is_not_to_be_stored_is_not(server: Server) -> None:
    """A guest that only looks leaves nothing behind."""
    async with asking() as operator:
        execution = operator.execution()
        for _ in range(2):
            await _send(execution, _cached(server, store=False))
    assert len(server.requests) == 2


@pytest.mark.parametrize(("age_s", "code"), [(600, None), (600.5, 101), (-1, 3)])
async def test_an_age_has_a_bound(server: Server, age_s: float, code: int | None) -> None:
    """Ten minutes may be asked for; more, and less than nothing, is refused."""
    async with asking() as operator:
        if code:
            assert (await _told(operator.execution(), _cached(server, age_s=age_s))).code == code
        else:
            await _send(operator.execution(), _cached(server, age_s=age_s))
    assert len(server.requests) == (0 if code else 1)


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Door:
    """A guard with the real interface, behind which every request is answered with its body."""

    def __init__(self) -> None:
        self.sent = 0

    async def request(
        self,
        method: str,  # noqa: ARG002 - all of it a guard is given
        url: str,  # noqa: ARG002
        *,
        headers: Mapping[str, str],  # noqa: ARG002
        body: bytes,
        timeout_s: float,  # noqa: ARG002
        answer_bytes_max: int,  # noqa: ARG002
    ) -> Answer:
        self.sent += 1
        return Answer(200, {}, body, cut=False)


def _http(**settings: Any) -> tuple[Http, Door, Clock, CallContext]:
    bounds, door, clock = Settings(**settings), Door(), Clock()
    context = CallContext(
        key=WorkflowKey("team", "hello"), digest="0" * 64, spec=CreSpec(), execution_id="1",
        deadline=0, secrets=SecretReader(asking_workflow(), MemoryVault(), bounds),
    )  # fmt: skip
    return Http(Sending(door, bounds), bounds, clock), door, clock, context


def _stored(name: str, age_s: int, size: int = 1) -> Request:
    cache = CacheSettings(store=True, max_age=Duration(seconds=age_s))
    return Request(url=f"http://{name}/", body=b"x" * size, cache_settings=cache)


async def test_an_answer_that_is_too_old_is_fetched_again() -> None:
    """To the second that the guest asks for, and never after ten minutes."""
    http, door, clock, context = _http()
    await http.call("SendRequest", pack(_stored("a", 60)), context)
    clock.now = 60
    await http.call("SendRequest", pack(_stored("a", 60)), context)
    assert door.sent == 1
    clock.now = 61
    await http.call("SendRequest", pack(_stored("a", 60)), context)
    assert door.sent == 2


async def test_the_cache_has_a_bound() -> None:
    """In bytes, of all workflows: the least recently used answers go, and none is too large."""
    http, door, _, context = _http(cre_http_cache_bytes_max=4096)
    for name in "abacac":  # three of 1.5 KiB do not fit: b has to go for c
        await http.call("SendRequest", pack(_stored(name, 600, 1024)), context)
    assert door.sent == 3
    await http.call("SendRequest", pack(_stored("b", 600, 1024)), context)
    assert door.sent == 4
    for _ in range(2):
        await http.call("SendRequest", pack(_stored("large", 600, 8000)), context)
    assert door.sent == 6
