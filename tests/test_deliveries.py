"""Deliveries in virtual time: order, tries, bounds, and what is told of those that fail."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from fakes import in_virtual_time, workflow
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.sinks import Deliveries, Undelivered
from sluice.snapshot import Run, Verdict
from sluice.workflow import Workflow, WorkflowKey

_MODULE = ("0" * 64, 1)
_HTTP = {"http": {"url": "https://example.org/"}}
_CONFIG_MAP = {"configMap": {"name": "result"}}


def _workflow(name: str = "hello", sink: Any = _HTTP) -> Workflow:
    return workflow(_MODULE, name=name, **({"sink": sink} if sink else {}))


def _run(id_: str, result: bytes = b"", kind: OutcomeKind = OutcomeKind.COMPLETED) -> Run:
    outcome = Outcome(kind, result=result, log=b"x" * 1000)
    return Run(id_, "manual", datetime(2026, 1, 1, tzinfo=UTC), outcome)


@dataclass
class Door:
    """A receiver with the interface of ``sinks.Door``: takes its time, fails as it is told to."""

    takes_s: float = 0.0
    faults: Callable[[Run], Exception | None] = lambda _: None
    tries: list[tuple[float, str]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    logs: list[bytes] = field(default_factory=list)
    at_once: int = 0
    at_once_max: int = 0

    async def put(self, workflow: Workflow, run: Run) -> None:
        name = f"{workflow.key.name}/{run.id}"
        self.tries.append((asyncio.get_running_loop().time(), name))
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.at_once -= 1
        if fault := self.faults(run):
            raise fault
        self.taken.append(name)
        self.logs.append(run.outcome.log)


class Office:
    """Deliveries through one door of each kind, and all that is told of them."""

    def __init__(self, door: Door, **settings: Any) -> None:
        self.door, self.metrics = door, Metrics()
        self.told: list[tuple[WorkflowKey, Verdict]] = []
        self.sink = Deliveries(
            {"http": door, "configMap": door}, Settings(**settings), self.metrics,
            lambda key, verdict: self.told.append((key, verdict)),
        )  # fmt: skip

    def deliver(self, *ids: str, to: Workflow | None = None, result: bytes = b"") -> None:
        for id_ in ids:
            self.sink.deliver(to or _workflow(), _run(id_, result))

    async def all_out(self) -> None:
        while self.sink._lines:  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(0.1)

    def count(self, result: str, kind: str = "http") -> float | None:
        labels = {"kind": kind, "result": result}
        return self.metrics.registry.get_sample_value("sluice_sink_deliveries_total", labels)


def _passing(message: str = "the sink answered 503", **how: Any) -> Undelivered:
    return Undelivered(message, passing=True, **how)


def test_results_go_in_the_order_in_which_they_ended() -> None:
    """One at a time for a workflow, without the guest's log."""

    async def deliver() -> Office:
        office = Office(Door(takes_s=1))
        office.deliver("a", "b", "c")
        await office.all_out()
        return office

    office = in_virtual_time(deliver())
    assert office.door.taken == ["hello/a", "hello/b", "hello/c"]
    assert office.door.at_once_max == 1
    assert office.door.logs == [b""] * 3
    assert office.count("delivered") == 3
    assert office.told == []


def test_a_workflow_without_a_sink_is_nothing_to_do() -> None:
    """Its results are in the history, and go nowhere else."""

    async def deliver() -> Office:
        office = Office(Door())
        office.deliver("a", to=_workflow(sink=None))
        await office.all_out()
        return office

    assert in_virtual_time(deliver()).door.tries == []


def test_what_may_pass_is_tried_again_with_growing_pauses() -> None:
    """A sink that comes back within the tries gets its result; nothing is told."""

    async def deliver() -> Office:
        door = Door(faults=lambda _: _passing() if len(door.tries) < 4 else None)
        office = Office(door)
        office.deliver("a")
        await office.all_out()
        return office

    office = in_virtual_time(deliver())
    times = [at for at, _ in office.door.tries]
    pauses = [after - before for before, after in pairwise(times)]
    assert office.door.taken == ["hello/a"]
    assert all(pause >= 2**i for i, pause in enumerate(pauses))
    assert office.told == []


def test_after_the_last_try_it_is_told() -> None:
    """The event has the execution's id and what was wrong with the last try."""

    async def deliver() -> Office:
        office = Office(Door(faults=lambda _: _passing()), sink_tries_max=3)
        office.deliver("a")
        await office.all_out()
        return office

    office = in_virtual_time(deliver())
    assert len(office.door.tries) == 3
    [(key, verdict)] = office.told
    assert (key.name, verdict.ok, verdict.reason) == ("hello", False, Reason.SINK_FAILED)
    assert "execution a" in verdict.message
    assert "answered 503" in verdict.message
    assert office.count("failed") == 1
    assert office.count("delivered") == 0


def test_what_cannot_pass_is_tried_once() -> None:
    """A refusal is told at once, and the next result goes."""

    async def deliver() -> Office:
        office = Office(Door(faults=lambda run: Undelivered("no") if run.id == "a" else None))
        office.deliver("a", "b")
        await office.all_out()
        return office

    office = in_virtual_time(deliver())
    assert [name for _, name in office.door.tries] == ["hello/a", "hello/b"]
    assert office.door.taken == ["hello/b"]
    assert len(office.told) == 1


def test_tries_end_with_their_time() -> None:
    """However many tries are left, sink_s_max is the end."""

    async def deliver() -> float:
        office = Office(Door(faults=lambda _: _passing()), sink_tries_max=1000, sink_s_max=100)
        office.deliver("a")
        await office.all_out()
        assert len(office.told) == 1
        return asyncio.get_running_loop().time()

    assert in_virtual_time(deliver()) <= 101


def test_a_sink_says_when_to_come_again_within_a_minute() -> None:
    """Retry-After is heeded; an hour is not waited for."""

    async def deliver(after_s: float) -> float:
        door = Door(
            faults=lambda _: _passing(retry_after_s=after_s) if len(door.tries) < 2 else None
        )
        office = Office(door)
        office.deliver("a")
        await office.all_out()
        return door.tries[1][0] - door.tries[0][0]

    assert in_virtual_time(deliver(7)) == pytest.approx(7)
    assert in_virtual_time(deliver(3600)) == pytest.approx(60)


def test_a_dead_sink_holds_up_nobody_else() -> None:
    """While one workflow's sink answers nothing, a neighbour's results arrive."""

    async def deliver() -> None:
        door = Door(takes_s=0.1, faults=lambda run: _passing() if run.id == "dead" else None)
        office = Office(door, sinks_sending_max=2)
        office.deliver("dead", "dead", to=_workflow("dead"))
        office.deliver("a", "b", "c", to=_workflow("neighbour"))
        await asyncio.sleep(1)
        assert office.door.taken == ["neighbour/a", "neighbour/b", "neighbour/c"]
        await office.sink.close()

    in_virtual_time(deliver())


def test_so_many_are_sent_at_once_and_no_more() -> None:
    """Ten workflows, three places."""

    async def deliver() -> Office:
        office = Office(Door(takes_s=1), sinks_sending_max=3)
        for i in range(10):
            office.deliver("a", to=_workflow(f"w{i}"))
        await office.all_out()
        return office

    office = in_virtual_time(deliver())
    assert office.door.at_once_max == 3
    assert len(office.door.taken) == 10


@pytest.mark.parametrize(
    ("settings", "fit", "why"),
    [
        ({"sinks_waiting_max": 3}, 3, "sinks_waiting_max"),
        ({"sinks_bytes_max": 3 * (1024 + 100)}, 3, "sinks_bytes_max"),
    ],
)
def test_what_waits_is_bounded(settings: dict[str, int], fit: int, why: str) -> None:
    """Up to the bound all are delivered; past it a result is dropped and told, at once."""

    async def deliver(count: int) -> Office:
        office = Office(Door(takes_s=1), **settings)
        office.deliver(*(f"{i}" for i in range(count)), result=b"x" * 100)
        await office.all_out()
        office.deliver("later", result=b"x" * 100)  # room is given back
        await office.all_out()
        return office

    office = in_virtual_time(deliver(fit))
    assert len(office.door.taken) == fit + 1
    assert office.told == []
    office = in_virtual_time(deliver(fit + 2))
    assert len(office.door.taken) == fit + 1
    assert office.count("dropped") == 2
    [(_, verdict)] = office.told
    assert why in verdict.message


def test_a_sink_that_is_down_is_told_of_now_and_then() -> None:
    """A workflow that ends ten times a second makes one event a minute, and each is counted."""

    async def deliver() -> Office:
        office = Office(Door(faults=lambda _: Undelivered("gone")))
        for i in range(900):
            office.deliver(f"{i}")
            await asyncio.sleep(0.1)
        office.deliver("a", to=_workflow("another"))
        await office.all_out()
        return office

    office = in_virtual_time(deliver())
    assert [key.name for key, _ in office.told] == ["hello", "hello", "another"]
    assert office.count("failed") == 901


def test_a_config_map_gets_the_newest() -> None:
    """Of a thousand results in no time the first and the last are written."""

    async def deliver() -> Office:
        office = Office(Door(takes_s=0.1), sinks_waiting_max=10)
        office.deliver(*(f"{i}" for i in range(1000)), to=_workflow(sink=_CONFIG_MAP))
        await office.all_out()
        return office

    office = in_virtual_time(deliver())
    assert office.door.taken == ["hello/0", "hello/999"]
    assert office.count("superseded", "configMap") == 998
    assert office.count("delivered", "configMap") == 2


def test_an_edit_of_the_sink_supersedes_nothing_of_the_one_before() -> None:
    """What waits for a URL goes there, though the newest goes to a ConfigMap."""

    async def deliver() -> Office:
        office = Office(Door(takes_s=0.1))
        office.deliver("a", "b")
        office.deliver("c", to=_workflow(sink=_CONFIG_MAP))
        await office.all_out()
        return office

    assert in_virtual_time(deliver()).door.taken == ["hello/a", "hello/b", "hello/c"]


def test_writes_of_a_config_map_are_spaced() -> None:
    """However fast the workflow, the API server gets one a second of it."""

    async def deliver() -> Office:
        office = Office(Door())
        for i in range(50):
            office.deliver(f"{i}", to=_workflow(sink=_CONFIG_MAP))
            await asyncio.sleep(0.1)
        await office.all_out()
        return office

    times = [at for at, _ in in_virtual_time(deliver()).door.tries]
    assert all(after - before > 0.999 for before, after in pairwise(times))
    assert 4 <= len(times) <= 7


def test_at_the_end_what_can_go_soon_goes() -> None:
    """Fast sinks get what waits; one that is dead costs two seconds, and is told in the log."""

    async def deliver() -> tuple[Office, float]:
        office = Office(Door(faults=lambda run: _passing() if run.id == "dead" else None))
        office.deliver("dead", to=_workflow("dead"))
        office.deliver("a", "b")
        await office.sink.close()
        office.deliver("late")
        return office, asyncio.get_running_loop().time()

    office, took_s = in_virtual_time(deliver())
    assert office.door.taken == ["hello/a", "hello/b"]
    assert took_s <= 2


def test_a_kind_without_a_door_is_told() -> None:
    """On a folder of manifests there is no cluster to hold a ConfigMap."""

    async def deliver() -> Office:
        office = Office(Door())
        office.sink = Deliveries(
            {}, Settings(), office.metrics, lambda key, told: office.told.append((key, told))
        )
        office.deliver("a", to=_workflow(sink=_CONFIG_MAP))
        await office.all_out()
        return office

    assert "needs a cluster" in in_virtual_time(deliver()).told[0][1].message


def test_a_mistake_of_ours_costs_one_result() -> None:
    """What nobody foresaw is told without its text, and the next result goes."""

    async def deliver() -> Office:
        office = Office(Door(faults=lambda run: KeyError("inside") if run.id == "a" else None))
        office.deliver("a", "b")
        await office.all_out()
        return office

    with _quiet():
        office = in_virtual_time(deliver())
    assert office.door.taken == ["hello/b"]
    assert "inside" not in office.told[0][1].message


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the traceback, which is meant for the log, out of the report."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
