"""The two configurations of wasmtime, shared by the compile child and the operator.

A compiled module loads only into an Engine of the same configuration, so both sides take it
from here, and its fingerprint is part of every cache entry's name. Nothing in it comes from a
user: a contradictory Config aborts the whole process.

The tiers differ in their compiler alone. Cranelift optimises; Winch reads a function once and
writes code down as it goes, five to ten times faster, for code about half as fast.
"""

import hashlib
import importlib.metadata
import platform
from enum import StrEnum
from functools import cache
from pathlib import Path

import wasmtime
from wasmtime import _ffi as ffi


class Tier(StrEnum):
    """How a module was compiled: to serve soon, or to run fast."""

    BASELINE = "baseline"
    OPTIMIZING = "optimizing"


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
# wasmtime_strategy_t; the binding's own property does not know the third name.
_STRATEGIES = {Tier.OPTIMIZING: 1, Tier.BASELINE: 2}
# Only here Winch is held to the standard of Cranelift (wasmtime's stability tiers): on aarch64 it
# is in development and let guests out of their memory (CVE-2026-34987), and elsewhere a Config
# that asks for it aborts the process.
_BASELINE_MACHINES = {"x86_64"}


def available(tier: Tier) -> bool:
    """Say whether the compiler of ``tier`` is to be trusted with anybody's module here."""
    return tier is Tier.OPTIMIZING or platform.machine() in _BASELINE_MACHINES


def engine(tier: Tier = Tier.OPTIMIZING) -> wasmtime.Engine:
    """Return a new Engine; a process needs one for each tier, and each further one costs memory."""
    config = wasmtime.Config()
    for name, value in _SETTINGS.items():
        setattr(config, name, value)
    ffi.wasmtime_config_strategy_set(config.ptr(), _STRATEGIES[tier])
    return wasmtime.Engine(config)


@cache
def fingerprint(tier: Tier) -> str:
    """Return 16 hex digits of all that compiled code depends on but its source."""
    version = importlib.metadata.version("wasmtime")
    parts = [version, tier, repr(sorted(_SETTINGS.items())), _cpu()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    # The compilers use every feature of the CPU they find: code from a newer one would trap here.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = {line for line in lines if line.startswith(("flags", "Features"))}
    return platform.machine() + "".join(sorted(features))
