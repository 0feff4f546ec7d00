"""What is kept of executions that are over: so many of each workflow, so old, so many bytes."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from functools import cache

from sluice.settings import Settings
from sluice.snapshot import Run

# What goes is taken away by the dozen, or each end would be paid for twice.
_SLACK = 10
_IDS_SLACK = 100
_AGE_LOOK_S = 60.0


class History:
    """The tables ``finished`` and ``remembered``, and how full they are.

    The oldest goes first, whosever it is; of one workflow there are never many.
    """

    def __init__(self, db: sqlite3.Connection, settings: Settings) -> None:
        self._db, self._settings = db, settings
        self._kept: Counter[int] = Counter()
        self._bytes = self._ids = 0
        self._full: set[int] = set()
        self._looked_at = 0.0
        self.count()

    def count(self) -> None:
        """Count what is there: at the start, and after what was counted was undone."""
        self._kept.clear()
        self._bytes = 0
        for w, runs, size in self._db.execute(
            "SELECT w, count(*), sum(bytes) FROM finished GROUP BY w"
        ):
            self._kept[w] = runs
            self._bytes += size
        self._full = {w for w in self._kept if self._is_full(w)}
        self._ids = self._db.execute("SELECT count(*) FROM remembered").fetchone()[0]

    def add(self, ends: Sequence[tuple[int, Run]], now: float) -> None:
        """Keep these ends, each with the number of its workflow."""
        kept, ids = [], []
        for w, run in ends:
            outcome = run.outcome
            size = len(outcome.result) + len(outcome.log) + len(outcome.message) + len(run.id)
            kept += [
                w, run.id, run.trigger, run.started.timestamp(), now, run.attempts,
                outcome.kind.value, outcome.message, outcome.exit_code, outcome.result, outcome.log,
                outcome.duration_s, outcome.cpu_s, outcome.memory_bytes, size,
            ]  # fmt: skip
            ids += [w, run.id]
            self._kept[w] += 1
            self._bytes += size
            if self._is_full(w):
                self._full.add(w)
        self._ids += len(ends)
        count = len(ends)
        self._db.execute("INSERT INTO finished VALUES " + _rows(count, 15), kept)  # noqa: S608
        self._db.execute("INSERT OR REPLACE INTO remembered VALUES " + _rows(count, 2), ids)  # noqa: S608

    def trim(self, now: float) -> None:
        """Take away what is over a bound, and now and then what is too old."""
        for w in self._full:
            self._drop(
                "w = ? ORDER BY seq LIMIT ?", (w, self._kept[w] - self._settings.history_max)
            )
        self._full.clear()
        while self._bytes > self._settings.history_bytes_max:
            self._drop("1 ORDER BY seq LIMIT ?", (1,))
        if now - self._looked_at > _AGE_LOOK_S:
            self._looked_at = now
            self._drop("ended < ?", (now - self._settings.history_age_s,))
        if self._ids > self._settings.ids_remembered_max + _IDS_SLACK:
            self._forget_ids()

    def _is_full(self, w: int) -> bool:
        return self._kept[w] >= self._settings.history_max + _SLACK

    def _drop(self, which: str, parameters: tuple[float, ...]) -> None:
        gone = self._db.execute(
            f"SELECT seq, w, bytes FROM finished WHERE {which}",  # noqa: S608 - written above
            parameters,
        ).fetchall()
        for seq, w, size in gone:
            self._db.execute("DELETE FROM finished WHERE seq = ?", (seq,))
            self._kept[w] -= 1
            self._bytes -= size

    def _forget_ids(self) -> None:
        made = self._db.execute(
            "DELETE FROM remembered WHERE seq IN (SELECT seq FROM remembered ORDER BY seq LIMIT ?)",
            (self._ids - self._settings.ids_remembered_max,),
        )
        self._ids -= made.rowcount


@cache
def _rows(count: int, columns: int) -> str:
    """Return the places of so many rows whose first column, the number, is the database's."""
    return ",".join(["(NULL" + ",?" * columns + ")"] * count)
