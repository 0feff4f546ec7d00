"""One thread that writes all there is to write, in as few commits as the disk is slow.

What is asked for while one commit is under way goes into the next one. So a disk that takes 2 ms
to sync bounds how soon an event is acknowledged, and not how many are.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sluice.errors import EngineRefused
from sluice.executions.tables import Left, Tables
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Told = tuple[Callable[[Any], None] | None, Any]
# Between tries of a disk that fails; whoever asks meanwhile makes a try of its own.
_RETRY_S = 1.0
# What nobody waits for goes with the next commit, or makes one of its own after so long.
_LAZY_S = 0.02
# While many executions are under way, commits are at least so far apart: each costs the interpreter
# as much as several executions, and nobody's wait is longer for it than the line already is.
_APART_S, _MANY = 0.002, 16
# Without anything to write, history still grows old.
_REST_S = 600.0
_MEASURED_S = 1.0
_SAY_AGAIN_S = 60.0
_WAL_BYTES_MAX = 16 << 20
# How long a file that another process holds is waited for, each time.
_BUSY_S = 1.0


@dataclass(eq=False, slots=True)
class Ask:
    """One thing to do in the thread, and who is told in the loop.

    ``failed`` None: it is tried until it can be done. ``reads``: it needs no transaction.
    """

    work: Callable[[Tables], Any] | None  # None: nobody wants it any more
    told: Callable[[Any], None] | None = None
    failed: Callable[[EngineRefused], None] | None = None
    reads: bool = False


class Journal:
    """A database at ``path``, or in memory where there is none.

    ``opened`` is told of what an earlier process left, once; ``failure`` says what is wrong now.
    After a failure has passed, ``healed`` is called.
    """

    def __init__(self, path: Path | None, settings: Settings, metrics: Metrics) -> None:
        self._path, self._settings, self._metrics = path, settings, metrics
        self._asked: list[Ask] = []
        self._wake = threading.Condition()
        self._lazy, self._closing, self._begun = True, False, False
        self._db: sqlite3.Connection | None = None
        self._tables: Tables | None = None
        self._recovered = False
        self._measured_at = -_MEASURED_S
        self._committed_at = 0.0
        self._said, self._say_at = False, 0.0
        self._thread = threading.Thread(target=self._work, name="sluice-journal", daemon=True)
        self.failure: str | None = None

    @property
    def durable(self) -> bool:
        """Whether what is written outlives the process."""
        return self._path is not None

    def start(
        self,
        opened: Callable[[list[Left]], None],
        healed: Callable[[], None],
        under_way: Callable[[], int],
    ) -> None:
        """Begin; ``under_way`` tells, in any thread, how many executions are not over."""
        self._loop = asyncio.get_running_loop()
        self._opened, self._healed, self._under_way = opened, healed, under_way
        self._thread.start()

    def write(
        self,
        work: Callable[[Tables], _T],
        told: Callable[[_T], None] | None = None,
        failed: Callable[[EngineRefused], None] | None = None,
        *,
        lazy: bool = False,
    ) -> Ask:
        """Do ``work`` in the next transaction and tell its result once that is on disk.

        With ``failed`` the work is given up and that is told where the disk fails; without it the
        work is tried until it is done. A ``lazy`` one waits a little for others to go with.
        """
        ask = Ask(work, told, failed)
        self._ask(ask, lazy=lazy)
        return ask

    async def read(self, work: Callable[[Tables], _T]) -> _T:
        """Return what ``work`` finds; raises EngineRefused where the disk fails."""
        return await self._answer(work, reads=True)

    async def do(self, work: Callable[[Tables], _T]) -> _T:
        """Do ``work`` in the next transaction and return its result; raises as ``read`` does."""
        return await self._answer(work, reads=False)

    async def _answer(self, work: Callable[[Tables], _T], *, reads: bool) -> _T:
        answer: asyncio.Future[_T] = self._loop.create_future()

        def told(result: _T) -> None:
            if not answer.done():
                answer.set_result(result)

        def failed(error: EngineRefused) -> None:
            if not answer.done():
                answer.set_exception(error)

        self._ask(Ask(work, told, failed, reads), lazy=False)
        return await answer

    async def close(self) -> None:
        """Write what is asked for, try once more what failed, and close the file."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _ask(self, ask: Ask, *, lazy: bool) -> None:
        with self._wake:
            self._asked.append(ask)
            if len(self._asked) == 1 or (self._lazy and not lazy):
                self._wake.notify()
            self._lazy = self._lazy and lazy

    # In the thread

    def _work(self) -> None:
        kept: list[Ask] = []
        while not self._closing or self._asked:
            kept = self._turn(kept + self._next())
        kept = kept and self._turn(kept)
        if kept:
            log.error("%s; %d ends are not on disk and run again", self.failure, len(kept))
        if self._db:
            self._db.close()

    def _next(self) -> list[Ask]:
        """Return what is asked for, once it is worth a transaction."""
        with self._wake:
            if not self._asked and not self._closing and self._begun:
                self._wake.wait(_RETRY_S if self.failure else _REST_S)
            if self._asked and self._lazy and not self._closing:
                self._wake.wait(_LAZY_S)
            self._begun = True
        self._space()
        with self._wake:
            asked, self._asked, self._lazy = self._asked, [], True
        return asked

    def _space(self) -> None:
        pause_s = self._committed_at + _APART_S - time.perf_counter()
        if pause_s > 0 and self._under_way() >= _MANY and not self._closing:
            time.sleep(pause_s)

    def _turn(self, asks: list[Ask]) -> list[Ask]:
        """Do what is asked for; return what has to be tried again."""
        if self._tables is None and not self._open():
            return self._refuse(asks)
        reads, writes = ([a for a in asks if a.reads], [a for a in asks if not a.reads])
        try:
            while reads:
                self._tell([self._result(reads[0])])
                reads.pop(0)
            if self.failure:  # a full disk may have room for what makes room
                self._commit([ask for ask in writes if ask.failed is None])
                writes = [ask for ask in writes if ask.failed]
                self._well()
            if writes or not asks:
                self._commit(writes)
        except sqlite3.Error as e:
            self._failed(e)
            return self._refuse(reads + writes)
        return []

    def _well(self) -> None:
        if self._said:
            log.info("the journal can be written again")
        self.failure, self._said = None, False
        self._metrics.journal_failing.set(0)
        self._tell([(lambda _: self._healed(), None)])

    def _commit(self, asks: list[Ask]) -> None:
        assert self._db is not None
        assert self._tables is not None
        began = time.perf_counter()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            results = [self._result(ask) for ask in asks]
            if self.failure:
                self._tables.probe()
            self._tables.trim()
            self._db.execute("COMMIT")
        except sqlite3.Error:
            self._undo()
            raise
        self._committed_at = now = time.perf_counter()
        self._metrics.journal_commits.inc()
        self._metrics.journal_commit_seconds.observe(now - began)
        if now - self._measured_at > _MEASURED_S:
            self._measured_at = now
            self._metrics.journal_bytes.set(self._tables.size_bytes())
        self._tell(results)

    def _result(self, ask: Ask) -> _Told:
        """Do one thing, and return whom to tell what."""
        assert self._tables is not None
        work = ask.work  # once: the loop may take it back at any moment
        try:
            return (ask.told, work(self._tables)) if work else (None, None)
        except sqlite3.Error:
            raise
        except Exception:
            log.exception("the journal failed inside the operator")
            return ask.failed, EngineRefused(Reason.RUN_REFUSED, "the operator's log says how")

    def _undo(self) -> None:
        assert self._db is not None
        assert self._tables is not None
        with contextlib.suppress(sqlite3.Error):  # SQLite may have done it already
            self._db.execute("ROLLBACK")
        with contextlib.suppress(sqlite3.Error):
            self._tables.undone()

    def _open(self) -> bool:
        try:
            try:
                waiting = self._connect()
            except sqlite3.Error as e:
                if not _corrupt(e):
                    raise
                self._set_aside(e)
                waiting = self._connect()
        except (sqlite3.Error, OSError) as e:
            self._failed(e)
            return False
        if not self._recovered:
            self._recovered = True
            self._tell([(self._opened, waiting)])
        return True

    def _connect(self) -> list[Left]:
        """Open the file, or make it, and return what an earlier process left in it."""
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)  # events may hold what is nobody else's business
        self._db = db = sqlite3.connect(
            self._path or ":memory:", timeout=_BUSY_S, isolation_level=None
        )
        # Exclusive: a second operator on this volume would run everything twice.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES_MAX}")
        db.execute("BEGIN IMMEDIATE")
        db.execute("COMMIT")
        ((found,),) = db.execute("PRAGMA quick_check(1)")
        if found != "ok":
            raise _Corrupt(found)
        self._tables = Tables(db, self._settings)
        db.execute("BEGIN IMMEDIATE")
        waiting = self._tables.recover()
        db.execute("COMMIT")
        return waiting

    def _failed(self, error: sqlite3.Error | OSError) -> None:
        where = self._path or "in memory"
        self.failure = f"the journal {where} cannot be used: {error}; see the operator's volume"
        self._metrics.journal_failing.set(1)
        now = time.monotonic()
        if now > self._say_at:  # where small writes fit and large ones do not, it comes and goes
            self._said, self._say_at = True, now + _SAY_AGAIN_S
            log.error("%s; no execution is accepted or begun until it can", self.failure)
        if isinstance(error, sqlite3.Error) and _passing(error) and self._tables:
            return
        if self._db:
            self._db.close()
        self._db = self._tables = None
        if isinstance(error, sqlite3.Error) and _corrupt(error):
            with contextlib.suppress(OSError):
                self._set_aside(error)

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Move a file that is no database out of the way; one is kept, for whoever wants to see."""
        if self._db:
            self._db.close()
        self._db = self._tables = None
        assert self._path is not None
        aside = f"{self._path}.corrupt"
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").replace(f"{aside}{suffix}")
        log.error(
            "the journal %s is corrupt (%s): it was set aside as %s and a new one is begun; what "
            "waited in it is lost", self._path, error, aside,
        )  # fmt: skip

    def _refuse(self, asks: list[Ask]) -> list[Ask]:
        """Tell those who can be told; return the others, which have to be tried again."""
        error = EngineRefused(Reason.RUN_REFUSED, self.failure or "")
        self._tell([(ask.failed, error) for ask in asks])
        return [ask for ask in asks if ask.failed is None]

    def _tell(self, told: list[_Told]) -> None:
        if told := [one for one in told if one[0]]:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left
                self._loop.call_soon_threadsafe(_tell, told)


class _Corrupt(sqlite3.DatabaseError):
    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _corrupt(error: sqlite3.Error) -> bool:
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _passing(error: sqlite3.Error) -> bool:
    """Whether the open file is good, and only its disk is full or held by somebody."""
    return _code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY}


def _tell(told: list[_Told]) -> None:
    for tell, result in told:
        assert tell is not None
        try:
            tell(result)
        except Exception:
            log.exception("what is on disk was not taken note of")
