"""How a start is usually written, for comparison: threads, and a compile inside the process.

The compiler's settings are the operator's own, so that what differs is the way, not the work.
"""

import gc
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import brotli
import wasmtime
import zstandard

from sluice.bench.inputs import Input
from sluice.bench.stage import Stage
from sluice.wasm import config

_THREADS = 12  # as many as starts_max
_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "brotli": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    "gzip": lambda data: zlib.decompress(data, 16 + zlib.MAX_WBITS),
    "none": bytes,
}


class _Operator:
    """The modules that are alive, and what is told of them."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.engine = config.engine()
        self.wait_s = stage.order.subscribe_wait_s
        self._modules: list[wasmtime.Module] = []
        self._failures = 0
        self._lock = threading.Lock()

    def attempt(self, start: Callable[[Input], wasmtime.Module], one: Input) -> None:
        try:
            module = start(one)
        except Exception as e:  # noqa: BLE001 - one that fails is counted, the others go on
            with self._lock:
                self._failures += 1
            self.stage.tell("failed", name=one.name, message=str(e).splitlines()[0])
            return
        with self._lock:
            self._modules.append(module)
            self.stage.tell("ready", count=len(self._modules))

    def finish(self) -> None:
        self.stage.tell("done", failed=self._failures)
        self.stage.hold()


def naive(stage: Stage) -> None:
    """Start twelve at a time, each with its text, compressed and raw bytes kept until it serves."""
    operator = _Operator(stage)

    def start(one: Input) -> wasmtime.Module:
        text = "".join(stage.inputs.texts(one))
        compressed = bytes.fromhex(text)
        raw = _DECOMPRESS[one.encoding](compressed)
        module = wasmtime.Module(operator.engine, raw)
        time.sleep(operator.wait_s)  # it subscribes
        return module

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda one: operator.attempt(start, one), stage.inputs.all))
    operator.finish()


def early_release(stage: Stage) -> None:
    """Let go of each buffer once it is used; collect garbage after each batch of twelve."""
    operator = _Operator(stage)

    def start(one: Input) -> wasmtime.Module:
        text = "".join(stage.inputs.texts(one))
        compressed = bytes.fromhex(text)
        del text
        raw = _DECOMPRESS[one.encoding](compressed)
        del compressed
        module = wasmtime.Module(operator.engine, raw)
        del raw
        time.sleep(operator.wait_s)  # it subscribes
        return module

    everyone = stage.inputs.all
    with ThreadPoolExecutor(_THREADS) as pool:
        for begin in range(0, len(everyone), _THREADS):
            batch = everyone[begin : begin + _THREADS]
            stage.tell("batch", starts=len(batch))
            list(pool.map(lambda one: operator.attempt(start, one), batch))
            gc.collect()
    operator.finish()


def compiles_alone(stage: Stage) -> None:
    """One compile after the other on all cores, each dropped: the least that a cold start takes."""
    engine, failures = config.engine(), 0
    for done, one in enumerate(stage.inputs.all, 1):
        raw = _DECOMPRESS[one.encoding](bytes.fromhex("".join(stage.inputs.texts(one))))
        try:
            wasmtime.Module(engine, raw)
        except wasmtime.WasmtimeError:
            failures += 1
        stage.tell("ready", count=done - failures)
    stage.tell("done", failed=failures)
    stage.hold()


RUNS: dict[str, Callable[[Stage], None]] = {
    "naive": naive,
    "early-release": early_release,
    "compiles-alone": compiles_alone,
}
