"""A journal and a stage for the watches of triggers, on a real API server."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from kubernetes.aio import client, config

from fakes import until
from ground.scene import Scene
from sluice.adapters.kubernetes.api import Api
from sluice.adapters.kubernetes.watching import Watches
from sluice.errors import EngineRefused
from sluice.event import Event
from sluice.executions.acceptance import Accepted
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import KubernetesSpec
from sluice.workflow import WorkflowKey

_GRANT = ("role", "watch", "--verb=list,watch", "--resource=configmaps")


class Journal:
    """Takes events and cursors as the journal does, in memory; refuses as often as it is told to.

    An id that was taken is a duplicate, as it is for the real one.
    """

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.cursor: str | None = None
        self.duplicates = self.refusals = self.refused = 0

    async def __call__(self, event: Event, *, cursor: str | None = None) -> Accepted:
        if self.refused < self.refusals:
            self.refused += 1
            raise EngineRefused(Reason.RUN_REFUSED, "50 executions wait already")
        self.cursor = cursor
        duplicate = event.id in self.events
        self.duplicates += duplicate
        self.events.setdefault(event.id, event)
        return Accepted(event.id, duplicate, None)

    async def keep(self, _: WorkflowKey, uid: str, __: str, cursor: str) -> None:
        assert uid == "uid"
        self.cursor = cursor

    @property
    def told(self) -> list[str]:
        """What was told, in order: ``Added a``."""
        return [
            f"{event.data['type']} {str(event.subject).rpartition('/')[2]}"
            for event in self.events.values()
        ]


class Stage:
    """One namespace, a journal, and doors to watch through."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.journal, self.metrics = scene, Journal(), Metrics()
        self.verdicts: list[tuple[Reason, str]] = []

    @asynccontextmanager
    async def door(self, kubeconfig: Path | None = None, **settings: Any) -> AsyncIterator[Watches]:
        file = kubeconfig or self.scene.plane.kubeconfig("operator")
        configuration = client.Configuration()
        await config.load_kube_config(str(file), client_configuration=configuration)
        async with aclosing(Api(configuration)) as api:
            yield Watches(
                api, Settings(**settings), self.metrics, self.journal.keep,
                lambda _, verdict: self.verdicts.append((verdict.reason, verdict.message)),
            )  # fmt: skip

    @asynccontextmanager
    async def watching(
        self,
        kubeconfig: Path | None = None,
        settings: dict[str, Any] | None = None,
        **spec: Any,
    ) -> AsyncIterator[None]:
        async with self.door(kubeconfig, **(settings or {})) as door, self.watch(door, **spec):
            yield

    def watch(
        self, door: Watches, _name: str = "watch", **spec: Any
    ) -> AbstractAsyncContextManager[None]:
        """Watch ConfigMaps labelled ``seen``, from where the journal says, unless told other."""
        given = {"apiVersion": "v1", "kind": "ConfigMap", "labelSelector": "seen"} | spec
        return door.watch(
            WorkflowKey(self.scene.namespace, "hello"), "uid", _name,
            msgspec.convert(given, KubernetesSpec), self.journal, self.journal.cursor,
        )  # fmt: skip

    def put(self, name: str, value: str = "1", *, seen: bool = True) -> None:
        metadata = {"name": name, "labels": {"seen": "yes"} if seen else {}}
        self.scene.apply_object(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"v": value}}
        )

    def delete(self, name: str) -> None:
        self.scene.delete("configmap", name)

    async def until_told(self, *told: str) -> None:
        """Return once exactly this was told, in this order."""
        await until(lambda: len(self.journal.told) >= len(told))
        assert self.journal.told == list(told)

    @property
    def gaps(self) -> float | None:
        return self.metrics.registry.get_sample_value("sluice_watch_gaps_total")

    def open(self) -> float | None:
        return self.metrics.registry.get_sample_value("sluice_watches", {"state": "open"})


def grant(scene: Scene) -> None:
    """Let the operator watch ConfigMaps in this namespace."""
    scene.kubectl("create", *_GRANT)
    scene.kubectl("create", "rolebinding", "watch", "--role=watch", "--user=sluice-operator")
