"""kopf's watch on Workflows: each event is a desire, recorded at once; nothing is left behind.

No finalizer and no annotation is written: a change handler of kopf would leave both, ``on.event``
leaves neither. What a watch cannot tell is a deletion that happened while it was cut, so a list
of names follows whenever kopf has listed anew, and now and then besides.
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import threading
from collections.abc import Collection, Iterator
from typing import Any

import kopf

from sluice.adapters.kubernetes.api import METADATA_LIST, Account, Api, ApiError, pause_s
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
_SETTLE_S = 0.5
_PAUSE_S_MAX = 5.0
# How long kopf may take to end: a watch that hangs must not use up the time to drain.
_END_S_MAX = 2.0


class _Backoffs:
    """kopf's pauses between tries of one request: short ones without end.

    By default it gives up after nine tries and 54 s, and a change is seen up to 21 s after an
    outage. A watch is the one request that there is; short pauses cost the API server nothing.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.1, 0.5, 1.0), itertools.repeat(2.0))


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
        self._stopped = False
        self.synced = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until ``stop``; raises SourceUnavailable where it cannot begin."""
        await self._check_installed()
        async with asyncio.TaskGroup() as group:
            resync = group.create_task(self._resync())
            failures = 0
            while not stop.is_set():
                await self._watch(stop)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_s(failures, _PAUSE_S_MAX))
                failures += 1
            resync.cancel()

    async def _watch(self, stop: asyncio.Event) -> None:
        """Watch until ``stop``, or until kopf gives up: what serves goes on meanwhile."""
        loop = asyncio.get_running_loop()
        stopping: concurrent.futures.Future[None] = concurrent.futures.Future()
        ended = loop.create_future()
        # A thread and a loop of its own: at its end kopf cancels every task it finds in the loop
        # that was not there when it began, and in the main thread it takes the signals away.
        threading.Thread(
            target=self._watch_in_thread, args=(loop, stopping, ended), name="kopf", daemon=True
        ).start()
        asked = asyncio.ensure_future(stop.wait())
        await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if stop.is_set():
            self._stopped = True
            stopping.set_result(None)
            await asyncio.wait([ended], timeout=_END_S_MAX)
        else:
            log.error("the watch failed and is begun anew: %s", ended.result())
            self._reporter.doubts.set()

    def _watch_in_thread(
        self,
        loop: asyncio.AbstractEventLoop,
        stopping: "concurrent.futures.Future[None]",
        ended: "asyncio.Future[str]",
    ) -> None:
        async def watch() -> None:
            # Cancelled, and not told by kopf's own stop_flag: kopf waits for that in a thread that
            # outlives a failure, so a watch that failed would neither end nor be begun anew.
            own, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            stopping.add_done_callback(lambda _: own.call_soon_threadsafe(task.cancel))
            await kopf.operator(
                registry=self._registry(loop),
                settings=self._kopf_settings(),
                namespaces=self._namespaces,
                clusterwide=not self._namespaces,
                standalone=True,
            )

        failure = "it ended by itself"
        try:
            asyncio.run(watch())
        except asyncio.CancelledError:
            pass
        except Exception as e:  # noqa: BLE001 - whatever kopf fails of, what serves goes on
            failure = str(e) or type(e).__name__
        loop.call_soon_threadsafe(ended.set_result, failure)

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        async def login(**_: Any) -> kopf.ConnectionInfo:
            account = asyncio.run_coroutine_threadsafe(self._api.account(), loop)
            return _connection(await asyncio.wrap_future(account))

        async def seen(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's
            loop.call_soon_threadsafe(self._seen, type, _plain(body))

        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(login)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(seen)
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
        settings.networking.connect_timeout = 10
        settings.networking.error_backoffs = _Backoffs()
        return settings

    def _seen(self, kind: str | None, body: dict[str, Any]) -> None:
        if self._stopped:
            return  # a late word: nothing is started any more
        desire = Desire.of(body, self._settings)
        if kind == "DELETED":
            self._fleet.forget(desire.key, desire.uid)
            return
        if kind is None:
            self._reporter.doubts.set()
        told = body.get("status") or {}
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
                f"the cluster does not know {PLURAL} of {API_VERSION}; kubectl apply -f crds/",
            )

    async def _resync(self) -> None:
        """Forget what is not there any more, soon after each of kopf's lists and now and then.

        The first time that nothing is there which the fleet has not heard of, all is ``synced``.
        """
        doubts, failures = self._reporter.doubts, 0
        while True:
            wait_s = self._settings.resync_s if self.synced.is_set() else _SETTLE_S
            if failures:
                wait_s = pause_s(failures, _PAUSE_S_MAX)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(doubts.wait(), wait_s)
                await asyncio.sleep(_SETTLE_S)  # one list of ours for all that kopf's brings
            doubts.clear()
            known = self._fleet.keys()  # before the list: what is newer than it is not judged by it
            try:
                there = await self._names()
            except ApiError as e:
                log.warning("the list of workflows failed, tried again: %s", e.message)
                failures += 1
                continue
            failures = 0
            for key, uid in known.items():
                if there.get(key) != uid:
                    self._fleet.forget(key, uid)
            if there.keys() <= self._fleet.keys().keys():
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
                for item in page["items"] or ():  # null where there is none
                    metadata = item["metadata"]
                    found[WorkflowKey(metadata["namespace"], metadata["name"])] = metadata["uid"]
                token = page["metadata"].get("continue")
                if not token:
                    break
                query["continue"] = token
        return found


def _connection(account: Account) -> kopf.ConnectionInfo:
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


def _plain(body: kopf.Body) -> dict[str, Any]:
    # kopf hands out views; what we keep for long must be plain, and only ours.
    return {name: body.get(name) for name in ("metadata", "spec", "status")}
