"""How a workflow gets its module: which tier first, at what cost, and under which cap.

The baseline compiler is five to six times faster and its code about half as fast. So where many
wait, or where an optimised compile would not fit, a cold start serves from the baseline tier, and
is compiled by the optimising one behind it.
"""

import contextlib

from sluice.errors import BaselineRefused, HeadroomExceeded, WorkflowInvalid
from sluice.reasons import Reason
from sluice.rollout.batches import Permit, Rollout
from sluice.rollout.costs import Cost, Costs
from sluice.settings import MIB, Settings
from sluice.supply import Supplied, Supply
from sluice.wasm.config import Tier
from sluice.workflow import Workflow


class Provision:
    """Chooses the tier, predicts what it costs, and learns from what it did cost."""

    def __init__(self, supply: Supply, rollout: Rollout, costs: Costs, settings: Settings) -> None:
        self._supply, self._rollout, self._costs = supply, rollout, costs
        self._settings = settings

    def policy(self, workflow: Workflow) -> str:
        return workflow.spec.tiers or self._settings.tiers

    def first_tier(self, workflow: Workflow, *, many: bool) -> Tier:
        """Return the tier that a start of ``workflow`` would take, one of ``many`` or not."""
        policy, digest = self.policy(workflow), workflow.digest
        if policy == "optimizing" or self._supply.baseline_refused(digest):
            return Tier.OPTIMIZING
        if policy == "baseline":
            return Tier.BASELINE
        if self._supply.cached(digest, Tier.OPTIMIZING):
            return Tier.OPTIMIZING
        if self._supply.cached(digest, Tier.BASELINE) or many:
            return Tier.BASELINE
        cost = self.cost(workflow, Tier.OPTIMIZING)
        too_large = cost.known and cost.compile_bytes >= self._settings.compile_memory_bytes_max
        return Tier.BASELINE if too_large else Tier.OPTIMIZING

    def cost(self, workflow: Workflow, tier: Tier) -> Cost:
        """Return what a start in ``tier`` is predicted to take."""
        cached = self._supply.cached(workflow.digest, tier)
        return self._costs.predict(workflow.digest, workflow.spec.module.size, tier, cached)

    async def module(self, workflow: Workflow, tier: Tier, permit: Permit) -> Supplied:
        """Return the module in ``tier``, or in the other one where it cannot be had in this.

        Raises what ``Supply.module`` raises.
        """
        try:
            return await self._compiled(workflow, tier, permit)
        except BaselineRefused:
            pass
        except WorkflowInvalid as e:
            # Too much for one compiler may be little for the other.
            auto = tier is Tier.OPTIMIZING and self.policy(workflow) == "auto"
            if e.reason is not Reason.COMPILE_OUT_OF_MEMORY or not auto:
                raise
            with contextlib.suppress(BaselineRefused):
                return await self._compiled(workflow, Tier.BASELINE, permit)
            raise
        return await self._compiled(workflow, Tier.OPTIMIZING, permit)

    async def optimized(self, workflow: Workflow, permit: Permit) -> Supplied:
        """Return the module in the optimising tier, for a swap behind what serves already."""
        return await self._compiled(workflow, Tier.OPTIMIZING, permit)

    def optimizes(self, workflow: Workflow, tier: Tier) -> bool:
        """Whether what serves in ``tier`` is to be compiled by the optimising one behind it."""
        return tier is Tier.BASELINE and self.policy(workflow) == "auto"

    def many_start(self) -> bool:
        """Whether so many start at once that they had better serve soon."""
        # Those that serve already and wait to be optimised are no reason to hurry.
        return self._rollout.starting >= self._settings.tiers_waiting_min

    async def _compiled(self, workflow: Workflow, tier: Tier, permit: Permit) -> Supplied:
        digest, size = workflow.digest, workflow.spec.module.size
        try:
            supplied = await self._supply.module(
                workflow, tier, lambda: self._cap(workflow, tier, permit)
            )
        except HeadroomExceeded as e:
            self._costs.failed(digest, size, tier, e.cap_bytes)
            raise
        except WorkflowInvalid as e:
            if e.reason is Reason.COMPILE_OUT_OF_MEMORY:
                self._costs.failed(digest, size, tier, self._settings.compile_memory_bytes_max)
            raise
        self._costs.kept(digest, supplied.module.kept_bytes)
        if supplied.compiled:
            self._costs.compiled(digest, size, tier, supplied.module.entry.record["peak_bytes"])
        return supplied

    async def _cap(self, workflow: Workflow, tier: Tier, permit: Permit) -> int:
        """Return what the child may take; one that is known to need more is not tried."""
        cap, cost = await self._rollout.compile_cap(permit), self.cost(workflow, tier)
        if cost.known and cap < cost.compile_bytes:
            raise HeadroomExceeded(
                f"the pod has {cap // MIB} MiB left and the compile needs "
                f"{cost.compile_bytes // MIB}; it is tried again when there is more",
                cap,
            )
        return cap


class Choice:
    """The tier that one start takes: chosen with the cost that its permit was given for."""

    def __init__(self, provision: Provision, workflow: Workflow) -> None:
        self._provision, self._workflow = provision, workflow
        self.tier = Tier.OPTIMIZING
        self._many = False

    def cost(self) -> Cost:
        """Choose as things are now; asked until the permit is given."""
        # The last of many is still one of them, though nobody waits behind it.
        self._many = self._many or self._provision.many_start()
        self.tier = self._provision.first_tier(self._workflow, many=self._many)
        return self._provision.cost(self._workflow, self.tier)
