"""What became of one execution. A guest's failure is a value, never an exception."""

from dataclasses import dataclass
from enum import StrEnum


class OutcomeKind(StrEnum):
    COMPLETED = "Completed"
    FAILED = "Failed"
    TRAPPED = "Trapped"
    TIMED_OUT = "TimedOut"
    OUT_OF_MEMORY = "OutOfMemory"
    REFUSED = "Refused"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an execution.

    ``result`` is what the guest wrote to stdout, at most ``limits.response``; ``log`` is the
    tail of its stderr, at most ``limits.log``. ``memory_bytes`` is the guest's linear memory at
    its end, which is its peak, since a linear memory never shrinks.
    """

    kind: OutcomeKind
    message: str = ""
    exit_code: int | None = None
    result: bytes = b""
    log: bytes = b""
    duration_s: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0

    @property
    def ok(self) -> bool:
        return self.kind is OutcomeKind.COMPLETED
