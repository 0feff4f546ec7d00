"""Those who wait, in their order: who stands where, and whom the gate has to look at."""

import asyncio
import bisect
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sluice.rollout.costs import Cost
from sluice.rollout.gate import Bounds, Waiting
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)

Rank = tuple[bool, int, bool, int]  # lowest, -priority, new to serving, arrival
_HEAD = 64  # how far the gate looks past those that do not fit
_REPRICED = 16  # how many further back are priced anew at each look
_ALLOWANCE_MAX = 1024


@dataclass(eq=False, slots=True, kw_only=True)
class Waiter(Waiting):
    key: WorkflowKey
    rank: Rank
    price: Callable[[], Cost] | None  # None: the cost is what it is
    admitted: asyncio.Future[Any]  # cancelled: it has left, and has not run yet to say so
    allowance: int  # of passes; doubled when it was waited for in vain
    lane: "_Lane" = field(init=False)
    place: tuple[Any, ...] = field(init=False)  # what its lane is sorted by


class _Lane(list[tuple[tuple[Any, ...], Waiter]]):
    """Sorted; a search and a move of pointers to join or leave (2 us of 10,000)."""

    def join(self, waiter: Waiter, place: tuple[Any, ...]) -> None:
        waiter.lane, waiter.place = self, place
        bisect.insort(self, (place, waiter))

    def leave(self, waiter: Waiter) -> bool:
        at = bisect.bisect_left(self, waiter.place, key=_place)
        stands = self[at : at + 1] == [(waiter.place, waiter)]
        if stands:
            del self[at]
        return stands


def _place(entry: tuple[tuple[Any, ...], Waiter]) -> tuple[Any, ...]:
    return entry[0]


class Line:
    """Three lanes: nothing to compile, something to compile, and parked.

    Parked are those found not to fit even by themselves, by what they need at least: nobody stands
    behind them, and they are back in the line when there is as much.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._cached, self._compiling, self._parked = _Lane(), _Lane(), _Lane()
        self._ranks: list[Rank] = []
        self._by_key: dict[WorkflowKey, Waiter] = {}
        self._arrivals = itertools.count()
        self._next_repriced = 0

    def __len__(self) -> int:
        return len(self._ranks)

    @property
    def parked(self) -> int:
        return len(self._parked)

    def join(
        self,
        key: WorkflowKey,
        cost: Cost | Callable[[], Cost],
        admitted: asyncio.Future[Any],
        *,
        priority: int,
        served_before: bool,
        lowest: bool,
    ) -> Waiter:
        price = cost if callable(cost) else None
        allowance = self._bounds.passes_max
        waiter = Waiter(
            cost=cost() if callable(cost) else cost,
            passes_left=allowance,
            lowest=lowest,
            key=key,
            rank=(lowest, -priority, not served_before, next(self._arrivals)),
            price=price,
            admitted=admitted,
            allowance=allowance,
        )
        self._lane(waiter).join(waiter, waiter.rank)
        bisect.insort(self._ranks, waiter.rank)
        self._by_key[key] = waiter
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Take it out of the line; nothing happens if it has left."""
        if not waiter.lane.leave(waiter):
            return
        del self._ranks[bisect.bisect_left(self._ranks, waiter.rank)]
        if self._by_key.get(waiter.key) is waiter:
            del self._by_key[waiter.key]

    def head(self, free: int) -> list[Waiter]:
        """Return all that a decision can be about, in the order of the line; prices are fresh.

        ``free``: what there is below the high watermark; the parked that need no more come back.

        Who was cancelled a moment ago has not run yet to leave: it is taken out here, or it would
        be released and keep a permit for ever.
        """
        self._reprice()
        for (least, _), waiter in self._parked[:_HEAD]:
            if least <= free:
                self._rejoin(waiter)
        while True:
            lanes = (
                self._cached[: self._bounds.starts_max],
                self._compiling[:_HEAD],
                self._parked[:1],
            )
            found = [waiter for lane in lanes for _, waiter in lane]
            gone = [waiter for waiter in found if waiter.admitted.cancelled()]
            if not gone:
                return sorted(found, key=lambda waiter: waiter.rank)
            for waiter in gone:
                self.leave(waiter)

    def park(self, waiter: Waiter) -> None:
        """Set aside one that does not fit even by itself."""
        if waiter.passes_left <= 0:  # the line has waited for it, in vain
            waiter.allowance = min(waiter.allowance * 2, _ALLOWANCE_MAX)
            waiter.passes_left = waiter.allowance
        if not waiter.parked:
            waiter.parked = True
            waiter.lane.leave(waiter)
            self._parked.join(waiter, (waiter.least(self._bounds), waiter.rank))

    def is_parked(self, waiter: Waiter) -> bool:
        return waiter.lane is self._parked

    def waiter(self, key: WorkflowKey) -> Waiter | None:
        return self._by_key.get(key)

    def place(self, waiter: Waiter) -> int:
        """Return how many stand before it by their rank, itself included."""
        return 1 + bisect.bisect_left(self._ranks, waiter.rank)

    def _lane(self, waiter: Waiter) -> _Lane:
        return self._compiling if waiter.cost.compile_bytes else self._cached

    def _reprice(self) -> None:
        # What was learned and cached since it came: of the head now, of all the others by turns.
        lanes: list[_Lane] = [self._compiling, self._parked]
        near = [entry[1] for lane in lanes for entry in lane[: 2 * self._bounds.starts_max]]
        start = self._next_repriced
        far = [entry[1] for lane in lanes for entry in lane[start : start + _REPRICED]]
        self._next_repriced = start + _REPRICED if far else 0
        for waiter in {*near, *far}:
            if (cost := _fresh(waiter)) != waiter.cost:
                waiter.cost = cost
                waiter.allowance = self._bounds.passes_max  # what was tried in vain was another
                waiter.passes_left = min(waiter.passes_left, waiter.allowance)
                self._rejoin(waiter)

    def _rejoin(self, waiter: Waiter) -> None:
        waiter.lane.leave(waiter)
        waiter.parked = False
        self._lane(waiter).join(waiter, waiter.rank)


def _fresh(waiter: Waiter) -> Cost:
    try:
        return waiter.price() if waiter.price else waiter.cost
    except Exception:
        log.exception("a start is not priced anew any more")
        waiter.price = None  # or one would hold up the whole line, and tell of it at each look
        return waiter.cost
