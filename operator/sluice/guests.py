"""From a module to a guest that can be fired: its engine, its triggers, and how an event runs it.

A WASI command is what its spec says. A CRE workflow says itself what it subscribes to; what that
takes is loaded with the first of them: CRE's messages alone are 8 MB. Apart from fleet.py, which
knows no interface.
"""

from typing import TYPE_CHECKING, Protocol

from sluice.errors import EngineRefused, WorkflowInvalid
from sluice.executions.performing import Guest
from sluice.reasons import Reason
from sluice.supply import Supply
from sluice.wasm.engine import Engine
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import Workflow

if TYPE_CHECKING:
    from sluice.capabilities import Capabilities
    from sluice.cre_guests import CreGuests

_CRE = "cre"


class Equipment(Protocol):
    """What CRE workflows are equipped with, made when the first of them is there."""

    @property
    def capabilities(self) -> "Capabilities":
        """Raise EngineRefused where a setting of theirs is wrong."""
        ...


class Guests:
    """Makes guests; without ``equipment`` no CRE workflows are among them."""

    def __init__(
        self,
        runtime: Runtime,
        supply: Supply,
        equipment: Equipment | None = None,
    ) -> None:
        self._runtime, self._supply, self._equipment = runtime, supply, equipment
        self._cre: CreGuests | None = None

    async def open(self, module: Module, workflow: Workflow, config: str) -> Guest:
        """Return the guest of a module and a config.

        Raises:
            WorkflowInvalid: it speaks another interface than its spec says, cannot say what it
                subscribes to, or that cannot be had here.
            EngineRefused: it did not say so in time.

        """
        abi, said = module.entry.record["abi"], workflow.spec.abi
        if said not in {None, abi}:
            raise WorkflowInvalid(
                Reason.ABI_UNSUPPORTED,
                f"spec.abi says {said}, but the module speaks {abi}; say {abi}, or leave it out",
            )
        if abi != _CRE:
            return Guest(workflow, Engine(self._runtime, module, workflow, config))
        if self._cre is None:
            self._cre = self._equipped()
        return await self._cre.open(module, workflow, config)

    def close(self) -> None:
        if self._cre:
            self._cre.close()

    def _equipped(self) -> "CreGuests":
        if self._equipment is None:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, "this process has no capabilities for CRE workflows"
            )
        from sluice.cre_guests import CreGuests

        return CreGuests(self._runtime, self._supply, self._equipment.capabilities)
