"""The objects of one trigger, as the API server lists and streams them, body by body."""

import asyncio
import http
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiohttp

from sluice.adapters.kubernetes.api import METADATA_LIST, Api, ApiError
from sluice.adapters.kubernetes.resources import Resource
from sluice.errors import SluiceError, SourceUnavailable, WorkflowInvalid
from sluice.reasons import Reason
from sluice.spec import KubernetesSpec
from sluice.triggers.kubernetes import Broken, Expired, Seen, full_name

# Metadata may hold a whole last-applied configuration, up to 256 KiB an object.
_PAGE = 50
# One line of a watch is one object. Those above the first are assembled one at a time in the
# process: a hundred watches that see one large object must not hold it a hundred times.
_LARGE_BYTES = 32 << 10
_LINE_BYTES_MAX = 16 << 20  # what etcd takes, written in JSON at its worst
# The API server ends a watch by itself; each at its own time, so that they do not come at once.
_WATCH_S = (240, 360)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a list."""

    uid: str
    seen: Seen
    created: datetime


class Objects:
    """What one trigger watches. ``large`` is shared by all of the process."""

    def __init__(
        self, api: Api, resource: Resource, namespace: str | None, spec: KubernetesSpec,
        large: asyncio.Lock,
    ) -> None:  # fmt: skip
        self._api, self._resource, self._namespace, self._spec = api, resource, namespace, spec
        self._path, self._large = resource.path(namespace), large

    async def known(self, objects_max: int) -> tuple[str, dict[str, Seen] | None]:
        """Return the version of now and what is there; None: it is more than ``objects_max``."""
        objects: dict[str, Seen] = {}
        version = ""
        async for version, page in self.pages():
            objects |= {item.uid: item.seen for item in page}
            if len(objects) > objects_max:
                return version, None
        return version, objects

    async def version(self) -> str:
        """Return the version of now."""
        query = self._query() | {"limit": "1"}
        page = await self._api.ask("GET", self._path, query=query, accept=METADATA_LIST)
        return str(page["metadata"]["resourceVersion"])

    async def pages(self) -> AsyncIterator[tuple[str, list[Listed]]]:
        """Yield the version of the list and some of its objects, until all were."""
        query = self._query() | {"limit": str(_PAGE)}
        while True:
            page = await self._api.ask("GET", self._path, query=query, accept=METADATA_LIST)
            yield page["metadata"]["resourceVersion"], [_listed(i) for i in page["items"] or ()]
            if not page["metadata"].get("continue"):
                return
            query["continue"] = page["metadata"]["continue"]

    async def one(self, seen: Seen, use: Callable[[dict[str, Any]], _T]) -> _T | None:
        """Return what ``use`` makes of an object as it is now; None: it is not there any more.

        By a list of one, which needs no right to get.
        """
        name = f"metadata.name={seen.name.rpartition('/')[2]}"
        given = self._spec.field_selector
        query = self._query() | {"fieldSelector": f"{name},{given}" if given else name}
        async with self._large:
            found = await self._api.ask("GET", self._path, query=query)
            for item in found["items"] or ():
                # A list of built-in objects leaves out what each of them is.
                kind = {"apiVersion": self._spec.api_version, "kind": self._spec.kind}
                return use(kind | item)
        return None

    @asynccontextmanager
    async def watch(
        self, version: str, use: Callable[[bytes], _T], silence_s_max: float
    ) -> AsyncIterator[AsyncIterator[_T]]:
        """Yield what ``use`` makes of each line from ``version`` on, until the server ends it.

        Raises:
            Expired: that version is forgotten.
            ApiError: the watch is refused, or breaks.

        """
        query = self._query() | {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*_WATCH_S)),  # noqa: S311 - only spread
        }
        try:
            async with (
                self._api.stream(self._path, query, silence_s_max=silence_s_max) as content,
                aclosing(_lines(content, use, self._large)) as lines,
            ):
                yield lines
        except ApiError as e:
            if e.status == http.HTTPStatus.GONE:
                raise Expired(e.message) from None
            raise

    def meaning(self, trigger: str, error: ApiError | Broken) -> SluiceError:
        """Return what a failure means for the workflow."""
        where = f"trigger {trigger}"
        if isinstance(error, Broken):
            return SourceUnavailable(
                Reason.SOURCE_UNAVAILABLE, f"{where}: the watch broke: {error}"
            )
        if error.status == http.HTTPStatus.FORBIDDEN:
            return SourceUnavailable(
                Reason.TRIGGER_FORBIDDEN,
                f"{where}: the operator may not list and watch {self}. An admin grants it, to all "
                f"who may write Workflows there, with {self._how_to_grant(error.message)}. The "
                f"API server says: {error.message}",
            )
        if error.status in {http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.UNPROCESSABLE_ENTITY}:
            return WorkflowInvalid(Reason.INVALID_SPEC, f"{where}: {error.message}")
        return error.unavailable(f"{where}: {self}")

    def __str__(self) -> str:
        where = f" in namespace {self._namespace}" if self._namespace else ""
        return f"{self._resource.full_name}{where}"

    def _query(self) -> dict[str, str]:
        spec = self._spec
        given = {"labelSelector": spec.label_selector, "fieldSelector": spec.field_selector}
        return {name: value for name, value in given.items() if value}

    def _how_to_grant(self, message: str) -> str:
        user = re.search(r'User "([^"]+)"', message)
        who = user[1] if user else "THE-OPERATOR"
        name = f"sluice-watch-{self._resource.plural}"
        kind, kubectl = "clusterrole", "kubectl"
        if self._namespace:
            kind, kubectl = "role", f"kubectl -n {self._namespace}"
        return (
            f"`{kubectl} create {kind} {name} --verb=list,watch "
            f"--resource={self._resource.full_name}` and `{kubectl} create {kind}binding {name} "
            f"--{kind}={name} --user={who}`"
        )


async def _lines(
    content: aiohttp.StreamReader, use: Callable[[bytes], _T], large: asyncio.Lock
) -> AsyncGenerator[_T, None]:
    """Yield what ``use`` makes of each line; a large one is held by one watch at a time."""
    line, holds = bytearray(), False
    try:
        async for piece in content.iter_any():
            *ended, rest = piece.split(b"\n")
            for end in ended:
                made = use(bytes(line + end))
                line.clear()
                if holds:
                    large.release()
                    holds = False
                yield made
            line += rest
            if len(line) > _LINE_BYTES_MAX:
                raise Expired("one object is larger than any can be")
            if len(line) > _LARGE_BYTES and not holds:
                await large.acquire()
                holds = True
    finally:
        if holds:
            large.release()


def _listed(item: dict[str, Any]) -> Listed:
    metadata = item["metadata"]
    created = metadata.get("creationTimestamp")
    return Listed(
        metadata["uid"],
        Seen(metadata["resourceVersion"], full_name(metadata)),
        datetime.fromisoformat(created) if created else datetime.fromtimestamp(0, UTC),
    )
