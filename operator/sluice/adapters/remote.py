"""A running operator, asked over its HTTP port by the command line."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from sluice.errors import SourceUnavailable, WorkflowInvalid
from sluice.reasons import Reason
from sluice.workflow import WorkflowKey

_TIMEOUT_S = 10.0
_LOOK_S = 1.0
_LOOKED_AT = 100  # executions at each look: as many as may end between two


class Remote:
    """The operator at ``url``; every method raises SluiceError where it does not answer well."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._session.close()

    async def status(self) -> dict[str, Any]:
        """Return the overview."""
        return await self._get("/status")

    async def executions(self, key: WorkflowKey, limit: int) -> list[dict[str, Any]]:
        """Return the last ones, the newest first."""
        told = await self._get(f"{_path(key)}?limit={limit}")
        found: list[dict[str, Any]] = told["executions"]
        return found

    async def execution(self, key: WorkflowKey, id_: str) -> dict[str, Any]:
        """Return one with its log."""
        return await self._get(f"{_path(key)}/{quote(id_, safe='')}")

    async def logs(
        self, key: WorkflowKey, limit: int, *, follow: bool
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the last that are over, each with its log, the oldest first; then each new one."""
        seen: set[str] = set()
        first = True
        while first or follow:
            listed = await self.executions(key, max(limit, _LOOKED_AT))
            over = [one["id"] for one in listed if one["state"] == "Finished"]
            for id_ in reversed([i for i in over if i not in seen][: limit if first else None]):
                yield await self.execution(key, id_)
            seen, first = set(over), False
            if follow:
                await asyncio.sleep(_LOOK_S)

    async def end(self, key: WorkflowKey, id_: str) -> dict[str, Any]:
        """Return one with its log when it is over."""
        while True:
            one = await self.execution(key, id_)
            if one["state"] == "Finished":
                return one
            await asyncio.sleep(_LOOK_S)

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            async with self._session.get(self._url + path) as answer:
                if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
                    raise WorkflowInvalid(Reason.INVALID_SPEC, (await answer.text()).strip())
                answer.raise_for_status()
                told: dict[str, Any] = await answer.json()
                return told
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            why = str(e) or f"no answer in {_TIMEOUT_S:g} s"
            raise SourceUnavailable(
                Reason.SOURCE_UNAVAILABLE,
                f"no operator answers at {self._url}: {why}; run this in its pod (kubectl exec), "
                "or beside a kubectl port-forward to it",
            ) from None


def _path(key: WorkflowKey) -> str:
    return f"/v1/namespaces/{key.namespace}/workflows/{key.name}/executions"
