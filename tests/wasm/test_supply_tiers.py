import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime

from fakes import until, workflow
from sluice.errors import BaselineRefused, HeadroomExceeded, WorkflowInvalid
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import MIB, Settings
from sluice.supply import Cap
from sluice.wasm.compilation import CHILD_BYTES_MIN
from sluice.wasm.config import Tier
from sluice.workflow import PartRef
from wasm.gated import FOREIGN, HELLO, OTHER, GatedRuntime, Ground, cancelled
from wasm.shapes import giant

THROWS = bytes(wasmtime.wat2wasm(
    '(module (tag $t) (func (throw $t)) (memory (export "memory") 1) (func (export "_start")))'
))  # fmt: skip
# Enough for one compiler and too little for the other.
GIANT_BYTES = 75 * MIB


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[GatedRuntime]:
    runtime = GatedRuntime(Settings(data_dir=tmp_path))
    yield runtime
    runtime.close()


@pytest.fixture
async def ground(runtime: GatedRuntime) -> Ground:
    return Ground(runtime)


class TestTiers:
    async def test_each_tier_is_compiled_once_and_cached_beside_the_other(
        self, ground: Ground
    ) -> None:
        """Served soon and then fast: two compiles, and each tier finds its own from then on."""
        digest = workflow(HELLO).digest
        assert not ground.supply.cached(digest, Tier.BASELINE)
        asked = [ground.ask(workflow(HELLO), tier) for tier in list(Tier) * 3]
        supplied = await asyncio.gather(*asked)
        assert [s.module.tier for s in supplied] == list(Tier) * 3
        assert [s.compiled for s in supplied] == [True, True, *[False] * 4]
        assert len({id(s.module) for s in supplied}) == 2
        assert [ground.compiles("compiled", tier) for tier in Tier] == [1, 1]
        assert all(ground.supply.cached(digest, tier) for tier in Tier)

    async def test_what_a_compile_took_is_told_by_whoever_has_the_module(
        self, ground: Ground
    ) -> None:
        """A peak is learned once and known after a restart: it lies with the entry."""
        first = await ground.supply.module(workflow(HELLO))
        again = await ground.supply.module(workflow(HELLO))
        assert first.peak_bytes == again.peak_bytes > 20 * MIB
        assert (first.compiled, again.compiled) == (True, False)

    async def test_what_the_baseline_cannot_have_goes_to_the_other_tier(
        self, ground: Ground
    ) -> None:
        """The refusal is remembered without another child, and harms no compile of the other."""
        ground.put("parts", THROWS)
        digest = workflow(THROWS).digest
        assert not ground.supply.baseline_refused(digest)
        for _ in range(2):
            with pytest.raises(BaselineRefused):
                await ground.supply.module(workflow(THROWS), Tier.BASELINE)
        assert ground.supply.baseline_refused(digest)
        assert (await ground.supply.module(workflow(THROWS))).module.tier is Tier.OPTIMIZING
        assert len(ground.runtime.jobs) == 2
        assert ground.compiles("unsupported", Tier.BASELINE) == 1

    async def test_a_verdict_of_one_tier_on_the_module_spares_the_other(
        self, ground: Ground
    ) -> None:
        """An unknown import is unknown to both: the second tier costs no child."""
        ground.put("parts", FOREIGN)
        for tier in Tier:
            with pytest.raises(WorkflowInvalid) as caught:
                await ground.supply.module(workflow(FOREIGN), tier)
            assert caught.value.reason is Reason.UNKNOWN_IMPORT
        assert len(ground.runtime.jobs) == 1
        assert not ground.supply.baseline_refused(workflow(FOREIGN).digest)

    async def test_what_one_compiler_cannot_fit_the_other_is_still_asked(
        self, runtime: GatedRuntime
    ) -> None:
        """A module too large for one tier's compile at the full limit may serve from the other."""
        full = replace(runtime.settings, compile_memory_bytes_max=GIANT_BYTES)
        runtime.settings = full
        ground = Ground(runtime)
        wasm = giant(5_000)
        ground.put("parts", wasm)
        for _ in range(2):
            with pytest.raises(WorkflowInvalid) as caught:
                await ground.supply.module(workflow(wasm))
            assert caught.value.reason is Reason.COMPILE_OUT_OF_MEMORY
        assert len(runtime.jobs) == 1
        assert (await ground.supply.module(workflow(wasm), Tier.BASELINE)).compiled

    async def test_a_machine_without_a_baseline_compiler_is_told_before_a_read(
        self, ground: Ground, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where wasmtime has no Winch nothing asks it to have one, and the other tier serves."""
        monkeypatch.setattr("platform.machine", lambda: "riscv64")
        assert ground.supply.baseline_refused(workflow(HELLO).digest)
        with pytest.raises(BaselineRefused, match="for this machine"):
            await ground.supply.module(workflow(HELLO), Tier.BASELINE)
        assert ground.source.reads == []
        assert await ground.supply.module(workflow(HELLO))


class TestCap:
    async def test_a_child_takes_no_more_than_there_is(self, ground: Ground) -> None:
        """The cap is asked for when the child is about to start, and is what the child gets."""
        ground.runtime.gate.clear()
        ground.put("other", OTHER)
        asked = []

        async def cap() -> int:
            asked.append(ground.runtime.running)
            return 100 * MIB

        first = ground.ask(workflow(HELLO), Tier.OPTIMIZING, cap)
        await until(lambda: ground.runtime.running)
        second = ground.ask(workflow(OTHER, [PartRef(name="other")]), Tier.OPTIMIZING, cap)
        await until(lambda: ground.whole() == 2)
        assert asked == [0]  # the second one waits for the slot: what is free now says nothing
        ground.runtime.gate.set()
        await asyncio.gather(first, second)
        assert asked == [0, 0]
        assert ground.runtime.caps == [100 * MIB] * 2

    async def test_never_more_than_the_full_limit(self, ground: Ground) -> None:
        """A pod with gigabytes free gives no child more than compile_memory_bytes_max."""
        await ground.ask(workflow(HELLO), Tier.OPTIMIZING, _cap(1 << 40))
        assert ground.runtime.caps == [ground.runtime.settings.compile_memory_bytes_max]

    @pytest.mark.parametrize("left", [-5, 0, CHILD_BYTES_MIN - 1])
    async def test_no_child_is_started_into_no_memory(self, ground: Ground, left: int) -> None:
        """Where not even an empty module would compile, none is tried; it is tried again later."""
        with pytest.raises(HeadroomExceeded, match="MiB left") as caught:
            await ground.supply.module(workflow(HELLO), Tier.OPTIMIZING, _cap(left))
        assert caught.value.cap_bytes == left
        assert caught.value.reason is Reason.WAITING_FOR_MEMORY
        assert ground.runtime.jobs == []
        assert ground.left() == []
        assert await ground.ask(workflow(HELLO), Tier.OPTIMIZING, _cap(CHILD_BYTES_MIN))

    async def test_what_was_too_much_for_now_is_tried_again_with_more(self, ground: Ground) -> None:
        """Below the full limit running out of memory is no verdict: with more room it compiles."""
        wasm = giant(5_000)
        ground.put("parts", wasm)
        with pytest.raises(HeadroomExceeded, match="more than the 75 MiB") as caught:
            await ground.supply.module(workflow(wasm), Tier.OPTIMIZING, _cap(75 * MIB))
        assert caught.value.cap_bytes == 75 * MIB
        assert ground.compiles("headroom") == 1
        supplied = await ground.supply.module(workflow(wasm), Tier.OPTIMIZING, _cap(400 * MIB))
        assert supplied.peak_bytes > 75 * MIB

    async def test_who_is_cancelled_while_it_asks_frees_the_slot(self, ground: Ground) -> None:
        """A workflow deleted during a trim leaves nothing behind and holds nobody up."""
        asking = asyncio.Event()

        async def never() -> int:
            asking.set()
            await asyncio.Event().wait()
            return 0

        task = ground.ask(workflow(HELLO), Tier.OPTIMIZING, never)
        await asking.wait()
        await cancelled(task)
        assert ground.left() == []
        assert await ground.supply.module(workflow(HELLO))


def _cap(value: int) -> Cap:
    async def cap() -> int:
        return value

    return cap


def test_the_metrics_know_every_tier() -> None:
    """Each tier's compiles are counted from 0 on, so that an alert on them never lacks a series."""
    registry = Metrics().registry
    for tier in Tier:
        for result in ("compiled", "refused", "unsupported", "headroom", "failed"):
            labels = {"result": result, "tier": str(tier)}
            assert registry.get_sample_value("sluice_compiles_total", labels) == 0
        assert registry.get_sample_value("sluice_compile_seconds_count", {"tier": tier}) == 0
        assert registry.get_sample_value("sluice_compile_peak_bytes_count", {"tier": tier}) == 0
