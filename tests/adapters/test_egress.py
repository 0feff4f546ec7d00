"""Outgoing requests against real servers on this machine: judged where they connect."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from ground import certificates
from sluice.adapters.egress import Answer, Egress, EgressFailed, EgressRefused
from sluice.metrics import Metrics
from sluice.settings import Settings


class Server:
    """A real server on loopback that counts who reached it."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.port = 0
        self.released = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        if request.path == "/redirect":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        if request.path == "/large":
            return web.Response(body=b"x" * 100_000)
        if request.path == "/cookie":
            return web.Response(headers={"Set-Cookie": "session=a-tenants; Path=/"})
        if request.path == "/never":
            await self.released.wait()
        return web.Response(text="here", headers={"X-Seen": "yes"})


@asynccontextmanager
async def _serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with _serving() as server:
        yield server


class Zone(AbstractResolver):
    """A DNS zone in memory with the resolver's interface; each answer is used up, but the last."""

    def __init__(self, **names: list[list[str]]) -> None:
        self._names = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_INET,  # noqa: ARG002
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self._names.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(
                hostname=host, host=address, port=port, proto=0, flags=0,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
            )
            for address in addresses
        ]  # fmt: skip

    async def close(self) -> None:
        """Hold nothing."""


@asynccontextmanager
async def _egress(
    allow: str = "",
    deny: str = "",
    resolver: AbstractResolver | None = None,
    api_server: str | None = None,
) -> AsyncIterator[Egress]:
    settings = Settings(egress_allow=allow, egress_deny=deny)
    egress = Egress(settings, Metrics(), api_server, resolver)
    try:
        yield egress
    finally:
        await egress.aclose()


async def _get(egress: Egress, url: str, answer_bytes_max: int = 1000) -> Answer:
    return await egress.request(
        "POST", url, headers={"ce-id": "1"}, body=b"body", timeout_s=5,
        answer_bytes_max=answer_bytes_max,
    )  # fmt: skip


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0"],
)
async def test_loopback_is_not_reached(server: Server, host: str) -> None:
    """However it is spelled, no request for this machine leaves the process."""
    async with _egress() as egress:
        with pytest.raises(EgressRefused) as told:
            await _get(egress, f"http://{host}:{server.port}/")
    assert re.search("loopback|unspecified|usual form|no host", told.value.message)
    assert server.requests == []


@pytest.mark.parametrize("allow", ["127.0.0.1", "127.0.0.0/8"])
async def test_an_allowed_address_is_reached(server: Server, allow: str) -> None:
    """What the admin opens is reached, with the headers and the body that were given."""
    async with _egress(allow) as egress:
        answer = await _get(egress, f"http://127.0.0.1:{server.port}/path")
    assert (answer.status, answer.body, answer.cut) == (200, b"here", False)
    assert answer.headers["X-Seen"] == "yes"
    assert server.requests[0].headers["ce-id"] == "1"
    assert server.bodies == [b"body"]


async def test_deny_wins_over_allow(server: Server) -> None:
    """An address, or a name, that is denied is refused though it is allowed."""
    async with _egress("127.0.0.1", "127.0.0.1") as egress:
        with pytest.raises(EgressRefused, match="egress_deny"):
            await _get(egress, f"http://127.0.0.1:{server.port}/")
    async with _egress("127.0.0.1", "localhost") as egress:
        with pytest.raises(EgressRefused, match="localhost is denied"):
            await _get(egress, f"http://localhost:{server.port}/")
    assert server.requests == []


async def test_a_name_that_turns_inward_is_caught_where_it_connects(server: Server) -> None:
    """A name that was public a moment ago and is loopback now reaches nothing (DNS rebinding)."""
    zone = Zone(rebinding_example=[["127.0.0.2"], ["127.0.0.1"]])
    async with _egress("127.0.0.2", resolver=zone) as egress:
        with pytest.raises(EgressFailed):  # 127.0.0.2 is open here, and nobody listens
            await _get(egress, f"http://rebinding.example:{server.port}/")
    zone = Zone(rebinding_example=[["127.0.0.1"]])
    async with _egress("127.0.0.2", resolver=zone) as egress:
        with pytest.raises(EgressRefused, match=r"127\.0\.0\.1 is loopback"):
            await _get(egress, f"http://rebinding.example:{server.port}/")
    assert zone.asked
    assert server.requests == []


async def test_of_many_addresses_only_open_ones_are_used(server: Server) -> None:
    """A name with a closed and an open address is connected to at the open one."""
    zone = Zone(both_example=[["10.0.0.1", "127.0.0.1"]])
    async with _egress("127.0.0.1", resolver=zone) as egress:
        assert (await _get(egress, f"http://both.example:{server.port}/")).status == 200
    zone = Zone(neither_example=[["10.0.0.1", "169.254.169.254", "fd00::1"]])
    async with _egress(resolver=zone) as egress:
        with pytest.raises(EgressRefused) as told:
            await _get(egress, f"http://neither.example:{server.port}/")
    assert "169.254.169.254" in told.value.message


async def test_a_trusted_name_lends_its_trust_to_no_other(server: Server) -> None:
    """A name that the admin allows opens its private address for itself, not for another name."""
    zone = Zone(trusted_corp=[["10.255.255.1"]], evil_example=[["10.255.255.1"]])
    async with _egress(".corp", resolver=zone) as egress:
        assert egress._rules.trusts("trusted.corp")
        with pytest.raises(EgressRefused, match=r"10\.255\.255\.1 is private"):
            await _get(egress, f"http://evil.example:{server.port}/")
        with pytest.raises(EgressFailed):  # it is tried, and nobody is there
            await egress.request(
                "GET", f"http://trusted.corp:{server.port}/", headers={}, body=b"",
                timeout_s=0.2, answer_bytes_max=1,
            )  # fmt: skip


async def test_the_api_server_is_protected_by_name_and_address(server: Server) -> None:
    """A range that holds the API server's address does not open it; its address does."""
    url = f"http://any.example:{server.port}/"
    zone = Zone(api_example=[["127.0.0.1"]], any_example=[["127.0.0.1"]])
    async with _egress("127.0.0.0/8", resolver=zone, api_server="api.example") as egress:
        with pytest.raises(EgressRefused, match="API server"):
            await _get(egress, url)
    zone = Zone(api_example=[["127.0.0.1"]], any_example=[["127.0.0.1"]])
    async with _egress("127.0.0.1", resolver=zone, api_server="api.example") as egress:
        assert (await _get(egress, url)).status == 200


async def test_while_the_api_server_is_unknown_nothing_is_sent(server: Server) -> None:
    """Where the name to protect cannot be resolved, the answer is a failure to try again."""
    async with _egress("127.0.0.1", resolver=Zone(), api_server="api.example") as egress:
        with pytest.raises(EgressFailed, match="API server"):
            await _get(egress, f"http://127.0.0.1:{server.port}/")
    assert server.requests == []


async def test_the_first_requests_wait_for_what_is_protected(server: Server) -> None:
    """However many come at once before the API server's address is known, none reaches it."""
    zone = Zone(api_example=[["127.0.0.1"]], any_example=[["127.0.0.1"]])
    async with _egress("127.0.0.0/8", resolver=zone, api_server="api.example") as egress:
        url = f"http://any.example:{server.port}/"
        ends = await asyncio.gather(*(_get(egress, url) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(end, EgressRefused) for end in ends)
    assert server.requests == []
    assert zone.asked.count("api.example") == 1


async def test_a_redirect_is_an_answer(server: Server) -> None:
    """The place that a redirect names is not gone to."""
    async with _egress("127.0.0.1") as egress:
        assert (await _get(egress, f"http://127.0.0.1:{server.port}/redirect")).status == 302
    assert [request.path for request in server.requests] == ["/redirect"]


async def test_an_answer_is_bounded(server: Server) -> None:
    """Of a large answer the beginning is kept, and it is told that there was more."""
    async with _egress("127.0.0.1") as egress:
        url = f"http://127.0.0.1:{server.port}/large"
        cut = await _get(egress, url, answer_bytes_max=99_999)
        whole = await _get(egress, url, answer_bytes_max=100_000)
    assert (len(cut.body), cut.cut) == (99_999, True)
    assert (len(whole.body), whole.cut) == (100_000, False)


async def test_one_tenants_cookie_is_sent_for_no_other(server: Server) -> None:
    """What a server sets is not kept."""
    async with _egress("127.0.0.1") as egress:
        for _ in range(2):
            await _get(egress, f"http://127.0.0.1:{server.port}/cookie")
    assert all("Cookie" not in request.headers for request in server.requests)


async def test_a_proxy_of_the_environment_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect where nothing is judged."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    zone = Zone(inside_example=[["10.0.0.1"]])
    async with _egress("127.0.0.1", resolver=zone) as egress:
        with pytest.raises(EgressRefused):
            await _get(egress, "http://inside.example/")
    assert server.requests == []


async def test_no_answer_in_time_is_a_failure(server: Server) -> None:
    """A server that never answers costs its caller the timeout, and no more."""
    async with _egress("127.0.0.1") as egress:
        with pytest.raises(EgressFailed, match=r"no answer in 0\.2 s"):
            await egress.request(
                "GET", f"http://127.0.0.1:{server.port}/never", headers={}, body=b"",
                timeout_s=0.2, answer_bytes_max=1,
            )  # fmt: skip


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    """TLS is verified; the message says that it is the certificate."""
    certificates.write(tmp_path, ["127.0.0.1"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    async with _serving(tls) as server, _egress("127.0.0.1") as egress:
        with pytest.raises(EgressFailed, match="certificate"):
            await _get(egress, f"https://127.0.0.1:{server.port}/")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.com/", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("http:///path", "not a URL"),
        ("example.com", "http or https"),
        ("http://[::1", "not a URL"),
        ("http://user:secret@example.com/", "credentials"),
    ],
)
async def test_what_is_no_url_of_ours_is_refused(url: str, why: str) -> None:
    """It is told what is wrong; what may be secret in it is not repeated."""
    async with _egress() as egress:
        with pytest.raises(EgressRefused, match=why) as told:
            await _get(egress, url)
    assert "secret" not in told.value.message


async def test_a_message_never_holds_the_path(server: Server) -> None:
    """A webhook's path is often its password: of a URL only the host is told."""
    async with _egress("127.0.0.1") as egress:
        url = f"http://127.0.0.1:{server.port}/large?token=hunter2"
        await _get(egress, url)
        for bad in (url.replace(str(server.port), "1"), url.replace("127.0.0.1", "10.0.0.1")):
            with pytest.raises((EgressFailed, EgressRefused)) as told:
                await _get(egress, bad)
            assert "hunter2" not in told.value.message


async def test_what_became_of_requests_is_counted(server: Server) -> None:
    """Answered, refused and failed ones are told apart."""
    metrics = Metrics()
    egress = Egress(Settings(egress_allow="127.0.0.1"), metrics)
    try:
        await _get(egress, f"http://127.0.0.1:{server.port}/")
        with pytest.raises(EgressRefused):
            await _get(egress, "http://10.0.0.1/")
        with pytest.raises(EgressFailed):
            await _get(egress, "http://127.0.0.1:1/")
    finally:
        await egress.aclose()
    value = metrics.registry.get_sample_value
    for result in ("answered", "refused", "failed"):
        assert value("sluice_egress_requests_total", {"result": result}) == 1


async def test_what_has_no_body_says_nothing_of_one(server: Server) -> None:
    """A GET has neither a length nor a type, which some servers refuse."""
    async with _egress("127.0.0.1") as egress:
        await egress.request(
            "GET", f"http://127.0.0.1:{server.port}/", headers={}, body=b"", timeout_s=5,
            answer_bytes_max=10,
        )  # fmt: skip
    assert not {"Content-Length", "Content-Type", "Transfer-Encoding"} & set(
        server.requests[0].headers
    )
