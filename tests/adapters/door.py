"""A trigger port with one workflow behind it, and a client: what the tests of the port share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import msgspec

from sluice.adapters.webhooks import Webhooks
from sluice.errors import SourceUnavailable
from sluice.event import Event
from sluice.executions.acceptance import Accepted, Pending
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.spec import HttpSpec
from sluice.workflow import WorkflowKey

KEY, TOKEN = WorkflowKey("team", "hello"), "s3cr3t-token"
HELLO = "/v1/namespaces/team/workflows/hello"
HOOK = f"{HELLO}/triggers/hook"
GOOD = {"Authorization": f"Bearer {TOKEN}"}
BAD = {"Authorization": "Bearer other"}
BEARER = {"bearer": {"secretKeyRef": {"name": "hook"}}}


def spec(auth: dict[str, Any] | None = None, **more: Any) -> HttpSpec:
    return msgspec.convert({"auth": auth or BEARER} | more, HttpSpec)


@dataclass
class Desk:
    """Accepts and remembers events of one workflow, with the interface of its executions."""

    trigger: str = "hook"
    events: dict[str, Event] = field(default_factory=dict)
    ends: dict[str, asyncio.Future[Run]] = field(default_factory=dict)
    fault: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def fire(self, event: Event, *, cursor: str | None = None) -> Accepted:  # noqa: ARG002
        await self.gate.wait()
        if self.fault:
            raise self.fault
        if event.id in self.ends:
            end = self.ends[event.id]
            return Accepted(event.id, True, None if end.done() else end)
        self.events[event.id] = event
        self.ends[event.id] = asyncio.get_running_loop().create_future()
        return Accepted(event.id, False, self.ends[event.id])

    async def find(self, id_: str) -> Run | Pending | None:
        end = self.ends.get(id_)
        if end is None or id_ not in self.events:
            return None
        if end.done():
            return end.result()
        return Pending(id_, self.trigger, datetime.now(UTC), running=False, attempt=1)

    def finish(self, id_: str, result: bytes = b'{"ok":true}') -> None:
        outcome = Outcome(OutcomeKind.COMPLETED, result=result, log=b"what it logged")
        self.ends[id_].set_result(Run(id_, self.trigger, datetime.now(UTC), outcome))


@dataclass
class Vault:
    """A Secret, with the interface of its reader; ``fault``, if set, is raised."""

    value: bytes = TOKEN.encode()
    fault: SourceUnavailable | None = None
    takes_s: float = 0.0

    async def __call__(self, *, fresh: bool = False) -> bytes:
        if fresh:
            await asyncio.sleep(self.takes_s)
        if self.fault:
            raise self.fault
        return self.value


class Door:
    """A port with one workflow of one trigger ``hook``, and a client."""

    def __init__(self, **bounds: Any) -> None:
        self.metrics, self.desk, self.vault = Metrics(), Desk(), Vault()
        self.starting = False
        self.webhooks = Webhooks(
            Settings(**bounds), self.metrics, starting=lambda: self.starting
        )  # fmt: skip

    def open(
        self, trigger: str = "hook", desk: Desk | None = None, **made: Any
    ) -> AbstractContextManager[None]:
        desk = desk or self.desk
        return self.webhooks.open(
            KEY, trigger, spec(**made), self.vault, desk.fire, desk.find
        )  # fmt: skip

    @asynccontextmanager
    async def serving(self, **made: Any) -> AsyncIterator["Door"]:
        async with self.webhooks.serving("127.0.0.1", 0) as self.port:
            self.url = f"http://127.0.0.1:{self.port}"
            async with aiohttp.ClientSession(self.url) as self.http:
                with self.open(**made):
                    yield self

    async def post(self, path: str = HOOK, **request: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.post(path, **({"headers": GOOD} | request)) as answer:
            return answer.status, await answer.json()

    async def status(self) -> int:
        """Return what a caller over a connection of his own is answered: 503 where it is full."""
        async with aiohttp.ClientSession(self.url) as http, http.post(HOOK, headers=GOOD) as answer:
            return answer.status

    async def get(self, path: str, **request: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.get(path, **({"headers": GOOD} | request)) as answer:
            return answer.status, await answer.json()

    async def raw(self, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
        return reader, writer

    def answered(self, code: int) -> float:
        name, labels = "sluice_webhook_requests_total", {"code": str(code)}
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
