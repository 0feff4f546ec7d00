"""One line an event: logfmt for people, JSON for machines. Standard logging in, structlog out."""

import logging
import sys
from typing import TextIO

import structlog

# The fields by which a line is found, first.
_ORDER = ["timestamp", "level", "event", "namespace", "workflow", "execution"]


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: a live table may stand in its way."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def configure(style: str, level: str) -> None:
    """Send every logger's records to stderr in one style: logfmt or json."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.processors.LogfmtRenderer(key_order=_ORDER, drop_missing=True)
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # kopf tells each request and each handler at INFO; what goes wrong there is what matters.
    logging.getLogger("kopf").setLevel(logging.WARNING)
