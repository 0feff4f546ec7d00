"""Killed by SIGKILL at any moment: nothing accepted is lost, nothing that is over runs again.

``SLUICE_PROOF=1`` makes it ten thousand events and a hundred kills.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_VICTIM = Path(__file__).with_name("victim.py")
_PROOF = bool(os.environ.get("SLUICE_PROOF"))
_SEED = 6
_EVENTS, _KILLS = (10_000, 100) if _PROOF else (500, 5)


@dataclass
class Ledger:
    """What all processes said, in order."""

    acknowledged: set[str] = field(default_factory=set)
    begun: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    over: set[str] = field(default_factory=set)  # ends that were on disk when a process began

    def note(self, line: str) -> None:
        word, id_ = line.split()
        if word == "A":
            self.acknowledged.add(id_)
        elif word == "B":
            assert id_ not in self.over, f"{id_} ran again although its end was on disk"
            assert id_ not in self.told, f"{id_} ran again although its end was told"
            self.begun.append(id_)
        else:
            self.told.append(id_)


class Disk:
    """The journal's files between two lives."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ids(self, table: str) -> set[str]:
        """Return the ids in a table, from a copy: to look is to change nothing."""
        copy = self.path.with_name("looked-at.db")
        for suffix in ("", "-wal"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
            if Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        with sqlite3.connect(copy) as db:
            rows = db.execute(f"SELECT id FROM {table}").fetchall()  # noqa: S608
        db.close()
        return {id_ for (id_,) in rows}


def _live(data: Path, disk: Disk, ledger: Ledger, lines_max: int | None) -> int:
    """Let one process live until it has said so many lines, or to its end; return its code."""
    unsent = sorted({f"{n}" for n in range(_EVENTS)} - ledger.acknowledged, key=int)
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        [sys.executable, str(_VICTIM), str(data), str(disk.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": path},
    ) as victim:  # fmt: skip
        assert victim.stdin is not None
        assert victim.stdout is not None
        victim.stdin.write(" ".join(unsent))
        victim.stdin.close()
        for n, line in enumerate(victim.stdout):
            ledger.note(line)
            if n == lines_max:
                victim.kill()
    return victim.returncode


def test_a_killed_operator_loses_nothing(tmp_path: Path) -> None:
    """Every acknowledged event has one end; none whose end was on disk was begun again."""
    chance, ledger, disk = random.Random(_SEED), Ledger(), Disk(tmp_path / "executions.db")
    data = tmp_path / "data"
    for _ in range(_KILLS):
        lines_max = chance.randrange(3 * _EVENTS // _KILLS)
        assert _live(data, disk, ledger, lines_max) == -9
        ledger.over = disk.ids("remembered")
        lost = ledger.acknowledged - ledger.over - disk.ids("accepted")
        assert not lost, f"acknowledged and not on disk: {sorted(lost)}"
        assert set(ledger.told) <= ledger.over
    assert _live(data, disk, ledger, None) == 0
    assert disk.ids("remembered") == {f"{n}" for n in range(_EVENTS)}
    assert disk.ids("accepted") == set()
    assert len(ledger.told) == len(set(ledger.told))
    print(f"{_EVENTS} events, {_KILLS} kills, begun {len(ledger.begun)} times")
