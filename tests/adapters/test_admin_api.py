"""What the operator tells the admin's command line: on this machine alone, and what it prints."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from fakes import until
from sluice.adapters.http import serving
from sluice.executions.acceptance import Pending
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.snapshot import Run
from sluice.workflow import WorkflowKey

KEY = WorkflowKey("team", "hello")
LIST = "/v1/namespaces/team/workflows/hello/executions"
NOW = datetime.now(UTC)


def run(id_: str, kind: OutcomeKind = OutcomeKind.COMPLETED, **outcome: object) -> Run:
    made = Outcome(kind, duration_s=0.0412, **outcome)  # type: ignore[arg-type]
    return Run(id_, "nightly", NOW - timedelta(days=400), made)


class Shelf:
    """Executions of one workflow, with the interface of ``http.Records``."""

    def __init__(self, *executions: Run | Pending) -> None:
        self.executions = list(executions)  # the newest first

    async def recent(self, key: WorkflowKey, limit: int) -> Sequence[Run | Pending] | None:
        return self.executions[:limit] if key == KEY else None

    async def find(self, key: WorkflowKey, id_: str) -> Run | Pending | None:
        of_it = self.executions if key == KEY else []
        return next((one for one in of_it if one.id == id_), None)


FULL = Shelf(
    Pending("waits", "hook", NOW, running=False, attempt=2),
    Pending("runs", "hook", NOW, running=True, attempt=1),
    run("done", result=b'{"alert":false}', log=b"one\ntwo\x1b[31m\n"),
    run("broken", OutcomeKind.TRAPPED, message="unreachable", log=b"oops"),
)


@asynccontextmanager
async def admin(shelf: Shelf, address: str = "127.0.0.1") -> AsyncIterator[str]:
    registry = Metrics().registry
    async with serving(address, 0, registry, lambda: True, dict, shelf) as port:
        yield f"http://127.0.0.1:{port}"


async def sluice(url: str, *words: str) -> tuple[int, str, str]:
    """Run the command line as a process of its own, beside the operator in this one."""
    process = await begin(url, *words)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def begin(url: str, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluice", *words, "--url", url,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def test_executions_are_told_to_who_is_inside() -> None:
    """The list has what waits, runs and is over; one of them comes with its log."""
    async with admin(FULL) as url, aiohttp.ClientSession(url) as http:
        told = await (await http.get(LIST)).json()
        states = [(one["id"], one["state"]) for one in told["executions"]]
        assert states == [("waits", "Waiting"), ("runs", "Running"), ("done", "Finished"),
                          ("broken", "Finished")]  # fmt: skip
        assert all("log" not in one for one in told["executions"])
        one = await (await http.get(f"{LIST}/broken")).json()
        assert (one["outcome"], one["message"], one["log"]) == ("Trapped", "unreachable", "oops")
        assert (await (await http.get(f"{LIST}/waits")).json())["log"] == ""
        assert len((await (await http.get(f"{LIST}?limit=2")).json())["executions"]) == 2


@pytest.mark.parametrize(("path", "status", "says"), [
    (LIST.replace("hello", "other"), 404, "there is no workflow team/other"),
    (f"{LIST}/none", 404, "team/hello has no execution none"),
    (f"{LIST}?limit=0", 400, "limit: write 1 to 1000"),
    (f"{LIST}?limit=1001", 400, "limit: write 1 to 1000"),
    (f"{LIST}?limit={'9' * 5000}", 400, "limit: write 1 to 1000"),
    (f"{LIST}?limit=²", 400, "limit: write 1 to 1000"),
])  # fmt: skip
async def test_what_is_not_there_is_told(path: str, status: int, says: str) -> None:
    """A wrong name or number is a line that says so."""
    async with admin(FULL) as url, aiohttp.ClientSession(url) as http:
        answer = await http.get(path)
        assert (answer.status, says in await answer.text()) == (status, True)


async def test_other_machines_are_told_nothing() -> None:
    """From outside of the pod there is no execution to be seen, and no way to find out names."""
    address = _own_address()
    async with admin(FULL, "0.0.0.0") as url, aiohttp.ClientSession() as http:  # noqa: S104
        outside = url.replace("127.0.0.1", address)
        for path in (LIST, f"{LIST}/done", LIST.replace("hello", "other")):
            answer = await http.get(outside + path)
            assert (answer.status, "done" in await answer.text()) == (403, False)


def _own_address() -> str:
    """Return an address of this machine that is no loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


async def test_the_table_reads_as_promised() -> None:
    """`sluice executions` has the columns of the docs, what waits and runs on top."""
    async with admin(FULL) as url:
        code, out, err = await sluice(url, "executions", "hello", "-n", "team")
    assert (code, err) == (0, "")
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    assert rows[0] == ["ID", "TRIGGER", "STARTED", "TOOK", "OUTCOME", "RESULT"]
    assert [rows[1][:2], rows[1][3:]] == [["waits", "hook"], ["Waiting", "attempt 2"]]
    assert [rows[2][:2], rows[2][3:]] == [["runs", "hook"], ["Running"]]
    assert rows[3][3:] == ["41ms", "Completed", '{"alert":false}']
    assert rows[4][3:] == ["41ms", "Trapped", "unreachable"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", rows[3][2])


async def test_programs_get_json() -> None:
    """`-o json` is what the operator has told, the limit kept."""
    async with admin(FULL) as url:
        words = ("executions", "hello", "-n", "team", "-o", "json", "--limit", "3")
        code, out, _ = await sluice(url, *words)
    assert code == 0
    assert [one["id"] for one in json.loads(out)] == ["waits", "runs", "done"]


async def test_logs_come_with_a_header_each_the_oldest_first() -> None:
    """`sluice logs` shows what is over; what would steer a terminal is shown as what it is."""
    async with admin(FULL) as url:
        code, out, err = await sluice(url, "logs", "hello", "-n", "team")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(r"==> broken  nightly  \S+ \S+  Trapped in 41ms <==", lines[0])
    assert re.fullmatch(r"==> done  nightly  \S+ \S+  Completed in 41ms <==", lines[2])
    assert (lines[1], lines[3], lines[4]) == ("oops", "one", "two\N{REPLACEMENT CHARACTER}[31m")


async def test_follow_shows_each_that_ends() -> None:
    """`sluice logs -f` goes on: an execution that ends is shown once, until Ctrl-C."""
    shelf = Shelf(run("first", log=b"1"))
    async with admin(shelf) as url:
        process = await begin(url, "logs", "hello", "-n", "team", "-f")
        assert process.stdout is not None
        seen: list[str] = []

        async def read() -> None:
            assert process.stdout is not None
            while line := await process.stdout.readline():
                seen.append(line.decode().rstrip())

        reading = asyncio.create_task(read())
        await until(lambda: "1" in seen)
        shelf.executions.insert(0, Pending("second", "hook", NOW, running=True, attempt=1))
        shelf.executions[0] = run("second", log=b"2")
        await until(lambda: "2" in seen)
        process.send_signal(2)
        assert await process.wait() == 130
        await reading
    assert [line for line in seen if not line.startswith("==>")] == ["1", "2"]


async def test_one_execution_can_be_waited_for() -> None:
    """`--id` of one that runs says so; with -f its log comes when it is over."""
    shelf = Shelf(Pending("a", "hook", NOW, running=True, attempt=1))
    async with admin(shelf) as url:
        words = ("logs", "hello", "-n", "team", "--id", "a")
        code, out, err = await sluice(url, *words)
        assert (code, out) == (0, "")
        assert "a is not over: Running" in err
        follow = asyncio.create_task(sluice(url, *words, "-f"))
        shelf.executions[0] = run("a", log=b"there")
        code, out, _ = await follow
    assert (code, out.splitlines()[1]) == (0, "there")


@pytest.mark.parametrize(("words", "code", "says"), [
    (["executions", "other", "-n", "team"], 3, "there is no workflow team/other"),
    (["logs", "other", "-n", "team"], 3, "there is no workflow team/other"),
    (["logs", "hello", "-n", "team", "--id", "none"], 3, "has no execution none"),
    (["logs", "hello", "-n", "team", "--id", "../.."], 3, "has no execution ../.."),
    (["executions", "Hello"], 2, "is no name of a Workflow"),
    (["executions", "hello", "-n", "A"], 2, "is no name of a namespace"),
    (["executions", "hello", "--limit", "0"], 2, "not in the range"),
])  # fmt: skip
async def test_a_mistake_is_one_line(words: list[str], code: int, says: str) -> None:
    """What is not there or not a name is told in a line, with an exit code of its own."""
    async with admin(FULL) as url:
        ended, out, err = await sluice(url, *words)
    assert (ended, out) == (code, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["status"], ["executions", "x", "-n", "a"],
                                   ["logs", "x", "-n", "a"]])  # fmt: skip
async def test_no_operator_there(
    words: list[str], unused_tcp_port_factory: Callable[[], int]
) -> None:
    """Where nobody answers the exit code is 4, and the line says where to run it."""
    code, out, err = await sluice(f"http://127.0.0.1:{unused_tcp_port_factory()}", *words)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "kubectl port-forward" in err


async def test_nothing_has_run_yet() -> None:
    """An empty list is no empty table."""
    async with admin(Shelf()) as url:
        assert await sluice(url, "executions", "hello", "-n", "team") == (
            0, "", "team/hello has no executions yet\n",
        )  # fmt: skip
        assert await sluice(url, "logs", "hello", "-n", "team") == (0, "", "")
