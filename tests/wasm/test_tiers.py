import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import wasmtime

from sluice.errors import BaselineRefused, EngineRefused, WorkflowInvalid
from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from sluice.wasm import config
from sluice.wasm.abi.wasi import Streams
from sluice.wasm.config import Tier
from sluice.wasm.engine import Engine, Execution
from wasm.lab import PROGRAM, Lab, sha256, wat

_TINY = wat(PROGRAM)
# What Cranelift has and Winch has not.
PROPOSALS = {
    "exceptions": "(tag $t) (func (throw $t))",
    "garbage collection": "(type $s (struct (field i64))) (func (result (ref $s)) "
    "(struct.new $s (i64.const 1)))",
    "i31": "(func (drop (ref.i31 (i32.const 1))))",
    "tail calls": "(func $f (return_call $f))",
    "typed function references": "(type $f (func)) (func (param (ref $f)) "
    "(call_ref $f (local.get 0)))",
    "external references": "(func (param externref))",
    "relaxed simd": "(func (param v128 v128 v128) (result v128) "
    "(f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2)))",
    "wide arithmetic": "(func (result i64 i64) (i64.mul_wide_u (i64.const 1) (i64.const 2)))",
}


@pytest.fixture
def both(own_lab: Lab) -> dict[Tier, Lab]:
    return {tier: own_lab.on(tier) for tier in Tier}


class _Reading:
    """Holds a guest that reads its event until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self._read = Streams.read

    def read(self, streams: Streams, size: int) -> bytes:
        self.begun.set()
        assert self.go.wait(20)
        return self._read(streams, size)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> _Reading:
    held = _Reading()

    def read(streams: Streams, size: int) -> bytes:
        return held.read(streams, size)

    monkeypatch.setattr(Streams, "read", read)
    return held


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_what_the_baseline_cannot_have_the_other_tier_can(
    labs: dict[Tier, Lab], proposal: str
) -> None:
    """A proposal that only one compiler knows is no verdict on the module."""
    wasm = wat(f"{PROPOSALS[proposal]} {PROGRAM}")
    with pytest.raises(BaselineRefused, match="baseline tier cannot have the module sha256:"):
        labs[Tier.BASELINE].compiling(wasm).run()
    assert labs[Tier.OPTIMIZING].run(wasm).kind is OutcomeKind.COMPLETED


def test_what_no_tier_can_have_is_told_by_the_optimizing_one(labs: dict[Tier, Lab]) -> None:
    """The baseline compiler never judges a module; a module that is broken is told as broken."""
    broken = b"\0asm\1\0\0\0\x99"
    with pytest.raises(BaselineRefused):
        labs[Tier.BASELINE].compiling(broken).run()
    with pytest.raises(WorkflowInvalid) as refused:
        labs[Tier.OPTIMIZING].compiling(broken).run()
    assert refused.value.reason is Reason.MODULE_INVALID


def test_what_is_wrong_whatever_the_tier_is_told_at_once(any_lab: Lab) -> None:
    """An import that the host lacks needs no second compiler to be known."""
    with pytest.raises(WorkflowInvalid) as refused:
        any_lab.compiling(wat(f'(import "env" "f" (func)) {PROGRAM}')).run()
    assert refused.value.reason is Reason.UNKNOWN_IMPORT


def test_each_tier_compiles_code_of_its_own(both: dict[Tier, Lab]) -> None:
    """One digest has two entries and two modules, and each of them runs."""
    modules = {tier: lab.module("echo") for tier, lab in both.items()}
    assert {tier: module.tier for tier, module in modules.items()} == {t: t for t in Tier}
    assert len({module.entry.record["compiled_sha256"] for module in modules.values()}) == 2
    for lab in both.values():
        assert lab.run("echo", event=b"hello").result == b"hello"


def test_the_code_of_one_tier_is_refused_by_the_other(both: dict[Tier, Lab]) -> None:
    """Should a file of the other tier be taken for one's own, wasmtime says no before it runs."""
    paths = {tier: both[tier].module("echo").entry.path for tier in Tier}
    for mine, other in ((Tier.BASELINE, Tier.OPTIMIZING), (Tier.OPTIMIZING, Tier.BASELINE)):
        engine = config.engine(mine)
        assert wasmtime.Module.deserialize_file(engine, str(paths[mine]))
        with pytest.raises(wasmtime.WasmtimeError, match="was compiled"):
            wasmtime.Module.deserialize_file(engine, str(paths[other]))


def test_an_operator_of_one_tier_has_one_wasmtime_engine(both: dict[Tier, Lab]) -> None:
    """The second tier costs no memory until the first module of it is mapped."""
    runtime = both[Tier.BASELINE].runtime
    assert not runtime.cached(sha256(_TINY), Tier.OPTIMIZING)
    both[Tier.OPTIMIZING].module(_TINY)
    assert list(runtime._worlds) == [Tier.OPTIMIZING]
    both[Tier.BASELINE].module(_TINY)
    assert set(runtime._worlds) == set(Tier)


def test_the_time_of_both_tiers_passes(both: dict[Tier, Lab]) -> None:
    """One ticker serves both: a busy loop of either ends at its limit while the other runs."""
    engines = [lab.engine("acts", "spin", limits={"timeout": "100ms"}) for lab in both.values()]
    with _threads(2) as pool:
        outcomes = list(pool.map(lambda engine: engine.run(_event("")), engines))
    assert [outcome.kind for outcome in outcomes] == [OutcomeKind.TIMED_OUT] * 2


def test_a_restart_knows_which_tiers_are_cached(both: dict[Tier, Lab], tmp_path: Path) -> None:
    """Who asks for a place in the line knows at once whether there is anything to compile."""
    both[Tier.BASELINE].module(_TINY)
    both[Tier.BASELINE].runtime.close()
    again = Lab.at(tmp_path)
    assert [again.runtime.cached(sha256(_TINY), tier) for tier in Tier] == [True, False]
    assert again.runtime._worlds == {}
    again.runtime.close()


class TestParking:
    """A module can be taken from an engine that rests, and given back."""

    def test_an_idle_engine_lets_its_module_go(self, both: dict[Tier, Lab]) -> None:
        """What nobody triggers costs no address space; it comes back and runs as before."""
        lab = both[Tier.OPTIMIZING]
        engine = lab.engine("echo")
        digest = engine.entry.digest
        lab._modules.clear()
        assert engine.unmap()
        assert engine.unmap()
        gc.collect()
        assert not engine.mapped
        assert not _mapped(engine)
        with pytest.raises(EngineRefused, match="is not mapped"):
            engine.run(_event("x"))
        module = lab.runtime.module(digest, Tier.OPTIMIZING)
        assert module is not None
        engine.map(module)
        assert engine.mapped
        assert engine.run(_event("back")).result == b"back"

    def test_a_busy_engine_keeps_its_module(self, any_lab: Lab, reading: _Reading) -> None:
        """While one execution runs the module stays, and as soon as it is over it may go."""
        engine = any_lab.engine("echo")
        with _threads(1) as pool:
            running = pool.submit(engine.run, _event("x"))
            assert reading.begun.wait(20)
            assert not engine.unmap()
            assert engine.mapped
            reading.go.set()
            assert running.result().result == b"x"
        assert engine.unmap()

    def test_a_failed_execution_does_not_keep_it(self, any_lab: Lab) -> None:
        """A trap ends an execution like any other end."""
        engine = any_lab.engine("acts", "abort")
        assert engine.run(_event("")).kind is OutcomeKind.TRAPPED
        assert engine.unmap()


class TestSwap:
    """A better module takes the place of the one that serves."""

    def test_what_runs_ends_on_the_old_code_and_what_comes_takes_the_new(
        self, both: dict[Tier, Lab], reading: _Reading
    ) -> None:
        """The old code stays mapped under its last execution, and goes with it."""
        soon = both[Tier.BASELINE]
        engine = soon.engine("echo")
        old = engine.entry
        soon._modules.clear()
        with _threads(1) as pool:
            running = pool.submit(engine.run, _event("old"))
            assert reading.begun.wait(20)
            engine.map(both[Tier.OPTIMIZING].module("echo"))
            assert engine.entry.tier is engine.module.tier is Tier.OPTIMIZING
            assert _has(old.path)
            reading.go.set()
            assert running.result().result == b"old"
        gc.collect()
        assert not _has(old.path)
        assert _mapped(engine)
        assert engine.run(_event("new")).result == b"new"

    def test_no_execution_is_lost_while_modules_are_swapped(self, both: dict[Tier, Lab]) -> None:
        """Threads that run without a pause through a hundred swaps see every result of theirs."""
        modules = [lab.module("echo") for lab in both.values()]
        engine = both[Tier.BASELINE].engine("echo")
        over = threading.Event()

        def serve(thread: int) -> int:
            count = 0
            while not over.is_set() or count < 20:
                event = f"{thread} {count}"
                outcome = engine.run(_event(event))
                assert (outcome.kind, outcome.result) == (OutcomeKind.COMPLETED, event.encode())
                count += 1
            return count

        with _threads(4) as pool:
            serving = [pool.submit(serve, n) for n in range(4)]
            for n in range(100):
                engine.map(modules[n % 2])
                engine.run(_event("between"))
            over.set()
            assert min(future.result() for future in serving) >= 20
        assert engine.unmap()

    def test_another_digest_is_a_mistake(self, lab: Lab) -> None:
        """An engine is one revision for all its life."""
        with pytest.raises(AssertionError, match="another engine"):
            lab.engine("echo").map(lab.module(_TINY))


def _event(text: str) -> Execution:
    return Execution(event=text.encode())


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads with stacks as deep as those of the operator's workers."""
    before = threading.stack_size(8 << 20)
    with ThreadPoolExecutor(count) as pool:
        yield pool
    threading.stack_size(before)


def _mapped(engine: Engine) -> bool:
    return _has(engine.entry.path)


def _has(path: Path) -> bool:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return any(line.endswith((str(path), f"{path} (deleted)")) for line in maps)
