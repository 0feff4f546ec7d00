"""What starts an execution, in CloudEvents' words (cloudevents.io, structured JSON mode)."""

import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

JSON_TYPE = "application/json"


def new_id() -> str:
    """Return an id that sorts by time: milliseconds in hex, then chance."""
    # No secret, so not from the kernel: that would give the interpreter away, each time.
    return f"{time.time_ns() // 1_000_000:011x}-{random.getrandbits(32):08x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One firing of one trigger.

    ``kind`` is cron, manual, startup, http or kubernetes; ``trigger`` is the name in the spec.
    ``type``, ``source`` and ``subject`` are CloudEvents' attributes where somebody gave them.
    ``data`` is what JSON can say; bytes that are no text stand in ``data_base64`` instead.
    """

    kind: str
    trigger: str
    data: Any = None
    data_base64: str | None = None
    content_type: str = JSON_TYPE
    type: str | None = None
    source: str | None = None
    subject: str | None = None
    id: str = field(default_factory=new_id)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def encode(self, source: str, attempt: int = 1) -> bytes:
        """Return the JSON that a guest reads from stdin; ``source`` names the workflow.

        Raises ValueError or TypeError where the data is more than JSON knows (NaN, a date).
        """
        told: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source or f"{source}/triggers/{self.trigger}",
            "type": self.type or f"dev.sluice.{self.kind}",
            "time": self.time.isoformat(),
        }
        if self.subject is not None:
            told["subject"] = self.subject
        if attempt > 1:  # an extension, as CloudEvents lets us; whoever never retries never sees it
            told["sluiceattempt"] = attempt
        if self.content_type != JSON_TYPE:
            told["datacontenttype"] = self.content_type
        if self.data_base64 is None:
            told["data"] = self.data
        else:
            told["data_base64"] = self.data_base64
        text = json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(errors="backslashreplace")  # half a surrogate pair: the escape it was

    def dump(self) -> bytes:
        """Return the event as the journal keeps it; raises as ``encode`` does."""
        told = {name: getattr(self, name) for name in _FIELDS}
        told["time"] = self.time.isoformat()
        return json.dumps(told, allow_nan=False, separators=(",", ":")).encode()

    @classmethod
    def load(cls, dumped: bytes) -> Self:
        """Return the event that was dumped."""
        told = json.loads(dumped)
        told["time"] = datetime.fromisoformat(told["time"])
        return cls(**told)


_FIELDS = tuple(Event.__dataclass_fields__)
