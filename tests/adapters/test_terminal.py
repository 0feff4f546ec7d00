"""What `sluice run` shows: results on stdout, progress on stderr, as a terminal or a file wants."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from ground.manifests import Writing, distinct, write
from sluice.adapters.terminal import Terminal
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.snapshot import Run, Snapshot, Verdict
from sluice.workflow import WorkflowKey

OK = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "{\\"ok\\":true}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 11))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
TRAP = '(module (memory (export "memory") 1) (func (export "_start") unreachable))'
CRON = {"name": "yearly", "cron": {"schedule": "0 0 1 1 *"}}
STARTUP = {"name": "now", "startup": {}}


def snapshot(name: str, verdict: Verdict) -> Snapshot:
    return Snapshot(
        key=WorkflowKey("team", name), uid=name, generation=1, digest="ab" * 32, ready=verdict,
        admitted=verdict, source=verdict, serving=None, runs=(), handled_run_at=None,
    )  # fmt: skip


def run(result: bytes, kind: OutcomeKind = OutcomeKind.COMPLETED, message: str = "") -> Run:
    outcome = Outcome(kind, message, result=result, duration_s=0.0412)
    return Run("1", "manual", datetime(2026, 1, 1, tzinfo=UTC), outcome)


SERVING = Verdict(True, Reason.SERVING, "serving")
STARTING = Verdict(False, Reason.STARTING, "reading")
BROKEN = Verdict(False, Reason.DIGEST_MISMATCH, "the parts are others\n" + "and so on " * 30)


def shown(capsys: pytest.CaptureFixture[str], runs: Mapping[str, Run]) -> list[str]:
    snapshots = [snapshot("bad", BROKEN), snapshot("good", SERVING)]
    by_key = {WorkflowKey("team", name): run for name, run in runs.items()}
    Terminal("table").results(snapshots, by_key)
    return capsys.readouterr().out.splitlines()


def test_in_a_file_each_workflow_is_one_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nothing is wrapped or cut: grep finds the whole reason."""
    header, bad, good = shown(capsys, {"good": run(b'{"a": 1}\n')})
    assert header.split() == ["NAMESPACE", "NAME", "READY", "REASON", "OUTCOME", "TOOK", "RESULT"]
    assert bad.split()[:4] == ["team", "bad", "False", "DigestMismatch"]
    assert bad.endswith("and so on")
    assert good.split() == [
        "team", "good", "True", "Serving", "Completed", "41ms", '{"a":', "1}",
    ]  # fmt: skip
    assert header.index("RESULT") == good.index('{"a"')


@pytest.mark.parametrize(("run_", "last"), [
    (run(b"x" * 60), "x" * 60),
    (run(b"x" * 61), "x" * 59 + "…"),
    (run(b"[red]b[/]"), "[red]b[/]"),
    (run(b"\x1b[31mred\x9b\xff"), "�[31mred��"),
    (run(b"x", OutcomeKind.TRAPPED, "wasm trap: unreachable"), "wasm trap: unreachable"),
])  # fmt: skip
def test_a_result_in_the_table(capsys: pytest.CaptureFixture[str], run_: Run, last: str) -> None:
    """A result is cut to a line's worth, is never markup, and cannot steer the terminal."""
    assert shown(capsys, {"good": run_})[2].endswith(f"  {last}")


async def test_each_workflow_is_awaited_once() -> None:
    """One that fails and tries again is settled: the others' results do not wait for it."""
    terminal = Terminal("table")
    terminal.expect([WorkflowKey("team", "bad"), WorkflowKey("team", "good")])
    terminal.changed(snapshot("bad", BROKEN))
    terminal.changed(snapshot("bad", STARTING))
    terminal.changed(snapshot("good", STARTING))
    assert terminal._unsettled == {WorkflowKey("team", "good")}
    terminal.changed(snapshot("good", SERVING))
    await terminal.all_settled()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return manifests of a workflow for each way in which one can end."""
    ok, trap = (bytes(wasmtime.wat2wasm(text)) for text in (OK, TRAP))
    broken = write(distinct(ok, 1), Writing(name="broken", encoded=b"no stream at all"))
    for written in (
        write(ok, Writing(name="good")),
        write(trap, Writing(name="traps")),
        broken,
        write(ok, Writing(name="quiet", spec={"triggers": [CRON]})),
        write(ok, Writing(name="rests", spec={"suspend": True})),
        write(trap, Writing(name="begins", spec={"triggers": [STARTUP]})),
    ):
        name = written.workflow["metadata"]["name"]
        (tmp_path / f"{name}.yaml").write_text(written.text())
    return tmp_path


def once(folder: Path, *names: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    files = [str(folder / f"{name}.yaml") for name in names]
    data = folder / "data"
    return subprocess.run(
        [sys.executable, "-m", "sluice", "run", "--once", f"--data-dir={data}", *files,
         *options.pop("flags", [])],
        stdin=subprocess.DEVNULL, text=True, check=False, timeout=60,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )  # fmt: skip


@pytest.mark.parametrize(("names", "code"), [
    (["good", "quiet", "rests"], 0), (["good", "traps"], 1), (["good", "broken"], 1),
    (["begins", "good"], 1),
])  # fmt: skip
def test_the_exit_code_tells_whether_all_is_well(folder: Path, names: list[str], code: int) -> None:
    """A start or a run that failed is 1; one that is suspended or has nothing to run is not."""
    done = once(folder, *names)
    assert done.returncode == code, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == sorted(names)
    assert "Traceback" not in done.stderr
    for words in {"traps": "Trapped", "broken": "StreamCorrupt", "begins": "Trapped"}.items():
        if words[0] in names:
            assert words[1] in next(line for line in lines if words[0] in line)


def test_json_is_for_programs(folder: Path) -> None:
    """Every workflow with what became of it, and nothing else on stdout, in any locale."""
    done = once(
        folder, "good", "traps", "broken", "quiet", "rests", flags=["--output=json"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    told = {item["name"]: item for item in json.loads(done.stdout)}
    assert sorted(told) == ["broken", "good", "quiet", "rests", "traps"]
    for item in told.values():
        assert {"namespace", "name", "ready", "reason", "message", "digest", "executions"} == set(
            item
        )
        assert item["namespace"] == "default"
        assert re.fullmatch("sha256:[0-9a-f]{64}", item["digest"])
    (run,) = told["good"]["executions"]
    assert (run["outcome"], run["result"]) == ("Completed", '{"ok":true}')
    assert 0 < run["duration"] < 60
    assert told["traps"]["executions"][0]["outcome"] == "Trapped"
    assert (told["broken"]["ready"], told["broken"]["reason"]) == (False, "StreamCorrupt")
    assert "broken-0" in told["broken"]["message"]
    assert told["rests"]["reason"] == "Suspended"
    for name in ("broken", "quiet", "rests"):
        assert told[name]["executions"] == []


def on_terminal(folder: Path, columns: int, *names: str) -> tuple[str, str]:
    """Run with both outputs on a terminal of that width; return what it was sent, and the code."""
    us, them = pty.openpty()
    files = [str(folder / f"{name}.yaml") for name in names]
    with subprocess.Popen(
        [sys.executable, "-m", "sluice", "run", "--once", f"--data-dir={folder}/data", *files],
        stdin=subprocess.DEVNULL, stdout=them, stderr=them,
        env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(them)
        sent = b""
        try:
            while piece := os.read(us, 4096):
                sent += piece
        except OSError:
            pass  # the other end is closed: a terminal's end of file
        os.close(us)
    return sent.decode(), str(process.returncode)


@pytest.mark.parametrize("columns", [60, 160])
def test_a_terminal_shows_where_all_stand(folder: Path, columns: int) -> None:
    """A live table stands below the log while it works; the results keep to the width."""
    sent, code = on_terminal(folder, columns, "good", "broken")
    assert code == "1"
    assert "NAMESPACE/NAME" in sent
    assert "\x1b[?25l" in sent
    assert sent.rindex("\x1b[?25h") < sent.rindex("RESULT")
    results = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent[sent.rindex("RESULT") :]).splitlines()
    assert any("good" in line for line in results)
    assert any("broken" in line for line in results)
    assert max(map(len, results)) <= columns


def test_without_a_terminal_there_are_plain_lines(folder: Path) -> None:
    """In a pipe the progress is the log: no escape sequence, no table, nothing at a line's end."""
    done = once(folder, "good")
    assert "\x1b" not in done.stderr + done.stdout
    assert "NAMESPACE/NAME" not in done.stderr
    for line in done.stderr.splitlines():
        assert line.startswith("timestamp=")
        assert not line.endswith((" ", ' "'))
