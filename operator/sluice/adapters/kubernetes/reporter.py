"""Writes statuses and events: only what differs, what matters first, few at a time.

Level-triggered as everything: only the latest snapshot of a workflow is kept, and what it says is
held against what the object says already. So a start that was quick is one write and one event,
and a restart that ends where the last process was writes nothing.
"""

import asyncio
import http
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sluice import status
from sluice.adapters.kubernetes.api import APPLY, Api, ApiError, pause_s
from sluice.adapters.kubernetes.events import Events, Subject
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Snapshot, Verdict
from sluice.status import Note, Status
from sluice.workflow import API_VERSION, GROUP, KIND, PLURAL, VERSION, WorkflowKey

log = logging.getLogger(__name__)
# While the API server is away each write is tried this often, a few at a time: it is told soon
# after. What it refuses may be tried with the settings' longer pauses.
_OUTAGE_PAUSE_S_MAX = 5.0
# At the end, beside drain_s within the grace of a pod.
_CLOSE_S_MAX = 3.0


@dataclass(eq=False, slots=True)
class _Report:
    """What an object says, as far as is known, and what it should say."""

    told: Status
    snapshot: Snapshot | None = None
    timer: asyncio.TimerHandle | None = None
    writing: bool = False
    written_at: float = -1e9
    not_before: float = -1e9
    failures: int = 0


class StatusReporter:
    """A ``snapshot.Reporter`` of one operator; ``close`` writes what is still due.

    ``latest`` gives a workflow's snapshot as it is at the moment of a write.

    ``doubts`` is set where an object was not found as it was known: somebody should look.
    """

    def __init__(
        self,
        api: Api,
        settings: Settings,
        metrics: Metrics,
        latest: Callable[[WorkflowKey], Snapshot | None],
    ) -> None:
        self._api, self._settings, self._metrics = api, settings, metrics
        self._events, self._latest = Events(api, metrics), latest
        self._reports: dict[WorkflowKey, _Report] = {}
        self._slots = asyncio.Semaphore(settings.api_writes_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self.doubts = asyncio.Event()

    def observed(self, key: WorkflowKey, told: Status) -> None:
        """Take the status of an object at its first sight; later ones are our own."""
        self._reports.setdefault(key, _Report(told))

    def changed(self, snapshot: Snapshot) -> None:
        report = self._reports.setdefault(snapshot.key, _Report({}))
        if report.snapshot and report.snapshot.uid != snapshot.uid:
            report.told = {}
        report.snapshot = snapshot
        self._schedule(report)

    def event(self, snapshot: Snapshot, note: Verdict) -> None:
        told = Note(not note.ok, note.reason, "Run", note.message)
        self._spawn(self._post(Subject.workflow(snapshot), told))

    def rollout(self, note: Verdict) -> None:
        if pod := Subject.own_pod():
            self._spawn(self._post(pod, Note(not note.ok, note.reason, "Rollout", note.message)))

    def gone(self, key: WorkflowKey) -> None:
        report = self._reports.pop(key, None)
        if report and report.timer:
            report.timer.cancel()

    async def close(self) -> None:
        """Write what is due, each once, as far as it can be had soon."""
        for report in list(self._reports.values()):
            if report.timer:
                report.timer.cancel()
                self._begin(report)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_S_MAX)
            for task in late:
                task.cancel()
            if late:
                log.warning(
                    "%d statuses were not written; the next operator writes them", len(late)
                )
                await asyncio.wait(late)

    def _schedule(self, report: _Report) -> None:
        if report.timer:
            report.timer.cancel()
            report.timer = None
        if report.writing:
            return  # it looks again when it is done
        due_s = self._due_s(report)
        if due_s is not None:
            loop = asyncio.get_running_loop()
            report.timer = loop.call_later(due_s, self._begin, report)

    def _due_s(self, report: _Report) -> float | None:
        """Return how long the write may wait, or None where there is nothing to write."""
        snapshot, told = report.snapshot, report.told
        assert snapshot is not None
        wanted = status.render(snapshot, told, datetime.now(UTC))
        if wanted == told:
            return None
        # By the clock and not from now on, or changes that come fast would put it off for ever.
        now = asyncio.get_running_loop().time()
        since_s, wait_s = now - report.written_at, max(report.not_before - now, 0.0)
        if status.without_runs(wanted) == status.without_runs(told):
            return max(wait_s, self._settings.status_interval_s - since_s)
        if snapshot.settled:
            return wait_s
        # What is under way is told once, not again for each place that it moves up in the line;
        # that it has left the line only if it stays under way for long.
        if status.reasons(wanted) == status.reasons(told):
            return None
        first = status.settled(told) or snapshot.ready.reason is Reason.WAITING_FOR_MEMORY
        settings = self._settings
        return max(wait_s, settings.status_patience_s if first else settings.status_interval_s)

    def _begin(self, report: _Report) -> None:
        report.timer = None
        report.writing = True
        self._spawn(self._write(report))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, report: _Report) -> None:
        try:
            async with self._slots:
                snapshot = report.snapshot
                assert snapshot is not None
                # Who waits is told why as it is now: the line has moved since it was noted.
                snapshot = self._latest(snapshot.key) or snapshot
                await self._apply(report, snapshot)
        finally:
            report.writing = False
        if self._reports.get(snapshot.key) is report:
            self._schedule(report)

    async def _apply(self, report: _Report, snapshot: Snapshot) -> None:
        wanted = status.render(snapshot, report.told, datetime.now(UTC))
        if wanted == report.told:
            return
        self._metrics.api_writes.labels("status").inc()
        report.written_at = asyncio.get_running_loop().time()
        try:
            await self._api.ask(
                "PATCH",
                f"/apis/{GROUP}/{VERSION}/namespaces/{snapshot.key.namespace}/{PLURAL}"
                f"/{snapshot.key.name}/status",
                query={"fieldManager": "sluice", "force": "true"},
                body=_applied(snapshot, wanted),
                content_type=APPLY,
            )
        except ApiError as e:
            self._not_written(report, snapshot, e)
            return
        notes, report.told, report.failures = status.notes(report.told, wanted), wanted, 0
        for note in notes:
            await self._events.post(Subject.workflow(snapshot), note)

    async def _post(self, subject: Subject, note: Note) -> None:
        async with self._slots:
            await self._events.post(subject, note)

    def _not_written(self, report: _Report, snapshot: Snapshot, error: ApiError) -> None:
        report.failures += 1
        longest_s = _OUTAGE_PAUSE_S_MAX if error.passing else self._settings.retry_s_max
        wait_s = max(pause_s(report.failures, longest_s), error.retry_after_s or 0.0)
        report.not_before = asyncio.get_running_loop().time() + wait_s
        if error.status in {http.HTTPStatus.NOT_FOUND, http.HTTPStatus.CONFLICT}:
            # Deleted or made anew under this name, most likely, and the watch will tell. But a
            # conflict may also be one of many writers, and then this is still to be written.
            self.doubts.set()
            return
        log.log(
            logging.WARNING if report.failures == 1 else logging.DEBUG,
            "status was not written, tried again: %s",
            error.message,
            extra={"namespace": snapshot.key.namespace, "workflow": snapshot.key.name},
        )


def _applied(snapshot: Snapshot, wanted: Status) -> dict[str, Any]:
    # The uid makes it an error to write on another object of the same name.
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": snapshot.key.name,
            "namespace": snapshot.key.namespace,
            "uid": snapshot.uid,
        },
        "status": wanted,
    }
