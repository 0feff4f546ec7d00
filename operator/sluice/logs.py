"""One line an event: logfmt for people, JSON for machines. Standard logging in, structlog out."""

import logging
import re
import sys
from typing import TextIO

import structlog

# The fields by which a line is found, first.
_ORDER = ["timestamp", "level", "event", "namespace", "workflow", "execution"]
# What ends a line, or steers a terminal: a guest's words and a user's names may hold either.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: a live table may stand in its way."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


class _OneLine(structlog.stdlib.ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(lambda found: repr(found[0])[1:-1], super().format(record))


def _without_traces_of_kopf(record: logging.LogRecord) -> bool:
    # What it fails of is the cluster's doing, and tried again: its message says what.
    if record.name.startswith("kopf"):
        record.exc_info = None
    return True


def configure(style: str, level: str) -> None:
    """Send every logger's records to stderr in one style: logfmt or json."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _without_margin,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if style == "json"
        else structlog.processors.LogfmtRenderer(
            key_order=_ORDER, drop_missing=True, bool_as_flag=False
        )
    )
    handler = _Stderr()
    handler.setFormatter(
        _OneLine(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # kopf tells each request and each handler at INFO; what goes wrong there is what matters.
    logging.getLogger("kopf").setLevel(logging.ERROR)
    handler.addFilter(_without_traces_of_kopf)


def _without_margin(
    _logger: structlog.types.WrappedLogger, _name: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    event["event"] = str(event["event"]).strip()
    return event
