"""What one process leaves on disk, the next one goes on with."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from executions.held import A, B, Ground, HeldEngine, of
from fakes import until
from sluice.errors import EngineRefused
from sluice.outcome import Outcome, OutcomeKind
from sluice.snapshot import Run

Make = Callable[..., Ground]


def _ids(ground: Ground) -> list[str]:
    return [run.id for _, run in ground.told]


def _runs(engine: HeldEngine) -> int:
    return engine.running


async def test_what_waited_runs_in_its_order(make: Make, disk: Path) -> None:
    """After SIGKILL all that was accepted is run, the oldest first, and finished once."""
    first = make(disk)
    first.serve(A)
    await first.run(A, id="over")
    first.executions.suspend(A)
    first.executions.open(of(A))
    for n in range(5):
        await first.accept(A, n, id=f"{n}")
    ground = make(await first.dies())
    ground.serve(A)
    await until(lambda: len(ground.told) == 5)
    assert _ids(ground) == ["0", "1", "2", "3", "4"]
    assert (await ground.accept(A, id="over")).duplicate
    assert (await ground.accept(A, id="3")).duplicate


async def test_it_does_not_matter_what_comes_first(make: Make, disk: Path) -> None:
    """The workflow may be seen before or after the journal was read."""
    first = make(disk)
    first.executions.open(of(A))
    await first.accept(A, id="7")
    copy = await first.dies()
    for early in (True, False):
        ground = make(copy)
        if not early:
            await ground.journal.read(lambda _: None)
        ground.serve(A)
        await until(partial(_ids, ground))
        assert _ids(ground) == ["7"]
        await ground.close()
        copy = await first.dies()


async def test_an_event_that_is_handed_in_again_is_known(make: Make, disk: Path) -> None:
    """A sender that got no answer sends again: it is told the end of the one execution."""
    first = make(disk)
    first.executions.open(of(A))
    await first.accept(A, id="7")
    ground = make(await first.dies())
    engine = ground.serve(A, hold=True)
    again = await ground.accept(A, id="7")  # before anything was read from disk
    assert again.duplicate
    assert again.finished is not None
    engine.let_go()
    assert (await again.finished).outcome.ok
    assert len(engine.begun) == 1


async def test_an_object_of_the_same_name_inherits_nothing(make: Make, disk: Path) -> None:
    """Deleted and made anew while no operator ran: the old one's events are not its."""
    first = make(disk)
    first.executions.open(of(A))
    await first.accept(A, id="7")
    ground = make(await first.dies())
    ground.executions.know(A, "another uid")
    assert await ground.executions.find(A, "7") is None
    ground.executions.all_known()
    left = await ground.journal.do(
        lambda tables: tables._db.execute("SELECT count(*) FROM accepted").fetchone()
    )
    assert left == (0,)
    assert ground.executions._load.entries == 0


async def test_events_of_a_workflow_that_is_gone_are_let_go_of(make: Make, disk: Path) -> None:
    """They count against the bounds until all workflows are known, and not any longer."""
    first = make(disk)
    first.executions.open(of(B))
    for _ in range(3):
        await first.accept(B)
    ground = make(await first.dies(), accepted_max=3)
    ground.serve(A)
    await ground.journal.read(lambda _: None)
    with pytest.raises(EngineRefused, match="accepted_max"):
        await ground.accept(A)
    ground.executions.all_known()
    assert (await ground.run(A)).outcome.ok


async def test_a_retry_waits_through_a_restart(make: Make, disk: Path) -> None:
    """The pause before the next attempt, and how many there were, outlive the process."""
    retries = {"limit": 5, "backoff": "1h", "backoffMax": "1h"}
    first = make(disk)
    first.serve(A, retries=retries).outcomes = [Outcome(OutcomeKind.FAILED)]
    await first.accept(A, id="7")
    await until(lambda: first.sample("sluice_retries_total"))
    ground = make(await first.dies())
    engine = ground.serve(A, retries=retries)
    await ground.journal.read(lambda _: None)
    assert engine.begun == []
    assert ground.sample("sluice_executions_waiting") == 1
    await first.journal.do(lambda tables: tables._db.execute("UPDATE accepted SET not_before = 1"))
    ground = make(await first.dies())
    ground.serve(A, retries=retries)
    await until(lambda: ground.told)
    assert ground.told[0][1].attempts == 2


class TestDeaths:
    async def test_what_ran_at_a_death_runs_again(self, make: Make, disk: Path) -> None:
        """At least once: what was cut off by SIGKILL is begun anew, and its guest can tell."""
        first = make(disk)
        engine = first.serve(A, hold=True)
        await first.accept(A, id="7")
        await until(lambda: engine.running)
        ground = make(await first.dies())
        ground.serve(A)
        await until(lambda: ground.told)
        assert ground.told[0][1].attempts == 2
        assert b'"sluiceattempt":2' in ground.told[0][1].outcome.result

    async def test_what_kills_the_process_is_not_tried_for_ever(
        self, make: Make, disk: Path
    ) -> None:
        """After attempts_max deaths it has an end that says so, and its neighbours run."""
        path = disk
        for _ in range(3):
            dying = make(path)
            engine = dying.serve(A, hold=True)
            if path == disk:
                await dying.accept(A, id="killer")
            await until(partial(_runs, engine))
            path = await dying.dies()
        ground = make(path)
        ground.serve(A)
        await until(lambda: ground.told)
        assert ground.kinds() == [OutcomeKind.REFUSED]
        assert "ended 3 times while it ran" in ground.told[0][1].outcome.message
        assert (await ground.run(A)).outcome.ok

    async def test_those_beside_whom_it_died_run_one_at_a_time(
        self, make: Make, disk: Path
    ) -> None:
        """Who ran beside a killer is not taken for one: each is tried without the others."""
        first = make(disk, workers=3)
        engine = first.serve(A, hold=True)
        await first.submit(A, 3)
        await until(lambda: engine.running == 3)
        ground = make(await first.dies(), workers=3)
        again, other = ground.serve(A, hold=True), ground.serve(B)
        await until(lambda: again.running)
        assert (await ground.run(B)).outcome.ok  # who was not there is not held up
        assert again.running == 1
        again.let_go()
        await until(lambda: len(ground.told) == 4)
        assert again.running_max == 1
        assert len(other.begun) == 1

    async def test_sigterm_is_no_death(self, make: Make, disk: Path) -> None:
        """A long execution that every rollout of the operator cuts off is tried every time."""
        path = disk
        for n in range(4):
            ground = make(path, drain_s=0.01)
            engine = ground.serve(A, hold=True)
            if n == 0:
                await ground.accept(A, id="long")
            await until(partial(_runs, engine))
            cut_off = (await ground.accept(A, id="long")).finished
            assert cut_off is not None
            await ground.executions.drain()
            assert "runs again at the next start" in (await cut_off).outcome.message
            await ground.executions.close()
        ground = make(path)
        ground.serve(A)
        await until(lambda: ground.told)
        assert ground.kinds() == [OutcomeKind.COMPLETED]


async def test_history_outlives_the_process(make: Make, disk: Path) -> None:
    """What is over can be asked for after a restart, with its result, its log and its figures."""
    first = make(disk)
    first.serve(A).outcomes = [
        Outcome(OutcomeKind.FAILED, "exit code 3", 3, b"\xff result", b"a log", 1.5, 0.5, 65536)
    ]
    run = await first.run(A, id="7")
    ground = make(await first.dies())
    ground.serve(A)
    found = await ground.executions.find(A, "7")
    assert isinstance(found, Run)
    assert found.outcome == run.outcome
    assert abs((found.started - run.started).total_seconds()) < 0.001
    assert await ground.executions.log(A, "7") == b"a log"
    [brief] = await ground.executions.history(A, 10)
    assert (brief.id, brief.outcome.result, brief.outcome.log) == ("7", b"\xff result", b"")
