"""What the capabilities' tests share: workflows that ask, on the loop that answers."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web
from google.protobuf.message import Message

from fakes import workflow
from sluice.capabilities import Capabilities, Capability, pack
from sluice.cre.errors import CapabilityError
from sluice.cre.helper import ExecutionHelper
from sluice.cre.proto.sdk_pb2 import (
    CapabilityRequest,
    CapabilityResponse,
    GetSecretsRequest,
    SecretRequest,
    SecretResponse,
)
from sluice.equipment import Equipment
from sluice.errors import SourceUnavailable
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import SecretKeyRef
from sluice.workflow import Workflow

_M = TypeVar("_M", bound=Message)


class MemoryVault:
    """Secrets in memory, with the interface of ``capabilities.secrets.Vault``.

    While ``gate`` is cleared, reads wait at it; ``fault``, if set, is raised by every read.
    """

    def __init__(self, **secrets: dict[str, bytes]) -> None:
        self._secrets = secrets
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads: list[tuple[str, str, str]] = []
        self.fault: Exception | None = None
        self.waiting = 0

    async def read(self, namespace: str, ref: SecretKeyRef) -> bytes:
        self.reads.append((namespace, ref.name, ref.key))
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.fault:
            raise self.fault
        try:
            return self._secrets[ref.name][ref.key]
        except KeyError:
            raise SourceUnavailable(
                Reason.SECRET_NOT_FOUND, f"Secret {ref.name} has no key {ref.key}; add it"
            ) from None


class Server:
    """A real server on loopback that answers what it is told to."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.status, self.headers, self.body = 200, list[tuple[str, str]](), b"here"
        self.released = asyncio.Event()
        self.released.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        await self.released.wait()
        answer = web.Response(status=self.status, body=self.body)
        for name, value in self.headers:
            answer.headers.add(name, value)
        return answer


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()


@dataclass
class Asking:
    """Capabilities as an operator has them."""

    capabilities: Capabilities
    metrics: Metrics

    def execution(
        self, of: Workflow | None = None, id_: str = "execution-1", **cre: Any
    ) -> "Execution":
        """Begin an execution of a workflow, or of one with this ``spec.cre``."""
        wanted = of or asking_workflow(**cre)
        loop = asyncio.get_running_loop()
        return Execution(self.capabilities.bind(wanted, id_, loop))


def asking_workflow(name: str = "hello", **cre: Any) -> Workflow:
    return workflow(("0" * 64, 1), name=name, cre=cre)


@dataclass
class Execution:
    """One execution, from the guest's side."""

    helper: ExecutionHelper

    async def raw(self, request: CapabilityRequest) -> CapabilityResponse:
        return await asyncio.wrap_future(self.helper.call_capability(request))

    async def ask(self, id_: str, method: str, message: Message, kind: type[_M]) -> _M:
        """Return the answer of one call; raises the CapabilityError that it is told."""
        request = CapabilityRequest(id=id_, method=method, payload=pack(message))
        response = await self.raw(request)
        if response.WhichOneof("response") == "error":
            raise CapabilityError.parse(response.error)
        answer = kind()
        assert response.payload.Unpack(answer)
        return answer

    async def secrets(self, *wanted: tuple[str, str]) -> list[SecretResponse]:
        """Ask for secrets by id and namespace."""
        requests = [SecretRequest(id=i, namespace=n) for i, n in wanted]
        future = self.helper.get_secrets(GetSecretsRequest(requests=requests))
        return list((await asyncio.wrap_future(future)).responses)


@asynccontextmanager
async def asking(
    vault: MemoryVault | None = None,
    capabilities: Iterable[Capability] | None = None,
    *,
    allow: str = "127.0.0.1",
    **settings: Any,
) -> AsyncIterator[Asking]:
    """Give an operator's capabilities; ``allow`` opens addresses, as its admin does.

    With ``capabilities`` of a test's own, those alone.
    """
    bounds, metrics = Settings(egress_allow=allow, **settings), Metrics()
    found = vault or MemoryVault()
    equipment = Equipment(bounds, metrics, found)
    made = equipment.capabilities
    if capabilities is not None:
        made = Capabilities(capabilities, found, bounds, metrics)
    try:
        yield Asking(made, metrics)
    finally:
        await equipment.aclose()
