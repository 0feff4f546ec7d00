import asyncio
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import wasmtime

from fakes import (
    GeneratedSource,
    LargeModule,
    MemorySource,
    Text,
    slow_module,
    unavailable,
    until,
    workflow,
)
from sluice.errors import (
    BaselineRefused,
    ContentInvalid,
    HeadroomExceeded,
    SourceUnavailable,
    WorkflowInvalid,
)
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.rollout.memory import trim
from sluice.settings import MIB, Settings
from sluice.supply import Cap, Supplied, Supply
from sluice.wasm.compilation import CHILD_BYTES_MIN, Source
from sluice.wasm.config import Tier
from sluice.wasm.runtime import Compiling, Module, Runtime
from sluice.workflow import PartRef, Workflow
from wasm.shapes import giant

COMMAND = '(module (memory (export "memory") 1) (func (export "_start"){}))'
HELLO = bytes(wasmtime.wat2wasm(COMMAND.format("")))
OTHER = bytes(wasmtime.wat2wasm(COMMAND.format(" nop")))
FOREIGN = bytes(wasmtime.wat2wasm(
    '(module (import "env" "x" (func)) (memory (export "memory") 1) (func (export "_start")))'
))  # fmt: skip
THROWS = bytes(wasmtime.wat2wasm(
    '(module (tag $t) (func (throw $t)) (memory (export "memory") 1) (func (export "_start")))'
))  # fmt: skip
# Enough for one compiler and too little for the other.
GIANT_BYTES = 75 * MIB
TWO = (PartRef(name="one"), PartRef(name="two"))


class GatedRuntime(Runtime):
    """A real runtime whose compiles can be held at their start, and are counted."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()
        self.gate.set()
        self.jobs: list[_GatedCompiling] = []
        self.caps: list[int | None] = []
        self.running = self.running_max = 0

    def compilation(self, source: Source, tier: Tier, memory_bytes: int | None = None) -> Compiling:
        self.caps.append(memory_bytes)
        self.jobs.append(_GatedCompiling(self, source, tier, memory_bytes))
        return self.jobs[-1]


class _GatedCompiling(Compiling):
    def __init__(
        self, runtime: GatedRuntime, source: Source, tier: Tier, memory_bytes: int | None
    ) -> None:
        super().__init__(runtime, source, tier, memory_bytes)
        self._gated = runtime

    def run(self) -> Module:
        self._gated.running += 1
        self._gated.running_max = max(self._gated.running, self._gated.running_max)
        try:
            assert self._gated.gate.wait(20)
            return super().run()
        finally:
            self._gated.running -= 1


class Ground:
    """A supply of real modules from ConfigMaps in memory."""

    def __init__(self, runtime: GatedRuntime) -> None:
        self.runtime, self.source, self.metrics = runtime, MemorySource(), Metrics()
        self.supply = Supply(self.source, runtime, runtime.settings, self.metrics)
        self.put("parts", HELLO)

    def put(self, name: str, payload: bytes | str, key: str = "part") -> str:
        return self.source.put("team", name, {key: payload})

    def ask(self, wanted: Workflow, *how: Any) -> asyncio.Task[Supplied]:
        return asyncio.create_task(self.supply.module(wanted, *how))

    def compiles(self, result: str, tier: Tier = Tier.OPTIMIZING) -> float:
        return self.count("compiles", result=result, tier=tier)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"sluice_{name}_total", labels) or 0

    def left(self) -> list[Path]:
        return list(self.runtime.settings.work_dir.iterdir())

    def whole(self) -> int:
        """Count the binaries that are assembled: their bytes show when the file is closed."""
        return sum(path.stat().st_size > 0 for path in self.left())


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[GatedRuntime]:
    runtime = GatedRuntime(Settings(data_dir=tmp_path, config_bytes_max=100))
    yield runtime
    runtime.close()


@pytest.fixture
async def ground(runtime: GatedRuntime) -> Ground:
    return Ground(runtime)


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestModule:
    async def test_many_workflows_of_one_digest_compile_once(self, ground: Ground) -> None:
        """Whoever asks second gets what the first one made; its parts are not even read."""
        asked = [ground.ask(workflow(HELLO, name=f"w{i}")) for i in range(8)]
        supplied = await asyncio.gather(*asked)
        assert len({id(s.module) for s in supplied}) == 1
        assert ground.source.reads == ["parts/part"]
        assert [s.seen for s in supplied] == [{"parts": "1"}, *[{}] * 7]
        assert ground.compiles("compiled") == 1
        assert ground.count("cache_lookups", result="miss") == 1
        assert ground.count("cache_lookups", result="hit") == 7
        assert ground.left() == []

    async def test_parts_come_in_the_order_of_the_spec(self, ground: Ground) -> None:
        """Several ConfigMaps are one module, and each version that was read is told."""
        ground.put("one", HELLO[:20])
        ground.put("two", HELLO[20:])
        supplied = await ground.supply.module(workflow(HELLO, TWO))
        assert supplied.seen == {"one": "2", "two": "3"}

    async def test_one_compile_and_one_part_at_a_time(self, ground: Ground) -> None:
        """Different modules asked for at once stand in line for the slot and for the reader."""
        digests = []
        for i in range(4):
            wasm = bytes(wasmtime.wat2wasm(COMMAND.format(" nop" * i)))
            ground.put(f"cm{i}", wasm)
            digests.append(ground.ask(workflow(wasm, [PartRef(name=f"cm{i}")])))
        await asyncio.gather(*digests)
        assert ground.runtime.running_max == 1
        assert ground.source.reading_max == 1
        assert ground.compiles("compiled") == 4

    async def test_a_module_that_is_refused_is_refused_to_all_without_another_compile(
        self, ground: Ground
    ) -> None:
        """The verdict on a digest holds: the second asker costs no child, no read, no memory."""
        ground.put("parts", FOREIGN)
        errors = []
        for i in range(3):
            with pytest.raises(WorkflowInvalid) as caught:
                await ground.supply.module(workflow(FOREIGN, name=f"w{i}"))
            errors.append(caught.value)
        assert {e.reason for e in errors} == {Reason.UNKNOWN_IMPORT}
        assert len({id(e) for e in errors}) == 3  # one raised again holds the frames of all
        assert len(ground.source.reads) == 1
        assert ground.compiles("refused") == 1

    async def test_wrong_content_is_looked_at_again(self, ground: Ground) -> None:
        """A wrong ConfigMap says nothing about the digest: mended, the same workflow serves."""
        version = ground.put("parts", OTHER)
        with pytest.raises(ContentInvalid) as caught:
            await ground.supply.module(workflow(HELLO))
        assert caught.value.seen == {"parts": version}
        ground.put("parts", HELLO)
        assert (await ground.supply.module(workflow(HELLO))).module.entry.record["abi"] == "wasi"

    async def test_a_missing_config_map_tells_what_was_read_before_it(self, ground: Ground) -> None:
        """A change of either of them is a reason to try again."""
        version = ground.put("one", HELLO[:20])
        with pytest.raises(ContentInvalid) as caught:
            await ground.supply.module(workflow(HELLO, TWO))
        assert caught.value.reason is Reason.CONFIG_MAP_NOT_FOUND
        assert caught.value.seen == {"one": version, "two": None}
        assert ground.left() == []

    async def test_parts_edited_while_they_were_read_are_seen_as_they_were_first(
        self, ground: Ground
    ) -> None:
        """Half old and half new is noticed as a change at the next look, not at the next edit."""
        keys = (PartRef(name="cm", key="a"), PartRef(name="cm", key="b"))
        first = ground.source.put("team", "cm", {"a": b"was", "b": b"broken"})

        def edit(ref: PartRef) -> None:
            if ref.key == "a":
                ground.source.put("team", "cm", {"a": HELLO[:20], "b": HELLO[20:]})

        ground.source.after_read = edit
        with pytest.raises(ContentInvalid) as caught:
            await ground.supply.module(workflow(HELLO, keys))
        assert caught.value.seen == {"cm": first}
        assert await ground.supply.version("team", "cm") != first

    async def test_a_key_removed_while_parts_were_read_is_seen_as_it_was_first(
        self, ground: Ground
    ) -> None:
        """The version that is told is the oldest that was read, whatever failed after it."""
        keys = (PartRef(name="cm", key="a"), PartRef(name="cm", key="b"))
        first = ground.source.put("team", "cm", {"a": b"", "b": HELLO})
        ground.source.after_read = lambda _: ground.put("cm", b"", "a")
        with pytest.raises(ContentInvalid) as caught:
            await ground.supply.module(workflow(HELLO, keys))
        assert caught.value.reason is Reason.KEY_NOT_FOUND
        assert caught.value.seen == {"cm": first}

    async def test_an_unreachable_source_is_nobodys_verdict(self, ground: Ground) -> None:
        """A cluster that does not answer leaves nothing behind, and the next try succeeds."""
        ground.source.fault = unavailable()
        with pytest.raises(SourceUnavailable):
            await ground.supply.module(workflow(HELLO))
        assert ground.left() == []
        assert await ground.supply.module(workflow(HELLO))

    async def test_a_kept_error_keeps_no_part(self, ground: Ground) -> None:
        """A thousand broken workflows wait with their errors, and not with a megabyte each."""
        payload = Text("!" * 1000)
        held = weakref.ref(payload)
        ground.put("parts", payload)
        del payload
        with pytest.raises(ContentInvalid, match="not base64 text") as caught:
            await ground.supply.module(workflow(HELLO))
        ground.source.delete("team", "parts")
        await until(lambda: held() is None)  # the thread that read it may hold it a moment longer
        assert caught.value.seen == {"parts": "2"}


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


class TestCancellation:
    async def test_while_it_reads_the_file_is_gone_and_the_next_one_reads(
        self, ground: Ground
    ) -> None:
        """A workflow deleted during a slow read frees the digest, the reader and the disk."""
        ground.source.gate.clear()
        first, second = ground.ask(workflow(HELLO)), ground.ask(workflow(HELLO, name="b"))
        await until(lambda: ground.source.reading)
        await cancelled(first)
        ground.source.gate.set()
        assert (await second).seen == {"parts": "1"}
        assert ground.left() == []

    async def test_while_it_waits_for_its_digest_the_line_goes_on(self, ground: Ground) -> None:
        """One in the middle of those who wait may leave; the one behind it is served."""
        ground.source.gate.clear()
        asked = [ground.ask(workflow(HELLO, name=f"w{i}")) for i in range(3)]
        await until(lambda: ground.source.reading)
        await cancelled(asked[1])
        ground.source.gate.set()
        await asyncio.gather(asked[0], asked[2])
        assert ground.compiles("compiled") == 1

    async def test_while_it_waits_for_the_compile_slot_its_file_is_gone(
        self, ground: Ground
    ) -> None:
        """Who gives up in the line of the compiler leaves no binary, and its place is free."""
        ground.runtime.gate.clear()
        ground.put("other", OTHER)
        first = ground.ask(workflow(HELLO))
        await until(lambda: ground.runtime.running)
        second = ground.ask(workflow(OTHER, [PartRef(name="other")]))
        await until(lambda: ground.whole() == 2)
        await cancelled(second)
        ground.runtime.gate.set()
        await first
        assert ground.left() == []
        assert await ground.supply.module(workflow(OTHER, [PartRef(name="other")]))

    async def test_while_it_compiles_the_child_is_killed(self, ground: Ground) -> None:
        """A workflow deleted during its compile takes its child with it, and frees the slot."""
        slow = slow_module()
        ground.put("slow", slow)
        ground.put("other", OTHER)
        task = ground.ask(workflow(slow, [PartRef(name="slow")]))
        await until(lambda: ground.runtime.jobs and ground.runtime.jobs[0]._compilation._process)
        process = ground.runtime.jobs[0]._compilation._process
        assert process is not None
        task.cancel()
        await asyncio.sleep(0)
        await cancelled(task)  # twice, as a deletion during a shutdown: it still sees the end
        assert process.returncode == -9
        assert ground.left() == []
        assert await ground.supply.module(workflow(OTHER, [PartRef(name="other")]))

    async def test_before_its_child_is_started_none_is(self, ground: Ground) -> None:
        """A cancellation that comes before the child keeps it from being born."""
        ground.runtime.gate.clear()
        task = ground.ask(workflow(HELLO))
        await until(lambda: ground.runtime.running)
        task.cancel()
        await asyncio.sleep(0)
        ground.runtime.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ground.runtime.jobs[0]._compilation._process is None
        assert ground.left() == []

    async def test_a_long_compile_leaves_the_loops_threads_to_others(self, ground: Ground) -> None:
        """What is cached is served while a module compiles, on a machine of one thread too."""
        await ground.supply.module(workflow(HELLO))
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        ground.runtime.gate.clear()
        ground.put("other", OTHER)
        long = ground.ask(workflow(OTHER, [PartRef(name="other")]))
        await until(lambda: ground.runtime.running)
        async with asyncio.timeout(20):
            assert (await ground.supply.module(workflow(HELLO))).module
        ground.runtime.gate.set()
        await long


class TestVerify:
    async def test_what_holds_the_digest_is_verified_without_a_compile(
        self, ground: Ground
    ) -> None:
        """A look at the ConfigMaps of what serves costs a read, and says what was read."""
        assert await ground.supply.verify(workflow(HELLO)) == {"parts": "1"}
        assert ground.runtime.jobs == []
        assert ground.left() == []
        assert ground.runtime.module(workflow(HELLO).digest, Tier.OPTIMIZING) is None

    async def test_what_was_changed_is_told_with_its_version(self, ground: Ground) -> None:
        """A ConfigMap that somebody broke is found, and its version is the one that was wrong."""
        version = ground.put("parts", OTHER)
        with pytest.raises(ContentInvalid) as caught:
            await ground.supply.verify(workflow(HELLO))
        assert caught.value.seen == {"parts": version}

    async def test_a_verification_waits_for_the_compile_slot(self, ground: Ground) -> None:
        """A thousand workflows verified after a restart never run a thousand children."""
        ground.runtime.gate.clear()
        ground.put("other", OTHER)
        compiling = ground.ask(workflow(OTHER, [PartRef(name="other")]))
        await until(lambda: ground.runtime.running)
        looks = [
            asyncio.create_task(ground.supply.verify(workflow(HELLO, name=f"w{i}")))
            for i in range(5)
        ]
        await until(lambda: len(ground.left()) >= 2)
        assert len(ground.left()) <= 3  # the compile's two files and one binary to verify
        assert not any(look.done() for look in looks)
        ground.runtime.gate.set()
        await asyncio.gather(compiling, *looks)


class TestConfig:
    FROM: ClassVar[dict[str, Any]] = {"configFrom": {"configMapKeyRef": {"name": "cm"}}}

    async def test_an_inline_config_needs_no_read(self, ground: Ground) -> None:
        """spec.config is taken as it is, and none is the empty text."""
        assert await ground.supply.config(workflow(HELLO, config="a: ü")) == "a: ü"
        assert await ground.supply.config(workflow(HELLO)) == ""
        assert ground.source.reads == []

    @pytest.mark.parametrize("payload", ["ü" * 50, ("ü" * 50).encode(), ""])
    async def test_a_config_of_the_size_allowed_is_read(
        self, ground: Ground, payload: str | bytes
    ) -> None:
        """100 bytes are allowed here, under data or binaryData, and 100 bytes are taken."""
        ground.put("cm", payload, "config")
        expected = payload if isinstance(payload, str) else payload.decode()
        assert await ground.supply.config(workflow(HELLO, **self.FROM)) == expected

    @pytest.mark.parametrize(("payload", "reason", "words"), [
        ("x" * 101, Reason.CONFIG_TOO_LARGE, "101 bytes"),
        ("ü" * 51, Reason.CONFIG_TOO_LARGE, "102 bytes"),
        (b"\xff", Reason.PART_INVALID, "no UTF-8"),
        ("\ud800", Reason.PART_INVALID, "no UTF-8"),
        ("a\0b", Reason.INVALID_SPEC, "NUL"),
    ])  # fmt: skip
    async def test_a_config_no_guest_could_take_is_refused_until_it_changes(
        self, ground: Ground, payload: str | bytes, reason: Reason, words: str
    ) -> None:
        """Too long, no text, a NUL: said with the place, and looked at again after an edit."""
        version = ground.put("cm", payload, "config")
        with pytest.raises(ContentInvalid, match=words) as caught:
            await ground.supply.config(workflow(HELLO, **self.FROM))
        assert caught.value.reason is reason
        assert "key config of ConfigMap cm" in caught.value.message
        assert caught.value.seen == {"cm": version}

    async def test_a_missing_config_is_told(self, ground: Ground) -> None:
        """A config that is not there yet is waited for."""
        with pytest.raises(ContentInvalid) as caught:
            await ground.supply.config(workflow(HELLO, **self.FROM))
        assert caught.value.seen == {"cm": None}


def test_a_module_of_20_mib_passes_through_a_few_mib_of_memory(tmp_path: Path) -> None:
    """The promise itself, in a fresh process: no one ever holds a whole binary.

    Generated in 20 parts of 1 MiB, as bytes and as base64 text, then read, written, inflated,
    verified, compiled and mapped; the process's peak grows by less than half of the module.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    size, grown = (int(word) for word in done.stdout.split())
    print(f"a module of {size:,} bytes: the peak grew by {grown:,}")
    assert size > 19 << 20
    assert grown < 10 << 20


async def _measure(data_dir: Path) -> None:
    runtime = Runtime(Settings(data_dir=data_dir))
    small = MemorySource()
    small.put("team", "parts", {"part": HELLO})
    await Supply(small, runtime, runtime.settings, Metrics()).module(workflow(HELLO))
    large = LargeModule(HELLO)
    supply = Supply(GeneratedSource(large.part), runtime, runtime.settings, Metrics())
    parts = [PartRef(name=f"cm{i}", key=str(i)) for i in range(large.COUNT)]
    trim()
    _count_peak_from_here()
    before = _status("VmRSS")
    supplied = await supply.module(workflow((large.digest, large.size), parts))
    print(large.size, _status("VmHWM") - before)
    assert len(supplied.seen) == large.COUNT
    runtime.close()


def _count_peak_from_here() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


if __name__ == "__main__":
    asyncio.run(_measure(Path(sys.argv[1])))
