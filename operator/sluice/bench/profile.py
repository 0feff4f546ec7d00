"""Where the time of one execution goes, from the call of the engine to its outcome.

The calls into wasmtime are timed one by one; a stopwatch round each costs 0.2 us. What they leave
over of the whole is Python: ours, and the binding's way of calling.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from wasmtime import _ffi as ffi

from sluice.bench.place import Place
from sluice.wasm import quick
from sluice.wasm.engine import Execution

_ROUNDS, _RUNS = 20, 100
_STEPS = {
    "store: made and deleted": ("store_new", "store_context", "store_delete"),
    "limits, epoch callback and deadline": (
        "store_limiter", "store_epoch_deadline_callback", "context_set_epoch_deadline",
    ),
    "WASI: arguments and environment": (
        "wasi_config_new", "wasi_config_set_argv", "wasi_config_set_env", "context_set_wasi",
    ),
    "instance, from its InstancePre": ("instance_pre_instantiate",),
    "exports: memory and _start": ("instance_export_get", "memory_data_size"),
    "_start, with what it calls": ("func_call",),
}  # fmt: skip
_REST = "Python: leash, streams, outcome"


@dataclass(frozen=True, slots=True)
class Profile:
    guest: str
    steps: dict[str, float]  # seconds, of one execution
    whole_s: float
    bare_s: float | None  # the same guest under the binding alone; None: it calls ours


def profile(place: Place, guests: dict[str, str]) -> list[Profile]:
    """Return where each guest's time goes, on one thread and without a queue."""
    return [_profile(place, name, wat) for name, wat in guests.items()]


def _profile(place: Place, name: str, wat: str) -> Profile:
    engine, execution = place.engine(wat), Execution(event=b'{"specversion":"1.0"}')
    bare = None if "(import" in wat else place.bare(wat)
    wholes, bares, taken = [], [], []
    for _ in range(_ROUNDS):  # in turns, so that a noise of the machine is in all of them
        wholes += _times(lambda: engine.run(execution))
        bares += _times(bare) if bare else []
        taken += _steps(lambda: engine.run(execution))
    steps = {step: statistics.median(each[step] for each in taken) for step in _STEPS}
    whole_s = statistics.median(wholes)
    steps[_REST] = max(0.0, whole_s - sum(steps.values()))
    return Profile(name, steps, whole_s, statistics.median(bares) if bares else None)


def _times(once: Callable[[], object]) -> list[float]:
    took = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        once()
        took.append(time.perf_counter() - began)
    return took


def _steps(once: Callable[[], object]) -> list[dict[str, float]]:
    """Return what each of some executions spent on each step."""
    found = []
    with _timed() as taken:
        for _ in range(_RUNS):
            taken.clear()
            once()
            found.append({s: sum(taken[name] for name in names) for s, names in _STEPS.items()})
    return found


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Put a stopwatch round wasmtime's functions; there is no other way to look behind them."""
    taken: dict[str, float] = defaultdict(float)
    plain = {name: _found(name) for names in _STEPS.values() for name in names}
    for name, (room, known_as, function) in plain.items():
        setattr(room, known_as, _stopwatch(name, function, taken))
    try:
        yield taken
    finally:
        for room, known_as, function in plain.values():
            setattr(room, known_as, function)


def _found(name: str) -> tuple[ModuleType, str, Callable[..., Any]]:
    """Return where the engine takes a function from, and the function."""
    room, known_as = (quick, name) if hasattr(quick, name) else (ffi, f"wasmtime_{name}")
    return room, known_as, getattr(room, known_as)


def _stopwatch(name: str, function: Callable[..., Any], taken: dict[str, float]) -> Any:
    def timed(*args: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args)
        finally:
            taken[name] += time.perf_counter() - began

    return timed
