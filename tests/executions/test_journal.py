"""Accepted means on disk; a disk that fails is said, and healed from without a restart."""

import asyncio
import json
import sqlite3
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from executions.held import A, B, Ground, event, of
from fakes import until
from sluice.errors import EngineRefused
from sluice.executions.tables import Owner
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.snapshot import Run

Make = Callable[..., Ground]


async def _fill(ground: Ground, *, full: bool) -> None:
    """Make SQLite find its disk full, or large again."""
    pages = "(SELECT page_count FROM pragma_page_count)" if full else "1073741823"
    await ground.journal.read(
        lambda tables: tables._db.execute(
            f"PRAGMA max_page_count={tables._db.execute(f'SELECT {pages}').fetchone()[0]}"
        ).fetchone()
    )


async def _write(ground: Ground) -> None:
    """Hand in what does not fit into the pages that there are."""
    await ground.accept(A, "x" * 50_000)


class TestGroups:
    async def test_what_comes_during_a_commit_shares_the_next(self, make: Make, disk: Path) -> None:
        """A thousand events at once need a few syncs of the disk and not a thousand."""
        ground = make(disk, queue_max=1000)
        ground.executions.open(of(A))
        await asyncio.gather(*(ground.accept(A) for _ in range(1000)))
        assert ground.sample("sluice_journal_commits_total") < 50
        assert ground.sample("sluice_journal_bytes") > 0
        assert ground.sample("sluice_executions_waiting") == 1000

    async def test_an_acknowledged_event_is_on_disk(self, make: Make, disk: Path) -> None:
        """At the moment of the acknowledgement, and not a little later, it outlives the process."""
        ground = make(disk)
        ground.executions.open(of(A))
        accepted = await ground.accept(A)
        copy = await ground.dies()
        rows = sqlite3.connect(copy).execute("SELECT id FROM accepted").fetchall()
        assert rows == [(accepted.id,)]

    async def test_the_loop_never_waits_for_the_disk(self, make: Make, disk: Path) -> None:
        """While the disk does not answer, everything else goes on."""
        ground = make(disk)
        ground.executions.open(of(A))
        stuck, go_on = threading.Event(), threading.Event()

        def hang(_: object) -> bool:
            stuck.set()
            return go_on.wait(20)

        ground.journal.write(hang)
        await until(stuck.is_set)
        handing_in = asyncio.ensure_future(ground.accept(A))
        looking = asyncio.ensure_future(ground.executions.history(A, 1))
        await asyncio.sleep(0)
        assert not handing_in.done()
        go_on.set()
        assert (await handing_in).finished is not None
        assert await looking == []

    async def test_the_file_is_the_operators_alone(self, make: Make, disk: Path) -> None:
        """Events may hold what nobody else on the machine should read."""
        ground = make(disk)
        await ground.executions.find(A, "x")
        await ground.journal.read(lambda _: None)
        assert disk.stat().st_mode & 0o077 == 0  # noqa: ASYNC240


class TestMemory:
    async def test_what_waits_is_in_memory_by_its_id_only(self, make: Make, disk: Path) -> None:
        """Large events that wait cost the disk and not the pod; there is a bound for the rest."""
        ground = make(disk, queue_max=1000, events_memory_bytes_max=100_000)
        ground.executions.open(of(A))
        await ground.accept(A)
        tracemalloc.start()
        for _ in range(10):
            await asyncio.gather(*(ground.accept(A, "x" * 20_000) for _ in range(50)))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 100_000 + 500 * 2000  # of 10 MB

    async def test_what_is_on_disk_only_runs_as_it_was(self, make: Make, disk: Path) -> None:
        """Read back in its turn, each event is the one that was handed in, in the old order."""
        ground = make(disk, events_memory_bytes_max=1000)
        ground.executions.open(of(A))
        for n in range(50):
            await ground.accept(A, n, id=f"{n}")
        ground.serve(A)
        await until(lambda: len(ground.told) == 50)
        told = [json.loads(run.outcome.result)["data"] for _, run in ground.told]
        assert told == list(range(50))
        assert ground.executions._load.held_bytes == 0
        assert ground.executions._load.bytes == 0

    async def test_a_failure_of_our_own_loses_no_event(self, make: Make) -> None:
        """A bug in the journal's thread refuses what it was about, and the thread goes on."""
        ground = make()
        ground.serve(A)

        def fails(_: object) -> None:
            raise RuntimeError("a bug")

        with pytest.raises(EngineRefused, match="log says how"):
            await ground.journal.do(fails)
        assert (await ground.run(A)).outcome.ok


class TestFull:
    async def test_a_full_disk_refuses_and_heals(self, make: Make, disk: Path) -> None:
        """Without room nothing is accepted, and it says why; with room all goes on by itself."""
        ground = make(disk)
        ground.serve(A)
        assert (await ground.run(A)).outcome.ok
        await _fill(ground, full=True)
        with pytest.raises(EngineRefused, match="full") as caught:
            await _write(ground)
        assert caught.value.reason is Reason.RUN_REFUSED
        assert str(disk) in caught.value.message
        assert ground.sample("sluice_executions_waiting") == 0
        await _fill(ground, full=False)
        await _write(ground)
        await until(lambda: len(ground.told) == 2)

    async def test_a_disk_that_stays_full_is_one_line_in_the_log(
        self, make: Make, disk: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Small writes may fit where large ones do not: that flutters, and the log does not."""
        ground = make(disk)
        ground.serve(A)
        await _fill(ground, full=True)
        for _ in range(10):
            with pytest.raises(EngineRefused):
                await _write(ground)
            assert await ground.executions.history(A, 1) == []
        errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert len(errors) == 1
        assert "no execution is accepted or begun until it can" in errors[0]
        await _fill(ground, full=False)

    async def test_an_end_waits_for_room_and_nothing_begins_meanwhile(
        self, make: Make, disk: Path
    ) -> None:
        """What ended while the disk was full is told once it is on disk; nothing runs twice."""
        ground = make(disk, workers=1)
        engine = ground.serve(A, hold=True)
        first, second = await ground.submit(A, 2)
        await until(lambda: engine.running)
        await _fill(ground, full=True)
        with pytest.raises(EngineRefused):
            await _write(ground)
        engine.outcomes = [Outcome(OutcomeKind.COMPLETED, result=b"x" * 50_000)]
        engine.let_go()
        await until(lambda: not engine.running)
        with pytest.raises(EngineRefused):
            await _write(ground)
        assert len(engine.begun) == 1
        assert not first.done()
        assert not second.done()
        await _fill(ground, full=False)
        assert (await first).outcome.ok
        assert (await second).outcome.ok
        assert len(engine.begun) == 2

    async def test_what_makes_room_goes_before_what_needs_it(self, make: Make, disk: Path) -> None:
        """A sender that keeps trying does not keep ends from a disk that has room for them."""
        ground = make(disk, workers=1)
        engine = ground.serve(A, hold=True)
        [end] = await ground.submit(A)
        await until(lambda: engine.running)
        await _fill(ground, full=True)
        with pytest.raises(EngineRefused):
            await _write(ground)
        engine.let_go()
        while not end.done():
            with pytest.raises(EngineRefused):
                await _write(ground)
        assert (await end).outcome.ok
        await _fill(ground, full=False)


class TestBroken:
    async def test_a_file_that_another_process_holds(self, make: Make, disk: Path) -> None:
        """A second operator on the same volume accepts nothing, until the first is gone."""
        with sqlite3.connect(disk) as holder:
            holder.execute("CREATE TABLE held (x)")
            holder.commit()
            holder.execute("BEGIN EXCLUSIVE")
            ground = make(disk)
            ground.serve(A)
            with pytest.raises(EngineRefused, match="locked"):
                await ground.accept(A)
            holder.rollback()
        holder.close()
        assert (await ground.run(A)).outcome.ok

    async def test_a_folder_that_cannot_be_written(self, make: Make, tmp_path: Path) -> None:
        """Where the file cannot be made it is said, and tried again."""
        (tmp_path / "volume").write_text("in the way")
        ground = make(tmp_path / "volume" / "executions.db")
        ground.serve(A)
        with pytest.raises(EngineRefused, match="cannot be used"):
            await ground.accept(A)
        (tmp_path / "volume").unlink()
        assert (await ground.run(A)).outcome.ok

    @pytest.mark.parametrize(
        "content", [b"no database at all", b"SQLite format 3\0" + b"\7" * 5000]
    )
    async def test_a_corrupt_file_is_set_aside(
        self, make: Make, disk: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file that is none is one line in the log and kept aside; the operator works."""
        disk.write_bytes(content)  # noqa: ASYNC240
        ground = make(disk)
        ground.serve(A)
        assert (await ground.run(A)).outcome.ok
        assert Path(f"{disk}.corrupt").read_bytes() == content  # noqa: ASYNC240
        errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert len(errors) == 1
        assert "is corrupt" in errors[0]

    async def test_a_file_that_becomes_corrupt(self, make: Make, disk: Path) -> None:
        """Corruption while it runs costs what waited, which is said of each; the rest goes on."""
        ground = make(disk, workers=1, events_memory_bytes_max=1)
        engine = ground.serve(A, hold=True)
        first, second = await ground.submit(A, 2)
        await until(lambda: engine.running)

        def corrupt(tables: object) -> None:
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

        with pytest.raises(EngineRefused, match="malformed"):
            await ground.journal.do(corrupt)
        engine.let_go()
        assert (await first).outcome.ok
        lost = (await second).outcome
        assert lost.kind is OutcomeKind.REFUSED
        assert "its event is lost" in lost.message
        assert (await ground.run(A)).outcome.ok
        assert Path(f"{disk}.corrupt").exists()  # noqa: ASYNC240


class TestHistory:
    async def test_so_many_of_each_workflow_are_kept(self, make: Make) -> None:
        """The last history_max of each are there, newest first, and not many more on disk."""
        ground = make(history_max=5)
        for key in (A, B):
            ground.serve(key)
        await ground.run(B, id="b")
        for n in range(40):
            await ground.run(A, id=f"{n}")
        kept = [run.id for run in await ground.executions.history(A, 100)]
        assert kept == ["39", "38", "37", "36", "35"]
        assert [run.id for run in await ground.executions.history(B, 100)] == ["b"]
        assert await _rows(ground, "finished") < 5 + 1 + 10

    async def test_results_and_logs_are_bounded_in_all(self, make: Make) -> None:
        """Large results push out old ones, whosever they are."""
        ground = make(history_bytes_max=20_000)
        ground.serve(A)
        for n in range(30):
            await ground.run(A, "x" * 2000, id=f"{n}")
        kept = await ground.executions.history(A, 100)
        assert kept[0].id == "29"
        assert 1 <= len(kept) < 10
        assert len(kept[0].outcome.result) == ground.settings.result_bytes_max
        whole = await ground.executions.find(A, "29")
        assert isinstance(whole, Run)
        assert len(whole.outcome.result) > 2000

    async def test_what_is_old_goes(self, make: Make, disk: Path) -> None:
        """After history_age_s an end is forgotten, at the latest after a restart."""
        ground = make(disk)
        ground.serve(A)
        await ground.run(A, id="old")
        later = make(await ground.dies(), history_age_s=1e-9)
        later.serve(A)
        await later.run(A, id="new")
        assert await later.executions.find(A, "old") is None

    async def test_a_deleted_workflow_leaves_nothing(self, make: Make) -> None:
        """Its history, its ids and its cursors go with it."""
        ground = make()
        ground.serve(A)
        accepted = await ground.executions.accept(A, event(id="7"), cursor="here")
        assert accepted.finished is not None
        await accepted.finished
        assert await ground.executions.cursor(A, "now") == "here"
        ground.executions.detach(A)
        for table in ("accepted", "finished", "remembered", "cursors", "workflows"):
            assert await _rows(ground, table) == 0
        ground.serve(A)
        assert await ground.executions.cursor(A, "now") is None
        assert not (await ground.accept(A, id="7")).duplicate


class TestCursors:
    async def test_a_cursor_is_stored_whatever_becomes_of_its_event(self, make: Make) -> None:
        """A watch goes on behind what it has seen: accepted, known before, or nothing at all."""
        ground = make()
        ground.serve(A, hold=True)
        for cursor, id_ in (("1", "7"), ("2", "7")):
            await ground.executions.accept(A, event(id=id_), cursor=cursor)
            assert await ground.executions.cursor(A, "now") == cursor
        await ground.executions.keep_cursor(A, "uid-a", "now", "3")
        assert await ground.executions.cursor(A, "now") == "3"
        await ground.executions.keep_cursor(A, "another", "now", "4")
        assert await ground.executions.cursor(A, "now") == "3"

    async def test_a_refused_event_moves_no_cursor(self, make: Make) -> None:
        """What was not accepted is seen again."""
        ground = make(queue_max=1, workers=1)
        engine = ground.serve(A, hold=True)
        await ground.submit(A)
        await until(lambda: engine.running)
        await ground.submit(A)
        with pytest.raises(EngineRefused):
            await ground.executions.accept(A, event(), cursor="1")
        assert await ground.executions.cursor(A, "now") is None


async def _rows(ground: Ground, table: str) -> int:
    await ground.journal.do(lambda tables: tables.trim())
    count = f"SELECT count(*) FROM {table}"  # noqa: S608 - of the tests' own words
    return await ground.journal.read(lambda tables: int(tables._db.execute(count).fetchone()[0]))


def test_an_owner_is_an_object_and_not_a_name() -> None:
    """Another object of the same name is another owner."""
    assert Owner("team", "a", "1") != Owner("team", "a", "2")
