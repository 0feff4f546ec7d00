"""What the journal holds, in SQL: a file of its own, for the journal is about when, not what.

``accepted`` has a row for each execution that is not over, ``finished`` the history that is kept,
``remembered`` the ids of what is over, which are kept for longer, ``cursors`` where each watch and
each schedule goes on from. All of it runs in the journal's thread, within its transactions.
"""

import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sluice.executions.history import History
from sluice.outcome import Outcome, OutcomeKind
from sluice.settings import Settings
from sluice.snapshot import Run

_SCHEMA = """
CREATE TABLE IF NOT EXISTS workflows (
  n INTEGER PRIMARY KEY, namespace TEXT NOT NULL, name TEXT NOT NULL, uid TEXT NOT NULL,
  UNIQUE (namespace, name, uid));
CREATE TABLE IF NOT EXISTS accepted (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, w INTEGER NOT NULL, id TEXT NOT NULL,
  trigger TEXT NOT NULL, event BLOB NOT NULL, at REAL NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, running INTEGER NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,
  not_before REAL NOT NULL DEFAULT 0, UNIQUE (w, id));
CREATE TABLE IF NOT EXISTS finished (
  seq INTEGER PRIMARY KEY, w INTEGER NOT NULL, id TEXT NOT NULL, trigger TEXT NOT NULL,
  started REAL NOT NULL, ended REAL NOT NULL, attempts INTEGER NOT NULL, kind TEXT NOT NULL,
  message TEXT NOT NULL, exit_code INTEGER, result BLOB NOT NULL, log BLOB NOT NULL,
  duration_s REAL NOT NULL, cpu_s REAL NOT NULL, memory_bytes INTEGER NOT NULL,
  bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS finished_of ON finished (w, id);
CREATE TABLE IF NOT EXISTS remembered (
  seq INTEGER PRIMARY KEY, w INTEGER NOT NULL, id TEXT NOT NULL, UNIQUE (w, id));
CREATE TABLE IF NOT EXISTS cursors (
  w INTEGER NOT NULL, trigger TEXT NOT NULL, cursor TEXT NOT NULL,
  PRIMARY KEY (w, trigger)) WITHOUT ROWID;
"""
# Ends in one statement: each has its own text up to here, which SQLite's Python keeps prepared.
_ENDS_MAX = 32
# One statement, where a look and an insert would be two: each gives the interpreter away and waits
# to get it back.
_ACCEPT = (
    "INSERT OR IGNORE INTO accepted (w, id, trigger, event, at) SELECT ?, ?, ?, ?, ?"
    " WHERE NOT EXISTS (SELECT 1 FROM remembered WHERE w = ? AND id = ?)"
)
_RUN = (
    "id, trigger, started, attempts, kind, message, exit_code, {result}, {log}, duration_s, cpu_s,"
    " memory_bytes FROM finished WHERE w = ?"
)
_WHOLE = _RUN.format(result="result", log="log") + " AND id = ? ORDER BY seq DESC LIMIT 1"
# SQLite's substr of no bytes is NULL.
_CUT = "coalesce(substr(result, 1, ?), x'')"
_BRIEF = _RUN.format(result=_CUT, log="x''") + " ORDER BY seq DESC LIMIT ?"


class Owner(NamedTuple):
    """One object: another of the same name, made later, is not it."""

    namespace: str
    name: str
    uid: str


class Left(NamedTuple):
    """What is told at the start of each execution that an earlier process left."""

    owner: Owner
    id: str
    trigger: str
    at: float
    attempts: int
    failures: int
    deaths: int
    not_before: float
    size: int


class Tables:
    """The statements of one open database."""

    def __init__(self, db: sqlite3.Connection, settings: Settings) -> None:
        self._db = db
        self._numbers: dict[Owner, int] = {}
        self._ends: list[tuple[int, Run]] = []  # of this transaction, not written yet
        db.executescript(_SCHEMA)
        self._history = History(db, settings)

    def undone(self) -> None:
        """Forget what was only true in a transaction that was rolled back."""
        self._numbers.clear()
        self._ends.clear()
        self._history.count()

    def size_bytes(self) -> int:
        """Return the size of the database."""
        ((pages, size),) = self._db.execute(
            "SELECT page_count, page_size FROM pragma_page_count, pragma_page_size"
        )
        return int(pages) * int(size)

    def probe(self) -> None:
        """Write what changes nothing, to see whether the disk takes it."""
        self._db.execute("PRAGMA user_version = 1")

    def trim(self) -> None:
        """Take away what is over the bounds; called once at the end of a transaction."""
        self._flush()
        self._history.trim(time.time())

    def recover(self) -> list[Left]:
        """Return what is not over, the oldest first; what was running has died once more."""
        self._db.execute("UPDATE accepted SET deaths = deaths + 1, running = 0 WHERE running = 1")
        rows = self._db.execute(
            "SELECT namespace, name, uid, id, trigger, at, attempts, failures, deaths, not_before,"
            " length(event) FROM accepted JOIN workflows ON w = n ORDER BY seq"
        )
        return [Left(Owner(*row[:3]), *row[3:]) for row in rows]

    def keep_cursor(self, owner: Owner, trigger: str, cursor: str) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)",
            (self._number(owner), trigger, cursor),
        )

    def accept(
        self, owner: Owner, id_: str, trigger: str, event: bytes, at: float, cursor: str | None
    ) -> bool:
        """Put an event on disk; False where its id was there before."""
        w = self._number(owner)
        if cursor is not None:
            self.keep_cursor(owner, trigger, cursor)
        return self._db.execute(_ACCEPT, (w, id_, trigger, event, at, w, id_)).rowcount > 0

    def begin(self, owner: Owner, id_: str, attempts: int) -> bytes | None:
        """Note that an attempt begins, and return the event; None where its row is gone."""
        self.begun(owner, id_, attempts)
        return self.event(owner, id_)

    def begun(self, owner: Owner, id_: str, attempts: int) -> None:
        self._db.execute(
            "UPDATE accepted SET running = 1, attempts = ? WHERE w = ? AND id = ?",
            (attempts, self._known(owner), id_),
        )

    def event(self, owner: Owner, id_: str) -> bytes | None:
        row = self._db.execute(
            "SELECT event FROM accepted WHERE w = ? AND id = ?", (self._known(owner), id_)
        ).fetchone()
        return row[0] if row else None

    def events(self, owner: Owner, ids: list[str]) -> list[bytes | None]:
        return [self.event(owner, id_) for id_ in ids]

    def again(
        self, owner: Owner, id_: str, attempts: int, failures: int, not_before: float
    ) -> None:
        """Note that no attempt runs now, how many there were, and when the next one may begin."""
        self._db.execute(
            "UPDATE accepted SET running = 0, attempts = ?, failures = ?, not_before = ?"
            " WHERE w = ? AND id = ?",
            (attempts, failures, not_before, self._known(owner), id_),
        )

    def finish(self, owner: Owner, run: Run) -> None:
        """Put the end in the place of the event."""
        self._ends.append((self._number(owner), run))
        if len(self._ends) == _ENDS_MAX:
            self._flush()

    def _flush(self) -> None:
        """Write the ends of this transaction: many in one statement, as each statement costs."""
        ends, self._ends = self._ends, []
        if ends:
            # Not "IN (VALUES …)", for which SQLite looks at every row.
            which = " OR ".join(["(w = ? AND id = ?)"] * len(ends))
            self._db.execute(
                f"DELETE FROM accepted WHERE {which}",  # noqa: S608 - nothing but ?
                [value for w, run in ends for value in (w, run.id)],
            )
            self._history.add(ends, time.time())

    def forget(self, owner: Owner) -> None:
        """Remove all that there is of an object."""
        self._flush()
        w = self._number(owner)
        for table in ("accepted", "finished", "remembered", "cursors"):
            self._db.execute(f"DELETE FROM {table} WHERE w = ?", (w,))  # noqa: S608 - names above
        self._db.execute("DELETE FROM workflows WHERE n = ?", (w,))
        del self._numbers[owner]
        self._history.count()

    def keep_only(self, owners: frozenset[Owner]) -> None:
        """Remove all that there is of objects that are none of ``owners``."""
        rows = self._db.execute("SELECT namespace, name, uid FROM workflows").fetchall()
        for row in rows:
            if Owner(*row) not in owners:
                self.forget(Owner(*row))

    def cursor(self, owner: Owner, trigger: str) -> str | None:
        row = self._db.execute(
            "SELECT cursor FROM cursors WHERE w = ? AND trigger = ?",
            (self._known(owner), trigger),
        ).fetchone()
        return row[0] if row else None

    def find(self, owner: Owner, id_: str) -> Run | None:
        row = self._db.execute("SELECT " + _WHOLE, (self._known(owner), id_)).fetchone()
        return _run(row) if row else None

    def page(self, owner: Owner, limit: int, result_bytes_max: int) -> list[Run]:
        """Return the newest runs without their logs, the results cut."""
        parameters = (result_bytes_max, self._known(owner), limit)
        return [_run(row) for row in self._db.execute("SELECT " + _BRIEF, parameters)]

    def _known(self, owner: Owner) -> int:
        """Return the number of an object, -1 where nothing was ever accepted for it."""
        number = self._numbers.get(owner)
        if number is None:
            row = self._db.execute(
                "SELECT n FROM workflows WHERE namespace = ? AND name = ? AND uid = ?", owner
            ).fetchone()
            number = row[0] if row else -1
        return number

    def _number(self, owner: Owner) -> int:
        number = self._known(owner)
        if number < 0:
            made = self._db.execute(
                "INSERT INTO workflows (namespace, name, uid) VALUES (?, ?, ?)", owner
            )
            assert made.lastrowid is not None
            number = made.lastrowid
        self._numbers[owner] = number
        return number


def _run(row: Sequence[Any]) -> Run:
    id_, trigger, started, attempts, kind, *outcome = row
    made = Outcome(OutcomeKind(kind), *outcome)  # in the columns' order
    return Run(id_, trigger, datetime.fromtimestamp(started, UTC), made, attempts)
