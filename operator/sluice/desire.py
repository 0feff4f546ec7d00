"""What an object asks for: a workflow to be alive, or why it cannot be, and a run on request.

Never raises: an object that cannot be parsed is still an object, and its author wants to be told.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from sluice.errors import WorkflowInvalid
from sluice.settings import Settings
from sluice.workflow import RUN_AT, RUN_DATA, Workflow, WorkflowKey

_TOKEN_CHARS_MAX = 128


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One manual run; ``token`` is the annotation's value, and each new value asks once.

    ``data`` None leaves it to the trigger; ``problem`` says why the run cannot be.
    """

    token: str
    data: Any = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Desire:
    """The latest word on one object. Exactly one of ``workflow`` and ``problem`` is given."""

    key: WorkflowKey
    uid: str
    generation: int
    workflow: Workflow | None = None
    problem: WorkflowInvalid | None = None
    run: RunRequest | None = None

    @classmethod
    def of(cls, body: dict[str, Any], settings: Settings) -> Self:
        """Return the desire of an object's body, whatever is in its spec."""
        metadata = body["metadata"]
        workflow, problem = None, None
        try:
            workflow = Workflow.parse(body, settings)
        except WorkflowInvalid as e:
            problem = e
        return cls(
            key=WorkflowKey(metadata.get("namespace", "default"), metadata["name"]),
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 1),
            workflow=workflow,
            problem=problem,
            run=_run_request(metadata.get("annotations") or {}, settings),
        )

    def supersedes(self, other: Self) -> bool:
        """Whether what is to be alive may differ; a run on request alone makes no difference."""
        return self.generation > other.generation


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is Python's, not JSON's")


def _run_request(annotations: dict[str, str], settings: Settings) -> RunRequest | None:
    token = annotations.get(RUN_AT, "")[:_TOKEN_CHARS_MAX]
    if not token:
        return None
    text = annotations.get(RUN_DATA)
    if text is None:
        return RunRequest(token)
    if len(text.encode()) > settings.event_bytes_max:
        problem = f"has more than {settings.event_bytes_max:,} bytes (event_bytes_max)"
        return RunRequest(token, problem=f"the annotation {RUN_DATA} {problem}")
    try:
        return RunRequest(token, json.loads(text, parse_constant=_refuse))
    except ValueError as e:
        return RunRequest(token, problem=f"the annotation {RUN_DATA} is not JSON: {e}")
