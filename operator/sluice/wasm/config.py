"""The one configuration of wasmtime, shared by the compile child and the operator.

A compiled module loads only into an Engine of the same configuration, so both sides take it
from here, and its fingerprint is part of every cache entry's name. Nothing in it comes from a
user: a contradictory Config aborts the whole process.
"""

import hashlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path

import wasmtime

# What differs from wasmtime's defaults. memory_init_cow stays on: without it one module of
# 3.5 MB took 848 MB to compile.
_SETTINGS = {
    "epoch_interruption": True,  # time limits at 3 % of a guest's speed; fuel costs 19 %
    "parallel_compilation": True,  # in the child: half the wall for a tenth more of its peak
    "wasm_threads": False,  # a shared memory would escape Store.set_limits
    "shared_memory": False,
    "wasm_memory64": False,
    "wasm_multi_memory": False,  # a store is limited to one; so it is said before a module serves
}


def engine() -> wasmtime.Engine:
    """Return a new Engine; a process needs one, and each further one costs memory."""
    config = wasmtime.Config()
    for name, value in _SETTINGS.items():
        setattr(config, name, value)
    return wasmtime.Engine(config)


@cache
def fingerprint() -> str:
    """Return 16 hex digits of all that compiled code depends on but its source."""
    parts = [importlib.metadata.version("wasmtime"), repr(sorted(_SETTINGS.items())), _cpu()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    # Cranelift uses every feature of the CPU it finds: code from a newer one would trap here.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = {line for line in lines if line.startswith(("flags", "Features"))}
    return platform.machine() + "".join(sorted(features))
