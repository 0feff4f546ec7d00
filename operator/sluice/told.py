"""How an execution is told over HTTP: one shape for the trigger's callers and the admin's CLI."""

import base64
from typing import Any

from sluice.executions.acceptance import Pending
from sluice.snapshot import Run


def as_json(execution: Run | Pending) -> dict[str, Any]:
    """Return what became of an execution, or how far it is; what it logged is told apart."""
    if isinstance(execution, Pending):
        return {
            "id": execution.id,
            "trigger": execution.trigger,
            "state": "Running" if execution.running else "Waiting",
            "accepted": execution.accepted.isoformat(),
            "attempt": execution.attempt,
        }
    outcome = execution.outcome
    return {
        "id": execution.id,
        "trigger": execution.trigger,
        "state": "Finished",
        "started": execution.started.isoformat(),
        "attempts": execution.attempts,
        "durationSeconds": round(outcome.duration_s, 6),
        "cpuSeconds": round(outcome.cpu_s, 6),
        "memoryBytes": outcome.memory_bytes,
        "outcome": str(outcome.kind),
        "message": outcome.message,
        "exitCode": outcome.exit_code,
        **_text("result", outcome.result),
    }


def with_log(execution: Run | Pending) -> dict[str, Any]:
    """Return the same with the tail of what the guest has logged, for the admin."""
    log = execution.outcome.log if isinstance(execution, Run) else b""
    return as_json(execution) | {"log": log.decode(errors="replace")}


def _text(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(content).decode()}
