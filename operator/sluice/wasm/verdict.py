"""What a failure is called: from wasmtime's words and a guest's last ones to an Outcome."""

import re
from dataclasses import dataclass, replace

from sluice.errors import EngineRefused
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.wasm.interrupt import Bounds, Why
from sluice.workflow import Limits

# Last words of runtimes whose memory.grow was refused: wasmtime's C interface does not tell.
# (Go; Rust; wasi-libc's abort text of C++; AssemblyScript)
_OUT_OF_MEMORY_WORDS = (
    b"out of memory",
    b"cannot allocate memory",
    b"memory allocation of",
    b"bad_alloc",
)
# What wasmtime says where a store's limits refuse a module at its start.
_LIMIT_WORDS = ("table limits", "resource limit exceeded")


@dataclass(frozen=True, slots=True)
class Judge:
    """Knows one revision's limits, parsed once: they are texts in the spec."""

    limits: Limits
    memory_bytes: int  # as the guest's store is limited

    def failure(self, text: str) -> Outcome:
        """Judge what wasmtime says of a guest that did not end by its own will.

        Raises:
            EngineRefused: it was not the guest's fault.

        """
        cause = _cause(text)
        if "memory limits" in cause or "GC heap out of memory" in cause:
            return self._out_of_memory(Outcome(OutcomeKind.TRAPPED, cause))
        if any(words in cause for words in _LIMIT_WORDS):
            return Outcome(OutcomeKind.REFUSED, cause)
        if "wasm trap:" in text or "wasm backtrace:" in text:
            return Outcome(OutcomeKind.TRAPPED, cause)
        raise EngineRefused(Reason.ENGINE_REFUSED, f"the guest could not be started: {cause}")

    def named(self, outcome: Outcome, memory_bytes: int, log: bytes) -> Outcome:
        """Call a failure by its name where the guest's memory was full, or it said so."""
        if outcome.kind not in {OutcomeKind.FAILED, OutcomeKind.TRAPPED}:
            return outcome
        # The last page or a sixteenth: allocators grow in steps, so a full memory has a margin.
        full = memory_bytes >= self.memory_bytes - max(self.memory_bytes // 16, 1 << 16)
        said = log[-4096:].lower()
        if full or any(words in said for words in _OUT_OF_MEMORY_WORDS):
            return self._out_of_memory(outcome)
        return outcome

    def _out_of_memory(self, outcome: Outcome) -> Outcome:
        return replace(
            outcome,
            kind=OutcomeKind.OUT_OF_MEMORY,
            message=f"asked for more than limits.memory {self.limits.memory} ({outcome.message})",
        )


def bounds(limits: Limits) -> Bounds:
    """Return what the limits say of an execution's time, and what is said where it is over."""
    timed_out = Why(OutcomeKind.TIMED_OUT, f"ran longer than limits.timeout {limits.timeout}")
    if limits.cpu_s is None:
        return Bounds(limits.timeout_s, timed_out)
    used = Why(OutcomeKind.TIMED_OUT, f"used more than limits.cpu {limits.cpu} of CPU")
    return Bounds(limits.timeout_s, timed_out, limits.cpu_s, used)


def _cause(text: str) -> str:
    """Return the one line that says why: wasmtime puts it behind a backtrace."""
    numbered = (re.sub(r"^\s*(\d+: )?", "", line).strip() for line in text.splitlines())
    lines = [line for line in numbered if line]
    traps = [line for line in lines if line.startswith("wasm trap:")]
    after = lines[lines.index("Caused by:") + 1 :] if "Caused by:" in lines else []
    return "; ".join(traps[:1] or after or lines[:1] or ["no message"])[:300]
