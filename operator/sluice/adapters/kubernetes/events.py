"""Events through events.k8s.io/v1: one object for what repeats, and never a flood."""

import http
import logging
import os
import secrets
import socket
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from sluice.adapters.kubernetes.api import MERGE, Api, ApiError
from sluice.metrics import Metrics
from sluice.snapshot import Snapshot
from sluice.status import Note
from sluice.workflow import API_VERSION, GROUP, KIND

log = logging.getLogger(__name__)
_CONTROLLER = f"{GROUP}/operator"
_NOTE_CHARS_MAX = 1000  # the API's bound is 1,024 bytes
_RECENT_MAX = 1024
# As client-go's recorder: what comes again within six minutes is one event with a count …
_SERIES_S = 360
# … and that count is written on a doubling scale, so that a thousand repeats are ten writes.
_WRITTEN_COUNTS = frozenset(2**n for n in range(1, 32))


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def workflow(cls, snapshot: Snapshot) -> Self:
        return cls(API_VERSION, KIND, snapshot.key.namespace, snapshot.key.name, snapshot.uid)

    @classmethod
    def own_pod(cls) -> Self | None:
        """Return the pod that this is, as the chart tells it; None: it runs in none."""
        namespace, name = os.environ.get("POD_NAMESPACE"), os.environ.get("POD_NAME")
        if not namespace or not name:
            return None
        return cls("v1", "Pod", namespace, name, os.environ.get("POD_UID", ""))


@dataclass(slots=True)
class _Series:
    name: str
    count: int
    last: datetime


class Events:
    """Posts notes on objects; an event that cannot be posted is told in the log, no more."""

    def __init__(self, api: Api, metrics: Metrics) -> None:
        self._api, self._metrics = api, metrics
        self._instance = os.environ.get("POD_NAME") or socket.gethostname()
        self._recent: OrderedDict[tuple[str, str], _Series] = OrderedDict()

    async def post(self, subject: Subject, note: Note) -> None:
        now = datetime.now(UTC)
        series = self._recent.get((subject.uid, note.reason))
        try:
            if series is None or (now - series.last).total_seconds() > _SERIES_S:
                await self._create(subject, note, now)
            else:
                await self._repeat(subject, series, now)
        except ApiError as e:
            log.warning("event %s was not posted: %s", note.reason, e.message)

    async def _create(self, subject: Subject, note: Note, now: datetime) -> None:
        event = self._event(subject, note, now)
        name = event["metadata"]["name"]
        try:
            await self._write("POST", _path(subject), event)
        except ApiError as e:
            if e.status != http.HTTPStatus.CONFLICT:  # the answer to an earlier try was lost
                raise
        self._recent[subject.uid, note.reason] = _Series(name, 1, now)
        self._recent.move_to_end((subject.uid, note.reason))
        while len(self._recent) > _RECENT_MAX:
            self._recent.popitem(last=False)

    async def _repeat(self, subject: Subject, series: _Series, now: datetime) -> None:
        series.count, series.last = series.count + 1, now
        if series.count not in _WRITTEN_COUNTS:
            return
        body = {"series": {"count": series.count, "lastObservedTime": _micro(now)}}
        try:
            await self._write("PATCH", f"{_path(subject)}/{series.name}", body, MERGE)
        except ApiError as e:
            if e.status != http.HTTPStatus.NOT_FOUND:  # it has expired: the next one is a new one
                raise
            series.last = datetime.min.replace(tzinfo=UTC)

    async def _write(
        self, method: str, path: str, body: dict[str, Any], content_type: str = "application/json"
    ) -> None:
        self._metrics.api_writes.labels("event").inc()
        await self._api.ask(method, path, body=body, content_type=content_type)

    def _event(self, subject: Subject, note: Note, now: datetime) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{subject.name[:230]}.{secrets.token_hex(8)}",
                "namespace": subject.namespace,
            },
            "eventTime": _micro(now),
            "reportingController": _CONTROLLER,
            "reportingInstance": self._instance[:128],
            "action": note.action,
            "reason": note.reason,
            "type": "Warning" if note.warning else "Normal",
            "note": note.message[:_NOTE_CHARS_MAX],
            "regarding": {
                "apiVersion": subject.api_version,
                "kind": subject.kind,
                "namespace": subject.namespace,
                "name": subject.name,
                "uid": subject.uid,
            },
        }


def _path(subject: Subject) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{subject.namespace}/events"


def _micro(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
