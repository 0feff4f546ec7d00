"""What a guest may call: which interface a module speaks, and the host's side of each."""

from collections.abc import Mapping, Sequence

import wasmtime

from sluice.errors import WorkflowInvalid
from sluice.reasons import Reason
from sluice.wasm.abi import env

WASI, CRE = "wasi", "cre"
WASI_MODULE = "wasi_snapshot_preview1"
# By which the first CRE guests are known, which have no marker: graphs, for another engine.
_LEGACY_CRE = {"sendResponse", "send_response", "call_capability"}
_NEEDED_EXPORTS = {
    "_start": "build it as a program with a main function, not as a library or reactor",
    "memory": "export its linear memory under the name memory",
}


# The functions of WASI preview 1 (wasi-libc's wasi/api.h); wasmtime has all of them.
_WASI_FUNCTIONS = frozenset(
    # A literal set of them would be a page.
    """args_get args_sizes_get environ_get environ_sizes_get clock_res_get clock_time_get
    fd_advise fd_allocate fd_close fd_datasync fd_fdstat_get fd_fdstat_set_flags
    fd_fdstat_set_rights fd_filestat_get fd_filestat_set_size fd_filestat_set_times fd_pread
    fd_prestat_get fd_prestat_dir_name fd_pwrite fd_read fd_readdir fd_renumber fd_seek fd_sync
    fd_tell fd_write path_create_directory path_filestat_get path_filestat_set_times path_link
    path_open path_readlink path_remove_directory path_rename path_symlink path_unlink_file
    poll_oneoff proc_exit proc_raise sched_yield random_get sock_accept sock_recv sock_send
    sock_shutdown""".split()  # noqa: SIM905
)


def detect(imports: Sequence[tuple[str, str]], exports: Mapping[str, object]) -> str:
    """Return the name of the interface that a module of these imports and exports speaks.

    ``exports`` are wasmtime's types by their names.

    Raises:
        WorkflowInvalid: AbiUnsupported, UnknownImport or MissingExport.

    """
    abi = _interface(imports)
    for needed, hint in _NEEDED_EXPORTS.items():
        if needed not in exports:
            raise WorkflowInvalid(Reason.MISSING_EXPORT, f"does not export {needed}; {hint}")
    start = exports["_start"]
    if not isinstance(start, wasmtime.FuncType) or start.params or start.results:
        raise WorkflowInvalid(
            Reason.MISSING_EXPORT,
            "exports a _start that is no function without parameters and results; "
            + _NEEDED_EXPORTS["_start"],
        )
    if not isinstance(exports["memory"], wasmtime.MemoryType):
        raise WorkflowInvalid(
            Reason.MISSING_EXPORT,
            "exports a memory that is no linear memory; " + _NEEDED_EXPORTS["memory"],
        )
    return abi


def _interface(imports: Sequence[tuple[str, str]]) -> str:
    mine = {name for module, name in imports if module == env.MODULE}
    speaks_cre = any(map(env.is_marker, mine))
    if not speaks_cre and (legacy := mine & _LEGACY_CRE):
        raise WorkflowInvalid(
            Reason.ABI_UNSUPPORTED,
            f"imports {env.MODULE}.{min(legacy)} and no {env.MODULE}.version_v2…: it is a legacy "
            "DAG workflow of CRE; build it with an SDK of today",
        )
    for module, name in imports:
        if speaks_cre and module == env.MODULE and (name in env.FUNCTIONS or env.is_marker(name)):
            continue
        if module != WASI_MODULE or name not in _WASI_FUNCTIONS:
            raise _unknown(module, name, speaks_cre)
    return CRE if speaks_cre else WASI


def _unknown(module: str, name: str, speaks_cre: bool) -> WorkflowInvalid:
    said = f"imports {module}.{name}, which this host does not have; "
    if speaks_cre:
        return WorkflowInvalid(
            Reason.UNKNOWN_IMPORT,
            f"{said}a CRE workflow may import {', '.join(env.FUNCTIONS)} from {env.MODULE}, and "
            f"{WASI_MODULE}",
        )
    return WorkflowInvalid(
        Reason.UNKNOWN_IMPORT,
        f"{said}build it for wasm32-wasip1, so that it imports from {WASI_MODULE} alone",
    )
