"""Looks at ConfigMaps again: of what failed until they change, of what serves for drift.

Looking by name asks for one right, ``get``. A watch of all ConfigMaps asks for ``list`` and
``watch`` in every namespace, and its first list would bring every payload twice: as data and in
the annotation of a client-side apply. The digest makes the content of a module immutable, so all
that a look can find is that somebody broke it, or mended it.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping

from sluice.errors import ContentInvalid, SluiceError, SourceUnavailable
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Verdict
from sluice.supply import Supply
from sluice.workflow import Workflow

VERIFIED = Verdict(True, Reason.VERIFIED, "the ConfigMaps hold spec.module.digest")


async def pause(failures: int, longest_s: float) -> None:
    """Wait before the next try after so many failures: twice as long each time, with jitter."""
    longest_s = min(2.0 ** min(failures, 16), longest_s)
    await asyncio.sleep(random.uniform(longest_s / 2, longest_s))  # noqa: S311 - jitter


class Upkeep:
    """All looks of one operator; together at most ``source_checks_per_s_max``."""

    def __init__(self, supply: Supply, settings: Settings) -> None:
        self._supply, self._settings = supply, settings
        self._next = 0.0

    async def until_changed(self, namespace: str, seen: Mapping[str, str | None]) -> None:
        """Return once one of the ConfigMaps is no longer the version that was seen."""
        pause_s = min(1.0, self._settings.source_retry_s_max)
        while True:
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, self._settings.source_retry_s_max)
            try:
                if await self._versions(namespace, seen) != dict(seen):
                    return
            except SourceUnavailable:
                continue  # no answer is no change

    async def watch(
        self, workflow: Workflow, config: str, seen: dict[str, str | None]
    ) -> AsyncGenerator[Verdict]:
        """Yield what is known of the ConfigMaps after each look; end when the config changed.

        ``seen`` are the versions whose parts held the digest. Others are read as a compile would,
        and so is one that was served from the cache: nobody has read its parts yet.
        """
        names = list({ref.name: None for ref in workflow.spec.module.config_maps})
        verdict = VERIFIED
        while True:
            pause_s = self._settings.source_check_s
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - jitter
            try:
                if await self._config(workflow) != config:
                    return
                versions = await self._versions(workflow.key.namespace, names)
                if versions != seen:
                    seen, verdict = versions, await self._verdict(workflow)
            except ContentInvalid as e:
                yield _drifted(e)
                continue
            except SluiceError:
                continue  # no answer is no verdict
            yield verdict

    async def _verdict(self, workflow: Workflow) -> Verdict:
        try:
            await self._supply.verify(workflow)
        except ContentInvalid as e:
            return _drifted(e)
        return VERIFIED

    async def _config(self, workflow: Workflow) -> str:
        if workflow.spec.config_from:
            await self._pace()
        return await self._supply.config(workflow)

    async def _versions(
        self, namespace: str, names: "Mapping[str, str | None] | list[str]"
    ) -> dict[str, str | None]:
        versions = {}
        for name in names:
            await self._pace()
            versions[name] = await self._supply.version(namespace, name)
        return versions

    async def _pace(self) -> None:
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + 1 / self._settings.source_checks_per_s_max
        await asyncio.sleep(self._next - 1 / self._settings.source_checks_per_s_max - now)


def _drifted(error: ContentInvalid) -> Verdict:
    missing = error.reason in {Reason.CONFIG_MAP_NOT_FOUND, Reason.KEY_NOT_FOUND}
    return Verdict(
        False,
        error.reason if missing else Reason.CONFIG_MAP_CHANGED,
        f"{error.message}; what serves was read before that and goes on, but a start on an empty "
        "cache would fail",
    )
