"""Modules that have not run for a while: let go of, and brought back by the next trigger.

An engine without its module keeps its place, its triggers and its config; what it gives back are
mapped pages and what the code has written to, 20 to 120 KiB of them for each module.
"""

from collections.abc import Iterable

from sluice.errors import HeadroomExceeded, SluiceError, SourceUnavailable
from sluice.executions import Executions
from sluice.life import Alive, Life
from sluice.provision import Choice, Provision
from sluice.rollout.batches import Rollout
from sluice.upkeep import pause

# Between tries to read a module anew while the cluster does not answer.
_PAUSE_S_MAX = 15.0


class Idle:
    """Unmaps, and maps again through the same gate as a start."""

    def __init__(self, executions: Executions, provision: Provision, rollout: Rollout) -> None:
        self._executions, self._provision, self._rollout = executions, provision, rollout

    def unmap(self, lives: Iterable[Life], idle_s: float) -> None:
        """Let go of the modules of what has neither waited nor run for ``idle_s``."""
        for life in lives:
            if life.alive and self._executions.idle_s(life.key) > idle_s:
                life.alive.engine.unmap()

    async def bring_back(self, life: Life) -> None:
        """Map the module again, and go on with what waited for it; or say why it cannot be."""
        alive, failures = life.alive, 0
        while alive and life.alive is alive:
            try:
                if await self._mapped(life, alive):
                    break
            except SourceUnavailable:
                failures += 1  # what waits is on disk, and has its own time to live
            except SluiceError as e:
                message = f"its module could not be had again: {e.message}"
                self._executions.refuse(life.key, message)
                return
            if failures:
                await pause(failures, _PAUSE_S_MAX)
        self._executions.awake(life.key)

    async def _mapped(self, life: Life, alive: Alive) -> bool:
        workflow = alive.workflow
        choice = Choice(self._provision, workflow)
        try:
            async with self._rollout.admit(
                life.key, workflow.spec.priority, choice.cost, served_before=True
            ) as permit:
                supplied = await self._provision.module(workflow, choice.tier, permit)
        except HeadroomExceeded:
            return False
        alive.engine.map(supplied.module)
        return True
