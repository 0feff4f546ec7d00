"""How many starts the next batch has. Pure: the numbers in, the decision and its words out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """Release the first ``count`` of the line as one batch."""

    count: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Release nobody; ``message`` is what those who wait are told."""

    message: str


def decide(waiting: int, in_flight: int, starts_max: int) -> Start | Hold:
    """Return the next batch: as many as the permits allow.

    The permits bound what starts at once. A reading of the pod's memory belongs here too, next
    to them, and nowhere else: who waits has already asked, and holds nothing yet.
    """
    free = starts_max - in_flight
    if waiting and free > 0:
        return Start(min(waiting, free))
    return Hold(f"{in_flight} of {starts_max} starts are under way; {waiting} wait")
