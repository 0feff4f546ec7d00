"""What the host adds to a CRE guest's own CPU time, and how many runs a second that leaves.

Prints figures; asserts nothing, since a slow machine is no mistake. ``make bench`` runs it.
"""

import base64
import ctypes
import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import wasmtime

from ground.waiting import wait_until
from sluice.cre.proto.sdk_pb2 import ExecuteRequest, Trigger
from sluice.wasm.abi import env
from sluice.wasm.cre_engine import CreEngine
from sluice.wasm.runtime import Module
from wasm.cre_lab import ACTS, Cre, Held, Helper, any_of, firing
from wasm.lab import Lab

# What a trigger has the guest do: next to nothing, and as much as a small real workflow.
_SCRIPTS = {"an empty run": ["id"], "3 ms of work": ["work 1000000"], "0.2 s": ["work 100000000"]}
_CALLS = {"switch_modes": "mode 1", "random_seed": "seed 1", "now": "now", "log": "log x"}
_MARKER = "version_v2_sluice"  # as tests/guests/cre/sdk has it
_SECONDS, _HELD = 5.0, 8


def main() -> None:
    """Measure on a runtime of its own and print."""
    threading.stack_size(8 << 20)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as place:
        lab = Lab.at(Path(place))
        cre = Cre(lab)
        for name, script in _SCRIPTS.items():
            _added(cre, name, script)
        _host_calls(cre.engine())
        _subscribe(cre)
        for threads in (1, 2):
            _throughput(cre.engine(), threads)
        _memory(cre)
        lab.runtime.close()


def _say(what: str, figure: str) -> None:
    print(f"{what:<44}{figure}")


def _cpu_us(run: Callable[[], object], seconds: float = 1.0) -> float:
    """Return the median CPU time of a run on this thread."""
    run()
    took: list[float] = []
    until = time.monotonic() + seconds
    while len(took) < 5 or time.monotonic() < until:
        began = time.thread_time()
        run()
        took.append(time.thread_time() - began)
    return statistics.median(took) * 1e6


def _added(cre: Cre, name: str, script: list[str]) -> None:
    engine, execution = cre.engine(), firing(*script)
    ours = _cpu_us(lambda: engine.run(execution))
    alone = _cpu_us(_Alone(cre.lab.module(ACTS), script).run)
    _say(name, f"{ours:,.0f} us; alone {alone:,.0f}: {100 * (ours - alone) / alone:+.1f} %")


class _Alone:
    """The same guest under wasmtime alone: what it imports from ``env`` is wasm and does nothing.

    A new store and instance each time, as ours, and no limit, no bound, and nothing of Python's.
    """

    def __init__(self, module: Module, script: list[str]) -> None:
        self._engine = module.engine
        self._code = wasmtime.Module.deserialize_file(module.engine, str(module.entry.path))
        functions = env.FUNCTIONS | {_MARKER: env.MARKER}
        stubs = "".join(_stub(name, signature) for name, signature in functions.items())
        self._stubs = wasmtime.Module(module.engine, f"(module {stubs})")
        trigger = Trigger(payload=any_of("\n".join(script)))
        request = ExecuteRequest(trigger=trigger, max_response_size=5 << 20)
        self._argv = ["wasi", base64.b64encode(request.SerializeToString()).decode()]

    def run(self) -> None:
        linker = wasmtime.Linker(self._engine)
        linker.define_wasi()
        store = wasmtime.Store(self._engine)
        store.set_epoch_deadline(1 << 40)
        config = wasmtime.WasiConfig()
        config.argv = self._argv
        store.set_wasi(config)
        linker.define_instance(store, env.MODULE, wasmtime.Instance(store, self._stubs, []))
        start = linker.instantiate(store, self._code).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        try:
            start(store)
        except wasmtime.ExitTrap as e:
            assert e.code == 0  # noqa: PT017 - how every run of it ends


def _stub(name: str, signature: env.Signature) -> str:
    words = {"i": "i32", "q": "i64"}
    params = " ".join(words[letter] for letter in signature.params)
    result = words.get(signature.result, "")
    returned = f"(result {result}) {result}.const 0" if result else ""
    return f'(func (export "{name}") (param {params}) {returned})'


def _host_calls(engine: CreEngine, calls: int = 1000) -> None:
    empty = _cpu_us(lambda: engine.run(firing("mode 1")))
    for name, line in _CALLS.items():
        execution = firing("mode 1", *[line] * calls)
        took = _cpu_us(lambda: engine.run(execution))  # noqa: B023 - it is run here and now
        _say(f"one {name}, the guest's part in it", f"{(took - empty) / calls:.1f} us")
    ids = range(calls // 5)
    script = [f"call c@1 M {i}" for i in ids] + [f"await 200 {i}" for i in ids]
    took = _cpu_us(lambda: engine.run(firing(*script)))
    _say("one call_capability and its await", f"{(took - empty) / len(ids):.1f} us")


def _subscribe(cre: Cre) -> None:
    engine = cre.engine(subscribed=False, config="subscribe a@1:T:")
    _say("a subscribe run", f"{_cpu_us(engine.subscribe):,.0f} us")


def _throughput(engine: CreEngine, threads: int) -> None:
    execution, until = firing("work 1000000"), time.monotonic() + _SECONDS

    def runs(_: int) -> int:
        done = 0
        while time.monotonic() < until:
            engine.run(execution)
            done += 1
        return done

    began, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(runs, range(threads)))
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    _say(f"3 ms of work on {threads}", f"{done / took:,.0f} runs/s, {cpu / took:.2f} CPUs busy")


def _memory(cre: Cre) -> None:
    loaded = cre.lab.module(ACTS).kept_bytes
    engines, held = [cre.engine() for _ in range(_HELD)], Held()
    before = _private_bytes()
    with ThreadPoolExecutor(_HELD) as pool:
        running = [
            pool.submit(engine.run, firing(f"call c@1 M {n}", f"await 4096 {n}",
                                           helper=Helper(call=held)))
            for n, engine in enumerate(engines)
        ]  # fmt: skip
        wait_until(lambda: held.count == _HELD, 30, "all wait")
        each = (_private_bytes() - before) // _HELD
        for n in range(_HELD):
            held.answer(n)
        assert all(future.result().ok for future in running)
    _say("a loaded module, a running guest", f"{loaded >> 10:,} KiB and {each >> 10:,} KiB")


def _private_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
