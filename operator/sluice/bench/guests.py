"""The guests of ``sluice bench run``, written by hand so that no compiler is needed where it runs.

Those that work do so for a time that is measured here first. The offenders each take all they can
get of one thing, and are what the tests of the limits run as well.
"""

from dataclasses import dataclass, field

_WASI = '(import "wasi_snapshot_preview1"'
_FOUR = "(param i32 i32 i32 i32) (result i32)))"
_WRITE = f'{_WASI} "fd_write" (func $write {_FOUR}'
_POLL = f'{_WASI} "poll_oneoff" (func $poll {_FOUR}'
_RANDOM = f'{_WASI} "random_get" (func $random (param i32 i32) (result i32)))'
_MEMORY = '(memory (export "memory") 1)'
_PAGE = 65_536


def program(body: str, *, imports: str = "", memory: str = _MEMORY, more: str = "") -> str:
    """Return a WASI program whose ``_start`` is ``body``."""
    return f'(module {imports} {memory} {more} (func $start (export "_start") {body}))'


EMPTY = program("")


def work(rounds: int) -> str:
    """Return a program that counts, and does nothing else: as fast on any tier, to a few parts."""
    return program(
        f"(local $i i64) (local.set $i (i64.const {rounds})) (loop $more"
        " (br_if $more (i64.ne (i64.const 0)"
        " (local.tee $i (i64.sub (local.get $i) (i64.const 1))))))"
    )


# Reads its event, a quarter of a KiB at a time, and writes it back: as most guests begin and end.
ECHO = program(
    "(local $got i32) (loop $more"
    " (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 256))"
    " (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))"
    " (i32.store (i32.const 4) (local.tee $got (i32.load (i32.const 16))))"
    " (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))"
    " (br_if $more (local.get $got)))",
    imports=f'{_WASI} "fd_read" (func $read {_FOUR}{_WRITE}',
)


@dataclass(frozen=True, slots=True)
class Offender:
    """A guest that takes what it can get; ``limits`` are what holds it, where not the defaults."""

    wat: str
    limits: dict[str, str] = field(default_factory=dict)


def _writes(fd: int, size: int) -> str:
    """Write ``size`` bytes for ever."""
    return program(
        f"(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const {size}))"
        f"(loop $more (drop (call $write (i32.const {fd}) (i32.const 0) (i32.const 1)"
        " (i32.const 16))) (br $more))",
        imports=_WRITE,
    )


_GROW = (  # as far as it goes, and then all of it is touched, again and again
    "(local $at i32) (loop $more (br_if $more (i32.ne (i32.const -1)"
    " (memory.grow (i32.const 16)))))"
    "(loop $again (local.set $at (i32.const 0)) (loop $touch"
    " (i32.store (local.get $at) (i32.const 1))"
    f" (br_if $touch (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const {_PAGE // 16})))"
    f" (i32.sub (i32.mul (memory.size) (i32.const {_PAGE})) (i32.const 8))))) (br $again))"
)
_TABLE = "(table $t 1 funcref)"
_GROW_TABLE = (
    "(loop $more (drop (table.grow $t (ref.null func) (i32.const 1000)))"
    " (table.fill $t (i32.const 0) (ref.null func) (table.size $t)) (br $more))"
)
_SLEEPS = (
    "(loop $more (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))"
    " (br $more))"
)
_LIFE = {"timeout": "1s"}

OFFENDERS: dict[str, Offender] = {
    "endless loop": Offender(program("(loop $more (br $more))"), _LIFE),
    "endless recursion": Offender(program("(call $start)")),
    "CPU limit": Offender(program("(loop $more (br $more))"), {"cpu": "200ms"}),
    "memory to the end": Offender(program(_GROW), _LIFE | {"memory": "64Mi"}),
    "table to the end": Offender(program(_GROW_TABLE, more=_TABLE), _LIFE),
    "stdout flood": Offender(_writes(1, 1024)),
    "stderr flood": Offender(_writes(2, 1024), _LIFE),
    "calls of the host": Offender(_writes(2, 0), _LIFE),
    "sleeps of nothing": Offender(program(_SLEEPS, imports=_POLL), _LIFE),
    "randomness": Offender(
        program(
            "(loop $more (drop (call $random (i32.const 0) (i32.const 60000))) (br $more))",
            imports=_RANDOM,
        ),
        _LIFE,
    ),
}
