"""``sluice simulate``: a workflow's author sees what an operator would make of it, by itself."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from capabilities.prices import Sources, serving
from guests.build import guest_path, has_go
from sluice.cli import cli
from sluice.errors import EngineRefused, SluiceError, WorkflowInvalid

pytestmark = [
    pytest.mark.skipif(not has_go(), reason="no `go` here to build a guest with"),
    pytest.mark.xdist_group("simulate"),
]
LOCAL = "--egress-allow=127.0.0.0/8"
ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"


@pytest.fixture
def sources() -> Iterator[Sources]:
    with serving() as known:
        yield known


@dataclass
class Author:
    """Types commands in a folder."""

    folder: Path
    data: Path

    def write(self, name: str, value: Any) -> str:
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return str(path)

    def run(self, config: Any, *flags: str, module: Path | None = None) -> Result:
        path = str(module or guest_path("cre/price-feed"))
        given = f"--config={self.write('config.json', config)}"
        command = ["simulate", path, given, LOCAL, f"--data-dir={self.data}", *flags]
        return CliRunner().invoke(cli, command, standalone_mode=False)

    def told(self, config: Any, *flags: str) -> dict[str, Any]:
        done = self.run(config, "--output=json", *flags)
        assert done.exception is None, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def refusal(self, config: Any, *flags: str) -> SluiceError:
        error = self.run(config, *flags).exception
        assert isinstance(error, SluiceError)
        return error


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where what was compiled once stays compiled."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def author(tmp_path: Path, data: Path) -> Author:
    return Author(tmp_path, data)


def calls(told: dict[str, Any]) -> list[str]:
    return [line["text"] for line in told["lines"] if line["kind"] == "call"]


def test_a_price_feed_runs_to_its_report(author: Author, sources: Sources) -> None:
    """It asks all sources, agrees on the median, signs and sends a report; all of it is told."""
    told = author.told(sources.config(report=f"{sources.url}/report"))
    assert told["outcome"] == "Completed", told
    assert told["result"]["price"] == 97.5
    assert told["triggers"] == ["cron-trigger@1.0.0 Trigger  */30 * * * * *  UTC"]
    assert sorted(sources.asked) == ["/a", "/b", "/c"]
    fetch = "http-actions@1.0.0-alpha SendRequest"
    agree, sign = ("consensus@1.0.0-alpha " + method for method in ("Simple", "Report"))
    assert calls(told) == [fetch, fetch, fetch, agree, sign, fetch]
    assert all(line["took"] >= 0 for line in told["lines"] if line["kind"] == "call")
    kinds = {line["kind"]: line["text"] for line in told["lines"]}
    assert kinds["log"] == "price 97.5 of 3 sources"
    assert kinds["metric"] == "price 97.5"
    (sent,) = sources.sent
    assert sent["report"] == told["result"]["report"]
    assert sent["report"].endswith(f"{97_5000_0000:064x}")
    assert len(bytes.fromhex(sent["signatures"][0])) == 65


def test_what_a_person_reads(author: Author, sources: Sources) -> None:
    """The result alone is on stdout; what happened is on stderr, with its times."""
    done = author.run(sources.config())
    assert done.return_value == 0, done.stderr
    assert json.loads(done.stdout)["price"] == 97.5
    assert "trigger 0  cron-trigger@1.0.0 Trigger  */30 * * * * *  UTC" in done.stderr
    assert "log      price 97.5 of 3 sources" in done.stderr
    assert "call     consensus@1.0.0-alpha Simple" in done.stderr
    assert "Completed in" in done.stderr


def test_a_source_that_fails_is_told_of(author: Author, sources: Sources) -> None:
    """A call that failed has its error beside it, as the guest was told it."""
    config = sources.config()
    config["sources"].append("http://192.0.2.1/closed")
    told = author.told(config)
    (failed,) = [line["error"] for line in told["lines"] if "error" in line]
    assert failed.startswith("Public:User:PermissionDenied:")
    assert "a source failed: Public:User:PermissionDenied:" in str(told["lines"])
    assert told["result"]["price"] == 97.5


def test_an_execution_that_fails_exits_with_one(author: Author, sources: Sources) -> None:
    """What the guest answers as its error is the message, and the exit code is 1."""
    done = author.run({"schedule": "* * * * *", "sources": []})
    assert done.return_value == 1
    assert "no source told a price" in done.stderr


def test_a_recording_stands_for_the_world(author: Author, sources: Sources) -> None:
    """What was recorded is answered again, to the same result, and nobody is asked."""
    tape = str(author.folder / "tape.json")
    first = author.told(sources.config(), f"--record={tape}")
    sources.asked.clear()
    again = author.told(sources.config(), f"--replay={tape}")
    assert again["result"] == first["result"]
    assert calls(again) == calls(first)
    assert sources.asked == []


def test_a_replay_tells_what_differs(author: Author, sources: Sources) -> None:
    """A request that is not the one recorded is marked; a call that was not recorded fails."""
    tape = str(author.folder / "tape.json")
    author.told(sources.config(), f"--record={tape}")
    config = sources.config()
    config["sources"] = [f"{sources.url}/else", *config["sources"]]
    told = author.told(config, f"--replay={tape}")
    assert calls(told)[0].endswith("(not the request recorded)")
    errors = [line["error"] for line in told["lines"] if "error" in line]
    assert errors == ["Public:User:NotFound:no answer was recorded for this call; record it anew"]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", '{"version": 2, "calls": []}', '{"version": 1}',
        '{"version": 1, "calls": [{"id": "a", "method": "b"}]}',
    ],
)  # fmt: skip
def test_what_is_no_recording_is_refused(author: Author, sources: Sources, text: str) -> None:
    """A file that is something else is named, before anything runs."""
    tape = author.write("tape.json", text)
    error = author.refusal(sources.config(), f"--replay={tape}")
    assert "tape.json: is nothing that `sluice simulate --record` wrote" in error.message


def test_another_trigger_fires_with_its_event(author: Author, sources: Sources) -> None:
    """--trigger and --event choose what the guest is told."""
    config = sources.config(key=ADDRESS)
    told = author.told(config, "--trigger=1", '--event={"why": "now"}')
    assert told["result"]["trigger"] == 1
    assert len(told["triggers"]) == 2
    at = '--event={"scheduledExecutionTime": "2026-03-01T12:00:00Z"}'
    assert author.told(config, at)["result"]["trigger"] == 0


def test_secrets_are_given_and_never_recorded(author: Author, sources: Sources) -> None:
    """A secret reaches whom the guest sends it to; the read is told of, and its value nowhere."""
    config, tape = sources.config(secret="API_KEY"), author.folder / "tape.json"
    given = author.write("secrets.json", {"API_KEY": "correct-horse"})
    told = author.told(config, f"--secrets={given}", f"--record={tape}")
    assert told["outcome"] == "Completed", told
    assert sources.tokens == {"Bearer correct-horse"}
    reads = [line for line in told["lines"] if line["kind"] == "secrets"]
    assert [line["text"] for line in reads] == ["main/API_KEY"]
    assert "correct-horse" not in json.dumps(told)
    written = tape.read_text()
    for call in json.loads(written)["calls"]:
        written += str(base64.b64decode(call["response"])) + str(bytes.fromhex(call["request"]))
    assert "correct-horse" not in written
    refused = author.told(config)
    assert refused["outcome"] == "Failed"
    assert 'secret "API_KEY" in namespace "main" is not there' in refused["message"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trigger=7"], "there is no trigger 7; the module has 1"),
        (['--event={"a": 1}'], "the event is none of trigger 0, cron"),
    ],
)
def test_what_cannot_fire_is_refused(
    author: Author, sources: Sources, flags: list[str], words: str
) -> None:
    """A trigger that is not there, or an event that is not its own, is one sentence."""
    error = author.refusal(sources.config(), *flags)
    assert isinstance(error, EngineRefused)
    assert words in error.message


def test_what_an_operator_would_refuse_is_refused(author: Author, sources: Sources) -> None:
    """A schedule that is too fast is found here, as it would be on the cluster."""
    error = author.refusal(sources.config(schedule="* * * * * *"))
    assert isinstance(error, WorkflowInvalid)
    assert "the fastest schedule is every 30 s" in error.message
    error = author.refusal("no JSON")
    assert "the config is not JSON" in error.message


def test_a_command_is_no_cre_workflow(author: Author) -> None:
    """A WASI command is told apart, with the command that runs it."""
    error = author.run({}, module=guest_path("echo")).exception
    assert isinstance(error, WorkflowInvalid)
    assert "`sluice run` runs it" in error.message


@pytest.mark.parametrize("flag", ["--event={", "--secrets=config.json"])
def test_a_flag_that_cannot_be_read_is_named(author: Author, sources: Sources, flag: str) -> None:
    """A mistake on the command line is told by the flag it is in."""
    flag = flag.replace("config.json", author.write("secrets.json", {"a": 1}))
    error = author.run(sources.config(), flag).exception
    assert isinstance(error, click.BadParameter)
    assert flag.partition("=")[0] in error.format_message()
