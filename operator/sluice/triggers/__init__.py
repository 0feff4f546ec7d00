"""What starts executions: armed together before Ready, disarmed together."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from sluice.errors import WorkflowInvalid
from sluice.executions.acceptance import Find, Fire
from sluice.reasons import Reason
from sluice.spec import KubernetesSpec, SecretKeyRef
from sluice.triggers.credentials import SecretReader, SecretSource
from sluice.triggers.cron import Cron, jitter_of
from sluice.triggers.firing import Due, Firing
from sluice.triggers.http import HttpDoor
from sluice.triggers.startup import startup_due
from sluice.workflow import Workflow, WorkflowKey

__all__ = ["Cursor", "Doors", "HttpDoor", "SecretSource", "WatchDoor", "arm"]

# What a trigger, by its name, has told through ``Fire`` when it fired last.
Cursor = Callable[[str], Awaitable[str | None]]


class WatchDoor(Protocol):
    """A cluster whose objects can be watched."""

    def watch(
        self,
        key: WorkflowKey,
        uid: str,
        trigger: str,
        spec: KubernetesSpec,
        fire: Fire,
        cursor: str | None,
    ) -> AbstractAsyncContextManager[None]:
        """Fire for each change inside the block, which begins once the objects can be watched.

        Raises:
            WorkflowInvalid: there is nothing of the kind, or the admin does not allow it.
            SourceUnavailable: the right to it is missing, or the API server does not answer.

        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What triggers reach the world through; None where there is no such world."""

    http: HttpDoor | None = None
    kubernetes: WatchDoor | None = None
    secrets: SecretSource | None = None


async def arm(
    workflow: Workflow, doors: Doors, fire: Fire, find: Find, cursor: Cursor
) -> AsyncExitStack:
    """Arm every trigger of a workflow, all or none; closing the result disarms them.

    What can fail comes first, and what fires by itself last. A watch may fire while a later one is
    being opened; all others fire only once all are armed. A manual trigger needs no arming: it
    fires where the request is seen.

    Raises:
        WorkflowInvalid, SourceUnavailable: what cannot be armed, by the trigger's name.
        EngineRefused: there is no room for it, or the cursors cannot be read.

    """
    async with AsyncExitStack() as armed:
        arming = _Arming(workflow, doors, fire, find, cursor)
        secrets = await arming.secrets()
        dues = await arming.startups()
        crons = await arming.crons()
        armed.push_async_callback(arming.firing.close)
        for watch in await arming.watches():
            await armed.enter_async_context(watch)
        arming.open_http(armed, secrets)
        for cron in crons:
            armed.enter_context(cron)
        for due in dues:
            await arming.firing.hand_in(due)
        return armed.pop_all()


def hold_off(workflow: Workflow, doors: Doors, fire: Fire, find: Find) -> ExitStack:
    """Open the http triggers of a workflow that does not serve, for a ``fire`` that refuses.

    Who has the credentials is told to come back, and may look at what ran. Without it the answer
    would be that there is no such trigger, and a sender would give up for good.
    """
    with ExitStack() as open_:
        if doors.http:
            arming = _Arming(workflow, doors, fire, find, _no_cursor)
            arming.open_http(open_, arming.readers())
        return open_.pop_all()


async def _no_cursor(_: str) -> None:
    return None


class _Arming:
    """The steps of one arming."""

    def __init__(
        self, workflow: Workflow, doors: Doors, fire: Fire, find: Find, cursor: Cursor
    ) -> None:
        self._workflow, self._doors, self._fire = workflow, doors, fire
        self._find, self._cursor = find, cursor
        self.firing = Firing(workflow.key, fire)

    async def secrets(self) -> dict[str, SecretReader]:
        """Return what reads the Secret of each http trigger that has one; each has been read."""
        readers = self.readers()
        for reader in readers.values():
            await reader()
        return readers

    def readers(self) -> dict[str, SecretReader]:
        readers = {}
        for trigger in self._workflow.spec.triggers:
            if trigger.http and self._doors.http is None:
                raise _no_door(trigger.name, "an http trigger", "a port for triggers")
            if trigger.http and (ref := trigger.http.auth.secret_key_ref):
                readers[trigger.name] = self._reader(trigger.name, ref)
        return readers

    def _reader(self, trigger: str, ref: SecretKeyRef) -> SecretReader:
        if self._doors.secrets is None:
            raise _no_door(trigger, f"Secret {ref.name}", "a cluster with Secrets")
        return partial(self._doors.secrets.secret, self._workflow.key.namespace, ref)

    async def watches(self) -> list[AbstractAsyncContextManager[None]]:
        workflow, watches = self._workflow, []
        for trigger in workflow.spec.triggers:
            if spec := trigger.kubernetes:
                if self._doors.kubernetes is None:
                    raise _no_door(trigger.name, "a kubernetes trigger", "a cluster to watch")
                cursor = await self._cursor(trigger.name)
                watches.append(
                    self._doors.kubernetes.watch(
                        workflow.key, workflow.uid, trigger.name, spec, self._fire, cursor
                    )
                )
        return watches

    async def startups(self) -> list[Due]:
        dues = [
            startup_due(self._workflow, t.name, t.startup, await self._cursor(t.name))
            for t in self._workflow.spec.triggers
            if t.startup
        ]
        return [due for due in dues if due]

    async def crons(self) -> list[Cron]:
        key, uid = self._workflow.key, self._workflow.uid
        return [
            Cron(
                t.name, t.cron, self.firing.begin, cursor=await self._cursor(t.name),
                jitter=jitter_of(t.cron, key, uid, t.name),
            )
            for t in self._workflow.spec.triggers if t.cron
        ]  # fmt: skip

    def open_http(
        self, armed: AsyncExitStack | ExitStack, secrets: dict[str, SecretReader]
    ) -> None:
        for trigger in self._workflow.spec.triggers:
            if trigger.http and self._doors.http:
                armed.enter_context(
                    self._doors.http.open(
                        self._workflow.key, trigger.name, trigger.http,
                        secrets.get(trigger.name), self._fire, self._find,
                    )
                )  # fmt: skip


def _no_door(trigger: str, what: str, lacking: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        Reason.INVALID_SPEC,
        f"trigger {trigger}: {what} needs {lacking}, and this operator has none; remove the "
        "trigger, or run the workflow on a cluster",
    )
