"""One execution's store, by the shortest way through the binding.

Its classes look up and wrap for each store what is the same for all of a module, 75 us for an empty
guest with all that we ask of them; this way takes 40 (docs/speed.md).
"""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from ctypes import byref
from types import TracebackType
from typing import Any, Self

import wasmtime
from wasmtime import _ffi as ffi

from sluice.wasm import quick
from sluice.wasm.interrupt import NO_FINALIZER, Leash

_TABLE_ELEMENTS_MAX, _INSTANCES_MAX, _TABLES_MAX, _MEMORIES_MAX = 200_000, 1, 4, 1
End = wasmtime.Trap | wasmtime.WasmtimeError
_TrapPointer = ctypes.POINTER(ffi.wasm_trap_t)
_Texts = ctypes.POINTER(ctypes.POINTER(ctypes.c_char))


class Told:
    """What a guest is told of the world, arguments and environment: C's arrays, made once."""

    def __init__(self, argv: Sequence[str], env: Iterable[tuple[str, str]]) -> None:
        self._argv, self._env = list(argv), list(env)
        self._arguments = _texts(self._argv)
        self._names = _texts([name for name, _ in self._env])
        self._values = _texts([value for _, value in self._env])

    def and_env(self, env: tuple[tuple[str, str], ...]) -> "Told":
        return Told(self._argv, [*self._env, *env]) if env else self

    def config(self) -> Any:
        """Return a new configuration, for the one store that consumes it."""
        config = quick.wasi_config_new()
        quick.wasi_config_set_argv(config, len(self._argv), self._arguments)
        quick.wasi_config_set_env(config, len(self._env), self._names, self._values)
        return config


def _texts(texts: list[str]) -> Any:
    # A cast keeps alive what it is made of.
    return ctypes.cast((ctypes.c_char_p * len(texts))(*map(str.encode, texts)), _Texts)


class Store:
    """Made for one execution on one thread, and gone with its block, memory and all."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._store = quick.store_new(engine.ptr(), None, NO_FINALIZER)
        self._context = quick.store_context(self._store)
        self._memory: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        ffi.wasmtime_store_delete(self._store)

    def limit(self, memory_bytes: int) -> None:
        """Bound what the guest may have; of all but its memory there is one bound for all."""
        quick.store_limiter(
            self._store,
            memory_bytes,
            _TABLE_ELEMENTS_MAX,
            _INSTANCES_MAX,
            _TABLES_MAX,
            _MEMORIES_MAX,
        )

    def tell(self, told: Told) -> None:
        if error := quick.context_set_wasi(self._context, told.config()):
            raise wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001

    def run(self, pre: wasmtime.InstancePre, leash: Leash) -> End | None:
        """Make the instance and call its ``_start``; return what ended it, None if it returned."""
        instance = ffi.wasmtime_instance_t()
        with leash:
            leash.fasten(self._store)
            end = _ended(
                lambda trap: ffi.wasmtime_instance_pre_instantiate(
                    pre.ptr(), self._context, byref(instance), trap
                )
            )
            if end:
                return end
            self._memory = self._export(instance, b"memory").of.memory
            start = self._export(instance, b"_start").of.func
            return _ended(
                lambda trap: ffi.wasmtime_func_call(
                    self._context, byref(start), None, 0, None, 0, trap
                )
            )

    def memory_bytes(self) -> int:
        """Return how large the guest's memory is, which is its peak; 0 where it had none yet."""
        if self._memory is None:
            return 0
        return int(quick.memory_data_size(self._context, byref(self._memory)))

    def _export(self, instance: Any, name: bytes) -> Any:
        item = ffi.wasmtime_extern_t()
        # Nothing there would be a pointer to nowhere; but the compile child has looked.
        found = quick.instance_export_get(
            self._context, byref(instance), name, len(name), byref(item)
        )
        assert found, "a module without the exports of a program"
        return item


def _ended(call: Callable[[Any], Any]) -> End | None:
    trap = _TrapPointer()
    if error := call(byref(trap)):
        return wasmtime.WasmtimeError._from_ptr(error)  # noqa: SLF001
    return wasmtime.Trap._from_ptr(trap) if trap else None  # noqa: SLF001
