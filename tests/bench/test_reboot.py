"""The bench as somebody types it: real processes, small workflows, figures that must agree."""

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from ground.manifests import Writing, distinct, write
from ground.waiting import WaitUntil
from guests.build import guest
from sluice.bench.inputs import Inputs, gather
from sluice.bench.sampler import Sampler, Tree
from sluice.errors import WorkflowInvalid
from sluice.settings import MIB

WORKFLOWS = 5
ALL = "naive,early-release,compiles-alone,sluice,sluice-optimizing"
LABELS = ["naive", "early-release", "compiles-alone", "sluice cold", "sluice warm",
          "sluice-optimizing cold", "sluice-optimizing warm"]  # fmt: skip
# One long function: its compile takes seconds wherever the tests run.
HEAVY = '(module (memory (export "memory") 1) (func (export "_start")) {})'

one_run = pytest.mark.xdist_group("bench")  # made once, looked at by several tests
Bench = Callable[..., "subprocess.CompletedProcess[str]"]
Begin = Callable[..., "subprocess.Popen[str]"]


def heavy() -> bytes:
    body = "".join(
        f"(i32.store offset={4 * i} (local.get 0) (i32.mul (i32.load (local.get 0)) "
        f"(i32.const {i})))"
        for i in range(60)
    )
    return bytes(wasmtime.wat2wasm(HEAVY.format(f"(func (param i32) {body})" * 4000)))


def put(folder: Path, name: str, wasm: bytes, **how: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(write(wasm, Writing(name=name, **how)).text())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two workflows of different make."""
    folder = tmp_path_factory.mktemp("workflows")
    put(folder, "echo", guest("echo"), parts=2)
    put(folder, "acts", guest("acts"), encoding="none")
    return folder


def environment(home: Path) -> dict[str, str]:
    kept = {k: os.environ[k] for k in ("PATH", "LANG") if k in os.environ}
    return kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}


def left(home: Path) -> list[Path]:
    return list((home / "cache" / "sluice").glob("bench-*"))


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "sluice", "bench", "reboot", *map(str, args)]


def bench_in(home: Path, *args: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(*args), cwd=home, env=environment(home), capture_output=True,
                          text=True, timeout=120, check=False)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return lambda *args: bench_in(tmp_path, *args)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    begun: list[subprocess.Popen[str]] = []

    def start(*args: str | Path) -> "subprocess.Popen[str]":
        begun.append(
            subprocess.Popen(command(*args), cwd=tmp_path, env=environment(tmp_path),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )  # fmt: skip
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def told(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One whole run: what it said as JSON, and the chart it drew."""
    home = tmp_path_factory.mktemp("home")
    done = bench_in(
        home, small, f"--workflows={WORKFLOWS}", "--subscribe-wait=0.1", f"--strategies={ALL}",
        "--memory-limit=256Mi", "--output=json", "--chart=chart.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report | {"chart": (home / "chart.png").read_bytes(), "left": left(home),
                     "stderr": done.stderr}  # fmt: skip


@one_run
def test_every_strategy_starts_them_all(told: dict[str, Any]) -> None:
    """Each strategy gets the same workflows ready, and is measured while it does."""
    assert told["workflows"] == WORKFLOWS
    assert [s["strategy"] for s in told["strategies"]] == LABELS
    for strategy in told["strategies"]:
        assert (strategy["ready"], strategy["failed"], strategy["died"]) == (WORKFLOWS, 0, None)
        assert 0 < strategy["anonymousBytesAtPeak"] < strategy["peakBytes"] < 2048 * MIB
        assert 0 < strategy["afterBytes"] <= strategy["peakBytes"]
        assert strategy["samples"]["count"] >= 5
        ours = strategy["strategy"].startswith("sluice")
        assert strategy["optimised"] == (WORKFLOWS if ours else 0)
        if strategy["strategy"] != "compiles-alone":
            assert strategy["wallSeconds"] >= told["subscribeWaitSeconds"]


@one_run
def test_our_compiles_are_children_and_theirs_are_not(told: dict[str, Any]) -> None:
    """A cold start of ours is measured with its compile children; a warm one has none."""
    processes = {s["strategy"]: s["samples"]["processesMax"] for s in told["strategies"]}
    assert processes["naive"] == processes["early-release"] == processes["sluice warm"] == 1
    assert processes["sluice cold"] == processes["sluice-optimizing cold"] == 2


@one_run
def test_ratios_come_from_the_figures_beside_them(told: dict[str, Any]) -> None:
    """Whoever divides the figures of the report by hand finds its ratios."""
    by_name = {s["strategy"]: s for s in told["strategies"]}
    early = by_name["early-release"]
    found = {(r["strategy"], r["measure"], r["of"]): r["value"] for r in told["ratios"]}
    for label in LABELS[3:]:
        ours = by_name[label]
        peak = found[label, "peak", "the peak of early-release"]
        assert peak == pytest.approx(ours["peakBytes"] / early["peakBytes"], abs=1e-4)
        wall = found[label, "all ready in", "the wall of early-release"]
        assert wall == pytest.approx(ours["wallSeconds"] / early["wallSeconds"], abs=0.01)
    waits = found["sluice warm", "all ready in", "its subscription waits"]
    assert waits == pytest.approx(by_name["sluice warm"]["wallSeconds"] / 0.1, rel=0.02)


@one_run
def test_advice_names_a_limit_that_holds_what_was_measured(told: dict[str, Any]) -> None:
    """Below the high watermark of the advised limit fit the peak, and the largest compile."""
    words = told["advice"].split()
    limit, largest = int(words[words.index("of") + 1]) * MIB, int(words[-2]) * MIB
    cold = [s for s in told["strategies"] if s["strategy"].endswith(" cold")]
    needed = max(max(s["peakBytes"], s["afterBytes"] + largest) for s in cold)
    assert needed - MIB <= min(limit * 0.8, limit - 16 * MIB) < needed + 32 * MIB
    assert 0 < largest < needed


@one_run
def test_the_chart_is_a_picture(told: dict[str, Any]) -> None:
    """--chart writes a PNG that is large enough to read."""
    chart = told["chart"]
    assert chart[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", chart[16:24])
    assert (width, height) >= (1000, 600)
    assert len(chart) > 20_000


@one_run
def test_a_run_clears_up_and_tells_its_stages(told: dict[str, Any]) -> None:
    """Nothing is left on disk; without a terminal progress is a line a stage, on stderr."""
    assert told["left"] == []
    assert told["stderr"].splitlines() == ["sluice: preparing", *[f"sluice: {x}" for x in LABELS]]


def test_the_table_of_a_users_own_workflows(bench: Bench, small: Path) -> None:
    """Given a folder alone, its workflows are taken as they are; the table ends with advice."""
    done = bench(small, "--subscribe-wait=0", "--strategies=sluice")
    assert done.returncode == 0, done.stderr
    head, cold, warm, *rest = done.stdout.splitlines()
    assert head.startswith("strategy")
    assert (cold.split()[:2], warm.split()[:2]) == (["sluice", "cold"], ["sluice", "warm"])
    assert cold.split()[6] == warm.split()[6] == "2"
    assert rest[-1].startswith("for these workflows a limit of ")


def test_one_that_cannot_start_is_told_and_the_others_measured(bench: Bench, small: Path,
                                                               tmp_path: Path) -> None:  # fmt: skip
    """A module that no compiler takes fails in every strategy, by its name, with exit code 1."""
    folder = tmp_path / "mixed"
    put(folder, "broken", b"\0asm\1\0\0\0\7\7")
    put(folder, "good", guest("echo"))
    done = bench(folder, "--subscribe-wait=0", "--strategies=naive,sluice", "--output=json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert {s["ready"] for s in report["strategies"]} == {1}
    assert {s["failed"] for s in report["strategies"]} == {1}
    assert all(": broken: " in line for line in report["failures"])


def test_copies_differ_in_a_custom_section_alone(small: Path, tmp_path: Path) -> None:
    """--workflows makes distinct modules that are what they were made from."""
    inputs = gather(small, 4, tmp_path, real_only=False, told=lambda *_: None)
    assert len({one.digest for one in inputs.all}) == 4
    first, copy = inputs.all[0], inputs.all[2]
    assert copy.name == f"{first.name}-1"
    assert copy.size == first.size + 23
    assert [len(inputs.texts(one)) for one in Inputs(tmp_path).all] == [1] * 4


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    """Two workflows with one module stay two, unless copies are asked for."""
    put(tmp_path / "twins", "one", guest("echo"))
    put(tmp_path / "twins", "two", guest("echo"))
    (tmp_path / "out").mkdir()

    def digests(workflows: int | None) -> list[str]:
        inputs = gather(tmp_path / "twins", workflows, tmp_path / "out", real_only=False,
                        told=lambda *_: None)  # fmt: skip
        return [one.digest for one in inputs.all]

    same = digests(None)
    assert len(same) == 2
    assert len(set(same)) == 1
    assert len(set(digests(2))) == 2


def test_examples_that_are_too_small_tell_nothing(small: Path, tmp_path: Path) -> None:
    """Without a folder of one's own only modules of a real size are measured."""
    put(tmp_path / "examples", "large", distinct(guest("report"), 1))
    put(tmp_path / "examples", "little", guest("echo"))
    (tmp_path / "out").mkdir()
    inputs = gather(tmp_path / "examples", None, tmp_path / "out", real_only=True,
                    told=lambda *_: None)  # fmt: skip
    assert [one.name for one in inputs.all] == ["large"]
    with pytest.raises(WorkflowInvalid, match="no Workflow of at least 700,000 bytes"):
        gather(small, None, tmp_path / "out", real_only=True, told=lambda *_: None)


@pytest.mark.parametrize(("args", "code", "says"), [
    ([], 2, "there is no ./examples here; give a DIR"),
    (["nowhere"], 2, "does not exist"),
    (["."], 3, "there is no Workflow of sluice.dev/v1alpha1 in it"),
    ([".", "--strategies=naive,nave"], 2, '"nave" is none of naive, early-release'),
    ([".", "--memory-limit=lots"], 2, '"lots" is no quantity'),
    ([".", "--memory-limit=0"], 2, "must be more than 0"),
    ([".", "--workflows=0"], 2, "not in the range"),
    ([".", "--chart=no/where.png"], 2, "no/where.png is no .png in a directory that exists"),
    ([".", "--chart=chart.jpg"], 2, "chart.jpg is no .png"),
])  # fmt: skip
def test_a_mistake_is_told_before_anything_is_measured(
    bench: Bench, args: list[str], code: int, says: str
) -> None:
    """Whatever is wrong with the words or the folder: one message, no traceback, no output."""
    done = bench(*args)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_without_matplotlib_a_chart_is_refused_at_once(tmp_path: Path) -> None:
    """Who lacks the extra is told its name, not after minutes, and can measure without."""
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'matplotlib' else find(name, *a)\n"
        "from sluice.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", "reboot", ".", "--chart=x.png"], cwd=tmp_path,
        env=environment(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "--chart" in last
    assert last.endswith("needs matplotlib: pip install 'sluice-operator[bench]'")


def compiling(process: "subprocess.Popen[str]") -> list[int]:
    """Return the whole tree once a compile child is in it."""
    pids = Tree(process.pid).pids()
    return pids if len(pids) == 3 else []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130),
                                              (signal.SIGKILL, -signal.SIGKILL)])  # fmt: skip
def test_an_end_amid_a_compile_leaves_nothing_running(
    begin: Begin, tmp_path: Path, wait_until: WaitUntil, number: int, code: int
) -> None:
    """SIGTERM, which is a Ctrl-C here, or a kill: every process of the tree is gone."""
    put(tmp_path / "slow", "slow", heavy())
    process = begin(tmp_path / "slow", "--strategies=sluice")
    pids = wait_until(lambda: compiling(process), 30, "a compile child")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10, "their end")
    assert number == signal.SIGKILL or left(tmp_path) == []


def test_a_strategy_that_is_killed_is_a_result(
    begin: Begin, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Where memory ends one strategy, the report says how it ended, and the rest is measured."""
    put(tmp_path / "slow", "slow", heavy())
    process = begin(tmp_path / "slow", "--strategies=sluice", "--subscribe-wait=0",
                    "--output=json")  # fmt: skip
    _, child, _ = wait_until(lambda: compiling(process), 30, "a compile child")
    os.kill(child, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    cold, warm = json.loads(out)["strategies"]
    assert cold["died"] == "ended with SIGKILL: no output"
    assert (cold["ready"], warm["ready"], warm["died"]) == (0, 1, None)


def test_memory_is_that_of_the_whole_tree_and_of_the_living(wait_until: WaitUntil) -> None:
    """What a grandchild holds counts while it lives, and what both map counts once."""
    holder = "held = bytearray(96 << 20); print(flush=True); input()"
    parent = (
        "import subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, '-c', {holder!r}], stdin=subprocess.PIPE); "
        "input(); p.stdin.close(); p.wait(); print(flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    with process, Sampler(process.pid) as sampler:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        grown = wait_until(
            lambda: [s for s in list(sampler.samples) if s.anonymous > 96 * MIB], 10, "growth"
        )
        assert grown[0].processes == 2
        assert grown[0].anonymous < grown[0].total < 140 * MIB
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        alone = wait_until(
            lambda: [s for s in list(sampler.samples)[-1:] if s.processes == 1], 10, "its end"
        )
        assert alone[0].total < 40 * MIB
        process.stdin.close()
    assert Tree(process.pid).read().processes == 0
