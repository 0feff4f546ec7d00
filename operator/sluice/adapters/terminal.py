"""A fleet on a terminal: progress on stderr while it works, results on stdout at the end.

The log's lines tell of each step; where stderr is a terminal, a live table stands below them.
"""

import asyncio
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sluice.snapshot import Run, Snapshot, Verdict
from sluice.status import duration_text
from sluice.workflow import WorkflowKey

_ROWS_MAX = 20
_RESULT_CHARS_MAX = 60
_WIDE, _FILE_WIDTH = 100, 100_000
_COLUMNS = ("NAMESPACE", "NAME", "READY", "REASON", "OUTCOME", "TOOK", "RESULT")
_EXECUTION_COLUMNS = ("ID", "TRIGGER", "STARTED", "TOOK", "OUTCOME", "RESULT")
_COLUMNS_NARROW = ("NAMESPACE/NAME", "OUTCOME", "RESULT")


class Terminal:
    """A ``snapshot.Reporter`` that shows where all stand, and knows when all are settled."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._console = Console(stderr=True)
        self._snapshots: dict[WorkflowKey, Snapshot] = {}
        self._unsettled: set[WorkflowKey] = set()
        self._moved = asyncio.Event()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._table,
                console=self._console,
                refresh_per_second=8,
                transient=True,
                redirect_stderr=True,
                redirect_stdout=False,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def expect(self, keys: Iterable[WorkflowKey]) -> None:
        """Wait for these in ``all_settled``: each counts once, however often it tries again."""
        self._unsettled.update(keys)

    def changed(self, snapshot: Snapshot) -> None:
        self._snapshots[snapshot.key] = snapshot
        if snapshot.settled:
            self._unsettled.discard(snapshot.key)
            self._moved.set()

    def gone(self, key: WorkflowKey) -> None:
        self._snapshots.pop(key, None)
        self._unsettled.discard(key)
        self._moved.set()

    def event(self, snapshot: Snapshot, note: Verdict) -> None:
        """Do nothing: the log has told of it already."""

    def rollout(self, _: Verdict) -> None:
        """Look up: the log has told of it already."""

    async def all_settled(self) -> None:
        """Return once every workflow that is expected was ready, suspended or failed."""
        while self._unsettled:
            self._moved.clear()
            await self._moved.wait()

    def results(self, snapshots: Sequence[Snapshot], runs: Mapping[WorkflowKey, Run]) -> None:
        """Print each workflow and what its run gave: a table, or JSON for programs."""
        if self._live:
            self._live.stop()
        if self._output == "json":
            told = [_as_json(s, runs.get(s.key)) for s in snapshots]
            # Bytes, since JSON is UTF-8 whatever the terminal's own encoding is.
            sys.stdout.buffer.write(json.dumps(told, indent=2, ensure_ascii=False).encode() + b"\n")
            return
        _print(_results_table(snapshots, runs, _width()))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("NAMESPACE/NAME", "READY", "REASON", "MESSAGE"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        # What moves or is wrong is what one looks for.
        shown = sorted(self._snapshots.values(), key=lambda s: (s.ready.ok, s.key))
        for s in shown[:_ROWS_MAX]:
            table.add_row(str(s.key), str(s.ready.ok), s.ready.reason, _plain(s.ready.message))
        if len(shown) > _ROWS_MAX:
            ready = sum(s.ready.ok for s in shown)
            table.add_row(f"… {len(shown)} in all, {ready} ready")
        return table


def _width() -> int:
    # No terminal, no width: each row is one line, whole, for grep and for a log.
    return Console().width if sys.stdout.isatty() else _FILE_WIDTH


def _print(table: Table) -> None:
    if sys.stdout.isatty():
        Console().print(table)
        return
    text = io.StringIO()
    Console(file=text, width=_FILE_WIDTH).print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _results_table(
    snapshots: Sequence[Snapshot], runs: Mapping[WorkflowKey, Run], width: int
) -> Table:
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS if wide else _COLUMNS_NARROW:
        table.add_column(column, no_wrap=column != "RESULT", overflow="fold")
    for s in snapshots:
        run = runs.get(s.key)
        outcome, took, result = ("", "", s.ready.message) if run is None else _told(run)
        text = _plain("" if run is None and s.ready.ok else result)
        if wide:
            ready = str(s.ready.ok)
            table.add_row(s.key.namespace, s.key.name, ready, s.ready.reason, outcome, took, text)
        else:
            table.add_row(str(s.key), outcome or s.ready.reason, text)
    return table


def _told(run: Run) -> tuple[str, str, str]:
    outcome = run.outcome
    if not outcome.ok:
        return str(outcome.kind), duration_text(outcome.duration_s), outcome.message
    text = _shortened(outcome.result.decode(errors="replace"))
    return str(outcome.kind), duration_text(outcome.duration_s), text


def _shortened(result: str) -> str:
    text = " ".join(result.split())
    return text if len(text) <= _RESULT_CHARS_MAX else text[: _RESULT_CHARS_MAX - 1] + "…"


def executions_table(executions: Sequence[Mapping[str, Any]]) -> None:
    """Print what the admin's API has told; plain lines where it is no terminal."""
    table = Table(box=None, pad_edge=False)
    for column in _EXECUTION_COLUMNS:
        table.add_column(column, no_wrap=column != "RESULT", overflow="fold")
    for one in executions:
        id_, trigger = _plain(one["id"]), _plain(one["trigger"])
        table.add_row(id_, trigger, started_text(one), *_execution_cells(one))
    _print(table)


def _execution_cells(one: Mapping[str, Any]) -> tuple[str, str, Text]:
    if one["state"] != "Finished":
        again = f"attempt {one['attempt']}" if one["attempt"] > 1 else ""
        return "", one["state"], Text(again)
    took = duration_text(one["durationSeconds"])
    result = one.get("result", "(bytes)") if one["outcome"] == "Completed" else one["message"]
    return took, one["outcome"], _plain(_shortened(result))


def started_text(one: Mapping[str, Any]) -> str:
    """Return when an execution began, or was accepted, by this machine's clock."""
    at = datetime.fromisoformat(one.get("started") or one["accepted"]).astimezone()
    today = at.date() == datetime.now(at.tzinfo).date()
    return f"{at:%H:%M:%S}" if today else f"{at:%Y-%m-%d %H:%M:%S}"


def log_lines(one: Mapping[str, Any]) -> Iterator[str]:
    """Yield a header and what the guest has logged, without what could steer a terminal."""
    took = duration_text(one["durationSeconds"])
    facts = (one["id"], one["trigger"], started_text(one), f"{one['outcome']} in {took}")
    yield _plain(f"==> {'  '.join(facts)} <==", words=False).plain
    for line in one["log"].splitlines():
        yield _plain(line, words=False).plain


def _plain(text: str, *, words: bool = True) -> Text:
    """Return one line without markup, and without what a guest could steer a terminal by.

    Of ``words`` one blank is enough between two; otherwise blanks are as they were.
    """
    line = " ".join(text.split()) if words else text.expandtabs()
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line))


def _as_json(snapshot: Snapshot, run: Run | None) -> dict[str, Any]:
    return {
        "namespace": snapshot.key.namespace,
        "name": snapshot.key.name,
        "ready": snapshot.ready.ok,
        "reason": str(snapshot.ready.reason),
        "message": snapshot.ready.message,
        "digest": f"sha256:{snapshot.digest}" if snapshot.digest else None,
        "executions": [] if run is None else [_run_as_json(run)],
    }


def _run_as_json(run: Run) -> dict[str, Any]:
    outcome = run.outcome
    return {
        "id": run.id,
        "trigger": run.trigger,
        "outcome": str(outcome.kind),
        "message": outcome.message,
        "exitCode": outcome.exit_code,
        "duration": round(outcome.duration_s, 6),
        "result": outcome.result.decode(errors="replace"),
        "log": outcome.log.decode(errors="replace"),
    }
