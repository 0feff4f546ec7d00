import asyncio
import random

from rollout.starts import cost, key
from sluice.rollout.costs import FREE, Cost
from sluice.rollout.gate import Bounds
from sluice.rollout.line import Line, Waiter
from sluice.settings import MIB

BOUNDS = Bounds(passes_max=4)


class Queue:
    """A line and those who join it."""

    def __init__(self) -> None:
        self.line = Line(BOUNDS)
        self._futures = asyncio.new_event_loop()
        self.prices: dict[str, Cost] = {}

    def join(self, name: str, price: Cost, priority: int = 0) -> Waiter:
        self.prices[name] = price
        return self.line.join(
            key(name), lambda: self.prices[name], self._futures.create_future(),
            priority=priority, served_before=False, lowest=False,
        )  # fmt: skip

    def close(self) -> None:
        self._futures.close()


def test_each_knows_its_place_in_a_line_of_ten_thousand() -> None:
    """Whoever joins and leaves meanwhile, in whatever lane it stands."""
    queue, r = Queue(), random.Random(1)
    waiting = [
        queue.join(str(i), cost(r.choice([0, 60])), priority=r.randrange(5)) for i in range(10_000)
    ]
    gone = r.sample(waiting, 5000)
    for waiter in gone:
        queue.line.leave(waiter)
        queue.line.leave(waiter)
    left = sorted(set(waiting) - set(gone), key=lambda waiter: waiter.rank)
    assert len(queue.line) == 5000
    assert [queue.line.place(waiter) for waiter in left] == list(range(1, 5001))
    assert all(queue.line.waiter(waiter.key) is None for waiter in gone)
    queue.close()


def test_all_that_wait_are_priced_anew_by_turns() -> None:
    """What became cached far back in the line is found there, and waits behind no compile."""
    queue = Queue()
    for i in range(300):
        queue.join(str(i), cost(60))
    queue.prices["299"] = FREE
    looks = 0
    while queue.line.head(0)[-1].key != key("299"):
        looks += 1
        assert looks < 40
    assert looks > 1
    queue.close()


def test_one_that_was_waited_for_in_vain_may_be_passed_twice_as_often_each_time() -> None:
    """What never fits costs the others less and less, and yet is tried again for ever."""
    queue = Queue()
    giant = queue.join("giant", cost(300))
    passes = []
    for _ in range(10):
        queue.line.park(giant)
        passes.append(giant.passes_left)
        giant.passes_left = 0
    assert passes == [4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]
    queue.close()


def test_the_parked_come_back_where_they_stood_when_there_is_what_they_need() -> None:
    """All of them at once, and before those that came later."""
    queue = Queue()
    giants = [queue.join(f"giant{i}", cost(300 + i)) for i in range(3)]
    queue.join("small", cost(60))
    for giant in giants:
        queue.line.park(giant)
    assert [w.key.name for w in queue.line.head(0)] == ["giant0", "small"]
    assert queue.line.parked == 3
    # 301 MiB to compile and 1 to keep are there, and no more.
    assert [w.key.name for w in queue.line.head(302 * MIB)] == [
        "giant0", "giant1", "giant2", "small",
    ]  # fmt: skip
    assert [giant.parked for giant in giants] == [False, False, True]
    queue.close()
