"""Whole rollouts in virtual time, each of one seed: ``--seeds N`` runs N, ``--seed N`` that one."""

import asyncio
from pathlib import Path

import pytest

from fakes import in_virtual_time
from simulation.oracle import Oracle, must
from simulation.world import World, plan
from sluice.rollout import batches
from sluice.rollout.batches import Rollout


def test_whatever_happens_no_start_is_forbidden_and_all_that_fits_becomes_ready(
    seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No start passes the rules, no pod its limit, nobody waits for ever, every hold ends."""

    async def live() -> None:
        main = asyncio.current_task()
        assert main
        # Soon and not at once: the decision is still to be acted on.
        oracle = Oracle(lambda: asyncio.get_running_loop().call_soon(main.cancel))
        monkeypatch.setattr(batches, "decide", oracle.decide)
        world = World(plan(seed), Rollout, tmp_path / "costs")
        try:
            await world.live()
        except asyncio.CancelledError:
            raise oracle.broken or RuntimeError from None
        check(world)

    print(f"replay it with: pytest tests/simulation --seed {seed}")
    in_virtual_time(live())


def check(world: World) -> None:
    for i, task in world.tasks.items():
        if not task.cancelled() and task.exception():
            raise task.exception()  # type: ignore[misc]
        must(
            i in world.ready or i in world.deleted or world.giant(i) or i in world.refused,
            f"workflow {i} fits and never became ready",
        )
    must(not any(not world.giant(i) for i in world.refused), "one that fits was refused")
    statistics = world.rollout.statistics()
    must(statistics.waiting == statistics.in_flight == world.in_flight == 0, "a permit was lost")
    must(world.most_in_flight <= world.plan.bounds.starts_max, "more starts than permits")
    begun = [event.begun for event in world.events]
    must(begun == [i % 2 == 0 for i in range(len(begun))], "a hold's events are no pairs")
    must(not statistics.held and len(begun) % 2 == 0, "a hold has not ended")
