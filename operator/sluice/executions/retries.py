"""When an attempt that went wrong is made again. Pure: the clock and chance are arguments."""

from dataclasses import dataclass
from typing import Self

from sluice.outcome import OutcomeKind
from sluice.workflow import WorkflowSpec


@dataclass(frozen=True, slots=True)
class Policy:
    """What a spec says of attempts; texts parsed once."""

    limit: int = 0
    on: frozenset[str] = frozenset()
    backoff_s: float = 10.0
    backoff_s_max: float = 300.0
    deadline_s: float | None = None  # from the acceptance to the end of the last attempt

    @classmethod
    def of(cls, spec: WorkflowSpec) -> Self:
        retries = spec.retries
        deadline_s = spec.active_deadline_seconds
        return cls(
            retries.limit,
            frozenset(retries.on),
            retries.backoff_s,
            retries.backoff_max_s,
            None if deadline_s is None else float(deadline_s),
        )

    def left_s(self, accepted: float, now: float) -> float | None:
        """Return how long attempts may still take; None: as long as they like."""
        return None if self.deadline_s is None else accepted + self.deadline_s - now


def next_attempt(
    policy: Policy, kind: OutcomeKind, failures: int, accepted: float, now: float, chance: float
) -> float | None:
    """Return when the next attempt may begin, or None where this was the last.

    ``failures`` counts the attempts that went wrong, this one too. ``chance`` is in [0, 1): what
    failed together is not tried again together (full jitter).
    """
    if kind not in policy.on or failures > policy.limit:
        return None
    longest_s = min(policy.backoff_s * 2.0 ** (failures - 1), policy.backoff_s_max)
    at = now + chance * longest_s
    left_s = policy.left_s(accepted, now)
    return None if left_s is not None and at - now >= left_s else at
