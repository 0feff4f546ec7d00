"""The command line as its users meet it: real processes, their exit codes, their words."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from ground.golden import matches_golden
from ground.manifests import Writing, write
from ground.waiting import wait_until

Sluice = Callable[..., "subprocess.CompletedProcess[str]"]

OK = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "{\\"ok\\":true}")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 11))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
FOREVER = '(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))'


def slow_to_compile() -> bytes:
    """Return a module that keeps a compile child busy for seconds."""
    line = (
        "(i32.store offset={0} (local.get 0) (i32.rotl (i32.mul (i32.load offset={1} "
        "(local.get 0)) (i32.const {1})) (i32.load offset={2} (local.get 0))))"
    )
    body = "".join(line.format(4 * i, 4 * i + 4, 4 * i + 8) for i in range(60))
    functions = f"(func (param i32) {body})" * 6000
    start = '(memory (export "memory") 1) (func (export "_start"))'
    return bytes(wasmtime.wat2wasm(f"(module {start} {functions})"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Be a user with an empty home, a temporary folder of their own, and no cluster."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    kept = {k: os.environ[k] for k in ("PATH", "LANG") if k in os.environ}
    return kept | {
        "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "COLUMNS": "80",
    }  # fmt: skip


@pytest.fixture
def sluice(environment: dict[str, str], tmp_path: Path) -> Sluice:
    def run(*args: str | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: PLW1510 - it is among the options
            [sys.executable, "-m", "sluice", *map(str, args)],
            **{
                "env": environment | options.pop("env", {}), "cwd": tmp_path, "timeout": 60,
                "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
                "stdin": subprocess.DEVNULL, "check": False,
            } | options,
        )  # fmt: skip

    return run


@pytest.fixture
def begin(environment: dict[str, str], tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    def start(*args: str | Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "sluice", *map(str, args)], env=environment, cwd=tmp_path,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return start


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "ok.wasm"
    path.write_bytes(wasmtime.wat2wasm(OK))
    return path


def manifest(path: Path, wasm: bytes | bytearray) -> None:
    path.write_text(write(bytes(wasm), Writing()).text())


def another_users(path: Path) -> None:
    path.mkdir()
    os.chown(path, 12345, -1)


def children(process: "subprocess.Popen[str]") -> list[int]:
    told = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/children")]
    return [int(pid) for text in told for pid in text.split()]


@pytest.mark.parametrize(
    "command",
    ["", "pack", "operator", "run", "simulate", "trigger", "executions", "logs", "status"],
)
def test_help_reads_well(sluice: Sluice, command: str) -> None:
    """What `--help` says is read by somebody before it ships: any change shows in review."""
    done = sluice(*command.split(), "--help", env={"HOME": "/home/you"})
    assert done.returncode == 0
    text = re.sub(r"(SLUICE_WORKERS;\s+default: )\d", r"\1N", done.stdout)
    matches_golden(f"cli/help{command and '-'}{command}.txt", text.replace("python -m ", ""))


def test_help_is_quick(environment: dict[str, str]) -> None:
    """The help imports none of what takes long to import."""
    code = (
        "import sys; from sluice.cli import cli\n"
        "for words in (['--help'], ['pack', '--help'], ['run', '--help']):\n"
        "    cli.main(words, standalone_mode=False)\n"
        "print('imported:', {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=True)  # fmt: skip
    imported = done.stdout.rpartition("imported:")[2]
    assert "'click'" in imported
    for heavy in ("wasmtime", "kopf", "kubernetes", "aiohttp", "rich", "yaml", "msgspec"):
        assert f"'{heavy}'" not in imported


@pytest.mark.parametrize(("options", "code", "says"), [
    (["ok.wasm"], 2, "Missing option '--name'"),
    (["nothing.wasm", "--name=x"], 2, "does not exist"),
    ([".", "--name=x"], 2, "is a directory"),
    (["ok.wasm", "--name=Hello"], 2, '"Hello" is no name of a Workflow'),
    (["ok.wasm", "--name="], 2, '"" is no name'),
    (["ok.wasm", f"--name={'a' * 64}"], 2, "at most 63"),
    (["ok.wasm", "--name=a\udcff"], 2, "is no name of a Workflow"),
    (["ok.wasm", "--name=x", "--namespace=A"], 2, '"A" is no name of a namespace'),
    (["ok.wasm", "--name=x", "--env=A"], 2, '"A" is not NAME=VALUE'),
    (["ok.wasm", "--name=x", "--arg=\udcff"], 2, "no UTF-8"),
    (["ok.wasm", "--name=x", "--part-size=1023"], 2, "not in the range"),
    (["ok.wasm", "--name=x", "--part-size=1048577"], 2, "not in the range"),
    (["ok.wasm", "--name=x", "--time-zone=Mars"], 2, "give both or none"),
    (["ok.wasm", "--name=x", "-o", "."], 2, "is a directory"),
    (["ok.wasm", "--name=x", "-o", "no/where"], 2, "no is no directory"),
    (["ok.wasm", "--name=x", "--data=invalid"], 2, "invalid is not JSON"),
    (["ok.wasm", "--name=x", "--data=deep"], 2, "deep is nested too deeply"),
    (["ok.wasm", "--name=x", "--data=nan"], 2, "nan is not JSON"),
    (["ok.wasm", "--name=x", "--data=surrogate"], 2, "surrogate is not JSON"),
    (["ok.wasm", "--name=x", "--config=invalid"], 3, "invalid is no UTF-8 text: byte 1"),
    (["ok.wasm", "--name=x", "--config=nul"], 3, "spec.config: holds a NUL"),
    (["ok.wasm", "--name=x", "--config=/dev/zero"], 3, "more than 1,048,576 bytes"),
    (["ok.wasm", "--name=x", "--cron="], 3, "spec.triggers[0].cron.schedule"),
    (["ok.wasm", "--name=x", "--memory=5Gi"], 3, "spec.limits.memory"),
    (["empty", "--name=x"], 3, "empty: is empty"),
    (["nul", "--name=x"], 3, "is not WebAssembly"),
    (["/dev/zero", "--name=x"], 3, "binary_bytes_max"),
])  # fmt: skip
def test_a_mistake_is_a_word_and_a_code(
    sluice: Sluice, module: Path, options: list[str], code: int, says: str
) -> None:
    """Whatever is handed to `pack`, the answer says what is wrong: no traceback, no output."""
    files = {
        "empty": b"", "nul": b"a\0b", "invalid": b"a\xff", "deep": b"[" * 100_000,
        "nan": b"[NaN]", "surrogate": b'"\\ud800"',
    }  # fmt: skip
    for name, content in files.items():
        (module.parent / name).write_bytes(content)
    done = sluice("pack", *options)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or done.stderr.count("\n") == 1


def test_a_byte_order_mark_is_no_part_of_json(sluice: Sluice, module: Path) -> None:
    """Data saved by an editor of Windows is the data that it shows."""
    (module.parent / "data.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    done = sluice("pack", module, "--name=x", "--data=data.json")
    assert done.returncode == 0
    assert "data:\n        a: 1" in done.stdout


def test_output_appears_whole_or_not_at_all(sluice: Sluice, module: Path) -> None:
    """A failed pack leaves the manifest of the last good one as it was."""
    target = module.parent / "x.yaml"
    assert sluice("pack", module, "--name=x", "-o", target).returncode == 0
    before = target.read_bytes()
    module.write_bytes(b"broken")
    assert sluice("pack", module, "--name=x", "-o", target).returncode == 3
    assert target.read_bytes() == before
    assert not list(module.parent.glob(".*"))


def test_output_that_is_no_file_stays_what_it_is(sluice: Sluice, module: Path) -> None:
    """`-o` on a pipe or a device writes into it; it is never replaced by a file."""
    pipe = module.parent / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    done = sluice("pack", module, "--name=x", "-o", pipe)
    reader.join(10)
    assert done.returncode == 0
    assert pipe.is_fifo()
    assert "kind: Workflow" in read[0]


@pytest.mark.parametrize("command", [["pack", "ok.wasm", "--name=x"], ["--help"]])
def test_a_full_disk_is_told(sluice: Sluice, module: Path, command: list[str]) -> None:
    """Output that did not arrive is not exit code 0."""
    with Path("/dev/full").open("w") as full:
        done = sluice(*command, stdout=full)
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_may_have_enough(sluice: Sluice, module: Path) -> None:
    """`sluice pack … | head -1` ends without a word about pipes."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = sluice("pack", module, "--name=x", stdout=pipe)
    assert done.returncode == 1
    assert "ipe" not in done.stderr.replace("pipeline", "")


@pytest.mark.parametrize("command", ["pack", "run"])
def test_an_interrupt_leaves_nothing_behind(
    begin: Callable[..., "subprocess.Popen[str]"], environment: dict[str, str], tmp_path: Path,
    command: str,
) -> None:  # fmt: skip
    """Ctrl-C amid a compile: exit code 130, the compile child gone, no file left."""
    wasm = slow_to_compile()
    (tmp_path / "slow.wasm").write_bytes(wasm)
    arguments = ["pack", "slow.wasm", "--name=slow"]
    if command == "run":
        manifest(tmp_path / "slow.yaml", wasm)
        arguments = ["run", "--once", "slow.yaml"]
    process = begin(*arguments)
    (child,) = wait_until(lambda: children(process), 30, "a compile child")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    wait_until(lambda: not Path(f"/proc/{child}").exists(), 10, "the child's end")
    left = [p for p in tmp_path.rglob("*") if p.suffix in {".part", ".cwasm"}]
    assert left + list(Path(environment["TMPDIR"]).iterdir()) == []


def test_a_guest_that_never_ends_does_not_keep_the_process(
    begin: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    """After drain_s the process ends, whatever still runs in it."""
    manifest(tmp_path / "forever.yaml", wasmtime.wat2wasm(FOREVER))
    process = begin("run", "--once", "forever.yaml", "--drain-s=0.1", "--log-level=debug")
    assert process.stderr is not None
    for line in process.stderr:
        if "serving" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err


@pytest.mark.parametrize(("setup", "says"), [
    (lambda path: path.write_text(""), "cannot be used"),
    (another_users, "belongs to user 12345"),
])  # fmt: skip
def test_a_data_directory_that_cannot_be_had(
    sluice: Sluice, tmp_path: Path, setup: Callable[[Path], object], says: str
) -> None:
    """Compiled code lies in a directory of our own, or the operator says why it does not."""
    try:
        setup(tmp_path / "data")
    except PermissionError:
        pytest.skip("only root can give a directory away")
    manifest(tmp_path / "x.yaml", wasmtime.wat2wasm(FOREVER))
    done = sluice("run", "--once", "x.yaml", "--data-dir=data")
    assert (done.returncode, done.stdout) == (3, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("flags", [["--workers=0"], ["--workers=257"], ["--drain-s=nan"],
                                   ["--drain-s=inf"], ["--starts-max=-1"]])  # fmt: skip
def test_a_bound_is_a_number_that_bounds(sluice: Sluice, flags: list[str]) -> None:
    """A flag that would bound nothing, or everything, is refused at once."""
    done = sluice("run", "--once", ".", *flags)
    assert done.returncode == 2
    assert f"{flags[0].partition('=')[0]} must be" in done.stderr


def test_a_folder_without_a_workflow_is_a_mistake(sluice: Sluice, tmp_path: Path) -> None:
    """`run --once` that would have nothing to run does not say that all is well."""
    done = sluice("run", "--once", "home")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "sluice: home: there is no Workflow of sluice.dev/v1alpha1 in it\n"


@pytest.mark.parametrize("command", [["operator", "--http-port=0"], ["trigger", "x"]])
def test_no_cluster(sluice: Sluice, command: list[str]) -> None:
    """Without a KUBECONFIG the exit code is 4, and the last line says what to do."""
    done = sluice(*command)
    assert done.returncode == 4
    assert "set KUBECONFIG" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_no_answer_from_the_cluster(sluice: Sluice, tmp_path: Path) -> None:
    """An API server that does not listen is exit code 4, by its address."""
    (tmp_path / "config").write_text(
        "{apiVersion: v1, kind: Config, current-context: a, "
        "contexts: [{name: a, context: {cluster: c, user: u}}], "
        "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}], "
        "users: [{name: u, user: {token: x}}]}"
    )
    done = sluice("trigger", "x", env={"KUBECONFIG": "config"})
    assert done.returncode == 4
    assert "127.0.0.1:9" in done.stderr
    assert done.stderr.count("\n") == 1
