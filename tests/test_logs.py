import json
import logging
from collections.abc import Iterator

import pytest

from sluice import logs

log = logging.getLogger("test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_whatever_is_logged_is_one_line(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A guest's words cannot end a line, begin another, or steer a terminal."""
    logs.configure(style, "info")
    log.info("a\nb\r\x1b[31m\x9bred\u2028%s", "c\n", extra={"workflow": "x\ny z"})
    (line, rest) = capsys.readouterr().err.split("\n")
    assert rest == ""
    assert line.isprintable()
    assert "red" in line


def test_an_exception_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Even a mistake of ours keeps to one line an event, with the way that led to it."""
    logs.configure("json", "info")
    try:
        raise ValueError("why\nso")  # noqa: TRY301 - it is about what is logged
    except ValueError:
        log.exception("failed")
    event = json.loads(capsys.readouterr().err)
    assert event["event"] == "failed"
    assert 'raise ValueError("why' in event["exception"]


def test_logfmt_begins_with_what_one_looks_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, level, event and the workflow's name stand first, in that order."""
    logs.configure("logfmt", "info")
    log.warning("it runs ", extra={"b": 1, "workflow": "w", "namespace": "n", "execution": "e"})
    fields = capsys.readouterr().err.split(" ", 1)
    assert fields[0].startswith("timestamp=")
    assert fields[1] == 'level=warning event="it runs" namespace=n workflow=w execution=e b=1\n'


def test_json_is_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A value that JSON has no word for is told as text instead of ending the process."""
    logs.configure("json", "info")
    log.info("odd", extra={"what": {1 }, "way": object})  # fmt: skip
    assert json.loads(capsys.readouterr().err)["what"] == "{1}"


@pytest.mark.parametrize(("level", "told"), [("warning", False), ("info", True)])
def test_the_level_is_the_least_that_is_told(
    level: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is below the level is left out; kopf's own talk is, at any level."""
    logs.configure("logfmt", level)
    log.info("hello")
    logging.getLogger("kopf.objects").info("handler succeeded")
    err = capsys.readouterr().err
    assert ("hello" in err) is told
    assert "handler" not in err
