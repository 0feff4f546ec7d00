"""kopf's watch on Workflows: each event is a desire, recorded at once; nothing is left behind.

No finalizer and no annotation is written: a change handler of kopf would leave both, ``on.event``
leaves neither. What a watch cannot tell is a deletion that happened while it was cut, so a list
of names follows whenever kopf has listed anew, and now and then besides.
"""

import asyncio
import logging
from collections.abc import Collection
from typing import Any

import kopf

from sluice.adapters.kubernetes.api import METADATA_LIST, Api, ApiError
from sluice.adapters.kubernetes.reporter import StatusReporter
from sluice.desire import Desire
from sluice.errors import SourceUnavailable
from sluice.fleet import Fleet
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.status import restored_runs
from sluice.workflow import API_VERSION, GROUP, PLURAL, VERSION, WorkflowKey

log = logging.getLogger(__name__)
_PAGE = 500
_RESYNC_AFTER_LISTING_S = 2.0


class Watch:
    """Feeds a fleet from the API server; ``namespaces`` empty means all of them."""

    def __init__(
        self,
        api: Api,
        fleet: Fleet,
        reporter: StatusReporter,
        settings: Settings,
        namespaces: Collection[str] = (),
    ) -> None:
        self._api, self._fleet, self._reporter = api, fleet, reporter
        self._settings, self._namespaces = settings, namespaces
        self._listed = asyncio.Event()
        self.synced = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until ``stop``; raises SourceUnavailable where the API is not installed."""
        await self._check_installed()
        resync = asyncio.create_task(self._resync())
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=self._kopf_settings(),
                stop_flag=stop,
                namespaces=self._namespaces,
                clusterwide=not self._namespaces,
                standalone=True,
            )
        finally:
            resync.cancel()
            await asyncio.wait([resync])

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self._seen)
        return registry

    @staticmethod
    def _kopf_settings() -> kopf.OperatorSettings:
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False  # its events never aggregate, and ours are transitions
        settings.scanning.disabled = True  # it would need rights on CRDs and namespaces
        settings.peering.standalone = True
        settings.watching.chunk_size = _PAGE
        # A worker keeps its place until its object was quiet for the idle time: the default of 5 s
        # would let a list of a thousand trickle in over minutes.
        settings.queueing.worker_limit = 100
        settings.queueing.idle_timeout = 0.05
        settings.networking.trust_env = True
        return settings

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        account = await self._api.account()
        scheme, _, token = (account.authorization or "").partition(" ")
        return kopf.ConnectionInfo(
            server=account.server,
            insecure=account.insecure,
            ca_path=account.ca_path,
            ca_data=account.ca_data,
            certificate_path=account.certificate_path,
            private_key_path=account.private_key_path,
            scheme=scheme.capitalize() or None,
            token=token or None,
            trust_env=True,
        )

    async def _seen(self, type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002: kopf's
        plain = _plain(body)
        desire = Desire.of(plain, self._settings)
        if type == "DELETED":
            self._fleet.forget(desire.key, desire.uid)
            return
        if type is None:
            self._listed.set()
        told = plain.get("status") or {}
        self._reporter.observed(desire.key, told)
        self._fleet.want(desire, told.get("lastHandledRunAt"), restored_runs(told))

    async def _check_installed(self) -> None:
        try:
            found = await self._api.ask("GET", f"/apis/{GROUP}/{VERSION}")
        except ApiError as e:
            if e.status != 404:
                raise e.unavailable("the API server") from None
            found = {"resources": []}
        if not any(r["name"] == PLURAL for r in found["resources"]):
            raise SourceUnavailable(
                Reason.SOURCE_UNAVAILABLE,
                f"the cluster does not know {PLURAL}.{GROUP} ({API_VERSION}); kubectl apply -f crds/",
            )

    async def _resync(self) -> None:
        """Forget what is not there any more, soon after each of kopf's lists and now and then."""
        while True:
            try:
                await asyncio.wait_for(self._listed.wait(), self._settings.resync_s)
                await asyncio.sleep(_RESYNC_AFTER_LISTING_S)
            except TimeoutError:
                pass
            self._listed.clear()
            known = self._fleet.keys()  # before the list: what is newer than it is not judged by it
            try:
                there = await self._names()
            except ApiError as e:
                log.warning("the list of workflows failed, tried again: %s", e.message)
                continue
            for key, uid in known.items():
                if there.get(key) != uid:
                    self._fleet.forget(key, uid)
            self.synced.set()

    async def _names(self) -> dict[WorkflowKey, str]:
        found: dict[WorkflowKey, str] = {}
        for scope in [f"namespaces/{n}/" for n in self._namespaces] or [""]:
            query: dict[str, str] = {"limit": str(_PAGE)}
            while True:
                page = await self._api.ask(
                    "GET",
                    f"/apis/{GROUP}/{VERSION}/{scope}{PLURAL}",
                    query=query,
                    accept=METADATA_LIST,
                )
                for item in page["items"]:
                    metadata = item["metadata"]
                    found[WorkflowKey(metadata["namespace"], metadata["name"])] = metadata["uid"]
                token = page["metadata"].get("continue")
                if not token:
                    break
                query["continue"] = token
        return found


def _plain(body: kopf.Body) -> dict[str, Any]:
    # kopf hands out views; what we keep for long must be plain, and only ours.
    return {name: body.get(name) for name in ("metadata", "spec", "status")}
