"""A fleet on ConfigMaps in memory, and who is told of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fakes import MemorySource, until
from fakes import workflow as make_workflow
from ground.manifests import distinct
from guests.build import guest
from sluice.desire import Desire, RunRequest
from sluice.fleet import Fleet
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Snapshot, Verdict
from sluice.workflow import PartRef, WorkflowKey


class Told:
    """A Reporter that remembers."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.events: list[tuple[str, Verdict]] = []
        self.left: list[WorkflowKey] = []
        self.holds: list[Verdict] = []

    def changed(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def gone(self, key: WorkflowKey) -> None:
        self.left.append(key)

    def event(self, snapshot: Snapshot, note: Verdict) -> None:
        self.events.append((snapshot.key.name, note))

    def rollout(self, note: Verdict) -> None:
        self.holds.append(note)

    def reasons(self, name: str) -> list[str]:
        """Return the reasons of Ready in order, each once in a row."""
        found = [str(s.ready.reason) for s in self.snapshots if s.key.name == name]
        return [r for i, r in enumerate(found) if i == 0 or found[i - 1] != r]


@dataclass
class Stage:
    fleet: Fleet
    source: MemorySource
    told: Told
    metrics: Metrics
    settings: Settings
    wasm: bytes = field(default_factory=lambda: guest("acts"))

    def desire(
        self, name: str, *args: str, generation: int = 1, number: int | None = None,
        run: RunRequest | None = None, **spec: Any,
    ) -> Desire:  # fmt: skip
        """Put a workflow's parts in place and return what asks for it."""
        wasm = self.wasm if number is None else distinct(self.wasm, number)
        parts = f"{name}-{number}"
        self.source.put("team", parts, {"part": wasm})
        made = make_workflow(wasm, [PartRef(name=parts)], name=name, args=list(args), **spec)
        made = type(made)(key=made.key, uid=made.uid, generation=generation, spec=made.spec)
        return Desire(key=made.key, uid=made.uid, generation=generation, workflow=made, run=run)

    def want(self, name: str, *args: str, **more: Any) -> WorkflowKey:
        desire = self.desire(name, *args, **more)
        self.fleet.want(desire)
        return desire.key

    def ready(self, key: WorkflowKey) -> Verdict:
        snapshot = self.fleet.snapshot(key)
        assert snapshot is not None
        return snapshot.ready

    async def until_reason(self, key: WorkflowKey, reason: Reason) -> None:
        await until(lambda: self.ready(key).reason is reason)

    async def result(self, key: WorkflowKey) -> str:
        run = await self.fleet.run_manually(key)
        assert run is not None
        return (await run).outcome.result.decode()


OpenStage = Callable[..., Awaitable[Stage]]
