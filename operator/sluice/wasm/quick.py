"""wasmtime's functions that do a little and return, called with the interpreter held.

ctypes lets go of it round every call, so that others run meanwhile. For a call of one microsecond
that is a loss to all: the caller waits in line for the interpreter fifteen times an execution, for
up to 5 ms each (docs/speed.md). What may take its time is called through the binding as it is:
instances, guests, and the end of a store, which gives back its memory.
"""

import ctypes
from typing import Any

from wasmtime import _bindings as binding
from wasmtime import _ffi as ffi

_LIBRARY = ctypes.PyDLL(str(ffi.filename))  # the same one, opened once more


def _quick(name: str) -> Any:
    known, function = getattr(binding, f"_{name}"), _LIBRARY[name]
    function.restype, function.argtypes = known.restype, known.argtypes
    return function


store_new = _quick("wasmtime_store_new")
store_context = _quick("wasmtime_store_context")
store_limiter = _quick("wasmtime_store_limiter")
store_epoch_deadline_callback = _quick("wasmtime_store_epoch_deadline_callback")
context_set_epoch_deadline = _quick("wasmtime_context_set_epoch_deadline")
context_set_wasi = _quick("wasmtime_context_set_wasi")
wasi_config_new = _quick("wasi_config_new")
wasi_config_set_argv = _quick("wasi_config_set_argv")
wasi_config_set_env = _quick("wasi_config_set_env")
instance_export_get = _quick("wasmtime_instance_export_get")
caller_context = _quick("wasmtime_caller_context")
caller_export_get = _quick("wasmtime_caller_export_get")
memory_data = _quick("wasmtime_memory_data")
memory_data.restype = ctypes.c_void_p  # as a number: a pointer object costs more than the call
memory_data_size = _quick("wasmtime_memory_data_size")

copy = ctypes.PyDLL(None).memmove  # ctypes.memmove lets go too
copy.restype, copy.argtypes = None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
