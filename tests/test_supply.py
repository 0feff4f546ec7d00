import asyncio
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from sluice.errors import ContentInvalid, SourceUnavailable, WorkflowInvalid
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.rollout.memory import trim
from sluice.settings import Settings
from sluice.supply import Supply
from sluice.wasm.config import Tier
from sluice.wasm.runtime import Runtime
from sluice.workflow import PartRef
from wasm.gated import COMMAND, FOREIGN, HELLO, OTHER, GatedRuntime, Ground, cancelled

TWO = (PartRef(name="one"), PartRef(name="two"))


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[GatedRuntime]:
    runtime = GatedRuntime(Settings(data_dir=tmp_path, config_bytes_max=100))
    yield runtime
    runtime.close()


@pytest.fixture
async def ground(runtime: GatedRuntime) -> Ground:
    return Ground(runtime)


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
