"""What starts an execution, in CloudEvents' words (cloudevents.io, structured JSON mode)."""

import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


def new_id() -> str:
    """Return an id that sorts by time: milliseconds in hex, then chance."""
    return f"{time.time_ns() // 1_000_000:011x}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One firing of one trigger; ``kind`` is cron or manual, ``trigger`` the name in the spec."""

    kind: str
    trigger: str
    data: Any = None
    id: str = field(default_factory=new_id)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    def encode(self, source: str) -> bytes:
        """Return the JSON that a guest reads from stdin; ``source`` names the workflow.

        Raises ValueError or TypeError where the data is more than JSON knows (NaN, a date).
        """
        return json.dumps(
            {
                "specversion": "1.0",
                "id": self.id,
                "source": f"{source}/triggers/{self.trigger}",
                "type": f"dev.sluice.{self.kind}",
                "time": self.time.isoformat(),
                "data": self.data,
            },
            ensure_ascii=False,
            allow_nan=False,
            separators=(",", ":"),
        ).encode(errors="backslashreplace")  # half a surrogate pair: the escape it came as
