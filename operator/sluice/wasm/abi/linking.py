"""Linkers: what a module's imports are bound to, in the operator and, hollow, in the child.

A module of its own because it knows both interfaces, and loads the one that needs CRE's messages
(8 MB) only for the first module that speaks it.
"""

from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from sluice.wasm.abi import CRE, env, wasi


def linker(engine: wasmtime.Engine, form: env.Form | None) -> wasmtime.Linker:
    """Return a linker for WASI commands or, with a form, for CRE guests of that form."""
    made = wasmtime.Linker(engine)
    wasi.define(made)
    if form:
        from sluice.wasm.abi import cre

        cre.define(made, form)
    return made


def hollow(engine: wasmtime.Engine, abi: str, module: wasmtime.Module) -> wasmtime.Linker:
    """Return what has the same names and types as the module's own linker, and does nothing."""
    made = wasmtime.Linker(engine)
    wasi.define(made)
    if found := form(abi, module):
        for name, signature in found.functions().items():
            wasi.define_function(made, env.MODULE, name, signature, _NOTHING)
    return made


def form(abi: str, module: wasmtime.Module) -> env.Form | None:
    """Return in what form a module speaks CRE's interface; None: it speaks the other."""
    return env.Form.of(module.imports) if abi == CRE else None


def _nothing(_data: object, _caller: Any, _values: Any, _count: int) -> int:
    return 0  # no trap


_NOTHING = ffi.wasmtime_func_unchecked_callback_t(_nothing)
