"""What is wanted becomes alive, stays so, and goes at once when it is not wanted any more."""

import asyncio
import gc
import weakref
from dataclasses import replace

import pytest

from fakes import unavailable, until
from fleet.stage import OpenStage
from guests.build import guest
from sluice.desire import Desire
from sluice.errors import WorkflowInvalid
from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from sluice.rollout.memory import find_source
from sluice.wasm.lending import Lending
from sluice.workflow import WorkflowKey


async def test_wanted_becomes_alive_and_runs(open_stage: OpenStage) -> None:
    """A desire becomes an engine that runs; the way there is told in order."""
    stage = await open_stage()
    key = stage.want("hello", "answer", "42")
    await stage.until_reason(key, Reason.SERVING)
    assert await stage.result(key) == "42"
    assert stage.told.reasons("hello") == ["WaitingForTurn", "Starting", "Serving"]


async def test_only_so_many_start_at_once(open_stage: OpenStage) -> None:
    """Never more than starts_max are under way, and all become ready."""
    stage = await open_stage(starts_max=4)
    keys = [stage.want(f"w{i}", "answer", number=i) for i in range(8)]
    under_way: list[int] = []
    async with asyncio.timeout(60):
        while not all(stage.ready(key).ok for key in keys):
            reasons = [s.ready.reason for s in stage.fleet.snapshots()]
            under_way.append(reasons.count(Reason.STARTING))
            await asyncio.sleep(0.001)
    assert 1 < max(under_way) <= 4


async def test_priority_goes_first(open_stage: OpenStage) -> None:
    """Of those that wait together, the higher priority starts first."""
    stage = await open_stage(starts_max=1)
    keys = {p: stage.want(f"p{p}", "answer", number=p + 5, priority=p) for p in (-1, 0, 1)}
    for key in keys.values():
        await stage.until_reason(key, Reason.SERVING)
    ready = [s.key.name for s in stage.told.snapshots if s.ready.ok]
    assert list(dict.fromkeys(ready)) == ["p1", "p0", "p-1"]


async def test_new_revision_replaces_without_a_gap(open_stage: OpenStage) -> None:
    """The old engine runs what comes until the new one is there; then the new one does."""
    stage = await open_stage()
    key = stage.want("hello", "answer", "one")
    await stage.until_reason(key, Reason.SERVING)
    stage.source.gate.clear()
    stage.want("hello", "answer", "two", generation=2, number=2)
    await stage.until_reason(key, Reason.STARTING)
    assert await stage.result(key) == "one"
    stage.source.gate.set()
    await stage.until_reason(key, Reason.SERVING)
    assert await stage.result(key) == "two"
    assert all(s.serving for s in stage.told.snapshots if s.generation == 2)


async def test_failed_revision_leaves_the_old_one(open_stage: OpenStage) -> None:
    """A new revision that cannot start does not take the old one with it."""
    stage = await open_stage()
    key = stage.want("hello", "answer", "one")
    await stage.until_reason(key, Reason.SERVING)
    problem = WorkflowInvalid(Reason.INVALID_SCHEDULE, "no such time zone")
    stage.fleet.want(Desire(key=key, uid="uid-hello", generation=2, problem=problem))
    await stage.until_reason(key, Reason.INVALID_SCHEDULE)
    assert await stage.result(key) == "one"
    snapshot = stage.fleet.snapshot(key)
    assert snapshot is not None
    assert snapshot.serving is not None
    assert snapshot.serving.generation == 1


async def test_the_latest_desire_wins(open_stage: OpenStage) -> None:
    """Edits that come while a start is under way end in the last one, however many they were."""
    stage = await open_stage()
    stage.source.gate.clear()
    for generation in range(1, 6):
        key = stage.want("hello", "answer", str(generation), generation=generation,
                         number=generation)  # fmt: skip
        await asyncio.sleep(0)
    stage.source.gate.set()
    await stage.until_reason(key, Reason.SERVING)
    assert await stage.result(key) == "5"
    assert stage.metrics.registry.get_sample_value("sluice_workflows", {"state": "ready"}) == 1


async def test_an_old_word_changes_nothing(open_stage: OpenStage) -> None:
    """A desire of an earlier generation that comes late is not followed."""
    stage = await open_stage()
    key = stage.want("hello", "answer", "two", generation=2)
    await stage.until_reason(key, Reason.SERVING)
    stage.want("hello", "answer", "one", generation=1)
    assert await stage.result(key) == "two"


async def test_deleted_leaves_at_once(open_stage: OpenStage) -> None:
    """Deleting frees everything, whether it waits, starts or serves."""
    stage = await open_stage(starts_max=1)
    serving = stage.want("serving", "answer")
    await stage.until_reason(serving, Reason.SERVING)
    stage.source.gate.clear()
    starting = stage.want("starting", "answer", number=1)
    await stage.until_reason(starting, Reason.STARTING)
    waiting = stage.want("waiting", "answer", number=2)
    for key in (waiting, starting, serving):
        stage.fleet.forget(key)
    assert stage.fleet.keys() == {}
    assert stage.told.left == [waiting, starting, serving]
    stage.source.gate.set()
    after = stage.want("after", "answer", "next")  # the permit is free again
    await stage.until_reason(after, Reason.SERVING)


async def test_made_anew_is_another_object(open_stage: OpenStage) -> None:
    """An object of the same name with another uid starts afresh; a late deletion misses it."""
    stage = await open_stage()
    key = stage.want("hello", "answer", "one", generation=7)
    await stage.until_reason(key, Reason.SERVING)
    stage.fleet.want(replace(stage.desire("hello", "answer", "two"), uid="other"))
    stage.fleet.forget(key, "uid-hello")
    await stage.until_reason(key, Reason.SERVING)
    assert await stage.result(key) == "two"


async def test_suspended_runs_nothing(open_stage: OpenStage) -> None:
    """Suspending ends what serves at once; resuming brings it back."""
    stage = await open_stage()
    key = stage.want("hello", "answer", "one")
    await stage.until_reason(key, Reason.SERVING)
    stage.want("hello", "answer", "one", generation=2, suspend=True)
    assert stage.ready(key).reason is Reason.SUSPENDED
    assert await stage.fleet.run_manually(key) is None
    stage.want("hello", "answer", "one", generation=3)
    await stage.until_reason(key, Reason.SERVING)


async def test_missing_parts_heal_by_themselves(open_stage: OpenStage) -> None:
    """What waits for a ConfigMap becomes ready once it is there, with no change of the object."""
    stage = await open_stage()
    desire = stage.desire("hello", "answer", "one")
    stage.source.delete("team", "hello-None")
    stage.fleet.want(desire)
    await stage.until_reason(desire.key, Reason.CONFIG_MAP_NOT_FOUND)
    stage.source.put("team", "hello-None", {"part": stage.wasm})
    await stage.until_reason(desire.key, Reason.SERVING)


async def test_an_unreachable_source_is_tried_again(open_stage: OpenStage) -> None:
    """A failure of the cluster is told and retried until it passes."""
    stage = await open_stage(retry_s_max=0.01)
    stage.source.fault = unavailable()
    key = stage.want("hello", "answer", "one")
    await stage.until_reason(key, Reason.SERVING)
    assert "SourceUnavailable" in stage.told.reasons("hello")


async def test_nothing_is_held_while_it_subscribes(open_stage: OpenStage) -> None:
    """During the wait for subscriptions neither a part nor a file is held, and no compile slot."""
    waiting, go_on = asyncio.Event(), asyncio.Event()
    engines: list[weakref.ref[Lending]] = []

    async def subscribe(engine: Lending) -> None:
        engines.append(weakref.ref(engine))
        if len(engines) == 1:
            waiting.set()
            await go_on.wait()

    stage = await open_stage(subscribe=subscribe)
    first = stage.want("first", "answer")
    await waiting.wait()
    assert not list(stage.settings.work_dir.iterdir())
    second = stage.want("second", "answer", number=2)
    await stage.until_reason(second, Reason.SERVING)  # it compiled meanwhile
    stage.fleet.forget(first)
    await asyncio.sleep(0)
    await until(lambda: (gc.collect(), engines[0]())[1] is None)


async def test_serves_soon_then_fast(open_stage: OpenStage) -> None:
    """Many cold starts serve from the baseline tier, and each is optimised behind with no gap."""
    stage = await open_stage(tiers_waiting_min=1)
    keys = [stage.want(f"w{i}", "answer", str(i), number=i) for i in range(4)]

    def tiers(key: WorkflowKey) -> list[str]:
        found = [s.serving.tier for s in stage.told.snapshots if s.key == key and s.serving]
        return list(dict.fromkeys(found))

    await until(lambda: all(tiers(key)[-1:] == ["optimizing"] for key in keys))
    assert [tiers(key) for key in keys] == [["baseline", "optimizing"]] * 4  # the last one too
    assert [await stage.result(key) for key in keys] == ["0", "1", "2", "3"]
    sample = stage.metrics.registry.get_sample_value
    assert sample("sluice_serving", {"tier": "optimizing"}) == 4
    assert sample("sluice_serving", {"tier": "baseline"}) == 0
    for key in keys:
        ready = [s.ready.ok for s in stage.told.snapshots if s.key == key]
        assert ready == sorted(ready)  # once Ready, Ready throughout


@pytest.mark.parametrize("tier", ["optimizing", "baseline"])
async def test_a_spec_may_name_its_tier(open_stage: OpenStage, tier: str) -> None:
    """What the spec names is what serves, and it is all that is compiled."""
    stage = await open_stage(tiers_waiting_min=1)
    key = stage.want("hello", "answer", "42", tiers=tier)
    await stage.until_reason(key, Reason.SERVING)
    assert await stage.result(key) == "42"
    snapshot = stage.fleet.snapshot(key)
    assert snapshot is not None
    assert snapshot.serving is not None
    assert snapshot.serving.tier == tier
    assert len(list(stage.settings.cache_dir.glob("*.cwasm"))) == 1


async def test_a_spec_may_name_its_interface(open_stage: OpenStage) -> None:
    """A module that speaks another interface than its spec says is not run as that."""
    stage = await open_stage()
    right, wrong = (stage.want(abi, "answer", "42", abi=abi) for abi in ("wasi", "cre"))
    await stage.until_reason(right, Reason.SERVING)
    await stage.until_reason(wrong, Reason.ABI_UNSUPPORTED)
    assert "spec.abi says cre, but the module speaks wasi" in stage.ready(wrong).message


async def test_an_idle_module_comes_back(open_stage: OpenStage) -> None:
    """A module that was let go of is back at the next trigger, and nobody notices."""
    stage = await open_stage(idle_unmap_s=0.02)
    key = stage.want("hello", "answer", "42")
    await stage.until_reason(key, Reason.SERVING)
    alive = stage.fleet._lives[key].alive
    assert alive is not None
    await until(lambda: not alive.engine.mapped)
    assert [await stage.result(key) for _ in range(2)] == ["42", "42"]


async def test_a_module_that_cannot_come_back_is_said(open_stage: OpenStage) -> None:
    """With its cache entry and its ConfigMap gone, what was triggered ends with the reason."""
    stage = await open_stage(idle_unmap_s=0.02)
    key = stage.want("hello", "answer", "42")
    await stage.until_reason(key, Reason.SERVING)
    alive = stage.fleet._lives[key].alive
    assert alive is not None
    await until(lambda: not alive.engine.mapped)
    for entry in stage.settings.cache_dir.glob("*.cwasm"):
        entry.unlink()
    stage.source.delete("team", "hello-None")
    run = await stage.fleet.run_manually(key)
    assert run is not None
    outcome = (await run).outcome
    assert outcome.kind is OutcomeKind.REFUSED
    assert "hello-None is not there" in outcome.message


async def test_a_module_comes_back_when_the_cluster_does(open_stage: OpenStage) -> None:
    """What was accepted waits for an API server that is away; it is not refused for it."""
    stage = await open_stage(idle_unmap_s=0.02)
    key = stage.want("hello", "answer", "42")
    await stage.until_reason(key, Reason.SERVING)
    alive = stage.fleet._lives[key].alive
    assert alive is not None
    await until(lambda: not alive.engine.mapped)
    for entry in stage.settings.cache_dir.glob("*.cwasm"):
        entry.unlink()
    stage.source.fault = unavailable()
    assert await stage.result(key) == "42"
    assert stage.source.fault is None


async def test_too_little_memory_is_said(open_stage: OpenStage) -> None:
    """What cannot fit waits, with the figures; it is not failed, and what fits is not held up."""
    mib = 1 << 20
    used = find_source(1 << 50).read().used
    stage = await open_stage(memory_limit_bytes=int((used + 90 * mib) / 0.8))
    small = stage.want("small", "answer", "1")
    stage.wasm = guest("report")
    large = stage.want("large")
    stage.wasm = guest("acts")
    after = stage.want("after", "answer", "2", number=1)
    await stage.until_reason(small, Reason.SERVING)
    await stage.until_reason(after, Reason.SERVING)
    await until(lambda: stage.fleet.snapshot(large).parked)  # type: ignore[union-attr]
    snapshot = stage.fleet.snapshot(large)
    assert snapshot is not None
    assert snapshot.admitted.reason is Reason.WAITING_FOR_MEMORY
    assert f"of {stage.settings.memory_limit_bytes / mib:.0f} MiB" in snapshot.admitted.message
    await until(lambda: stage.told.holds)
    assert stage.told.holds[0].reason is Reason.ROLLOUT_HELD
