"""Errors that reach a user: a reason for machines, a message for people.

SluiceError
├── WorkflowInvalid      the author's: permanent until the object changes
│   └── ContentInvalid   … or until one of its ConfigMaps does
├── SourceUnavailable    the cluster's: retried with capped backoff
└── EngineRefused        ours: retried with capped backoff
    ├── HeadroomExceeded … when there is more memory
    └── BaselineRefused  never: the optimising tier is asked instead; reaches nobody

A mistake of a programmer is an assertion, not one of these.
"""

from collections.abc import Mapping

from sluice.reasons import Reason


class SluiceError(Exception):
    """``reason`` is the word in the condition; ``message`` says what, where and what to do."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class WorkflowInvalid(SluiceError):  # noqa: N818 - named for what it says, as its siblings are
    """Nothing but a change of the object helps."""


class ContentInvalid(WorkflowInvalid):
    """A ConfigMap is missing or holds the wrong bytes.

    ``seen`` maps each ConfigMap that was read to the version that was wrong (None: absent), so
    that it is read again only after it has changed.
    """

    def __init__(
        self, reason: Reason, message: str, seen: Mapping[str, str | None] | None = None
    ) -> None:
        super().__init__(reason, message)
        self.seen = dict(seen or {})


class SourceUnavailable(SluiceError):  # noqa: N818
    """The cluster did not answer, or would not: tried again."""


class EngineRefused(SluiceError):  # noqa: N818
    """The process could not do its part: tried again."""


class HeadroomExceeded(EngineRefused):
    """A compile asked for more than the ``cap_bytes`` it could be given just then.

    The cap was what the pod had left, not what a compile may take at most: tried again when there
    is more.
    """

    def __init__(self, message: str, cap_bytes: int) -> None:
        super().__init__(Reason.WAITING_FOR_MEMORY, message)
        self.cap_bytes = cap_bytes


class BaselineRefused(EngineRefused):
    """The baseline compiler cannot have this module; what the optimising one says is the verdict.

    It lacks proposals of WebAssembly that the other has, so its refusal is nobody's fault.
    """

    def __init__(self, message: str) -> None:
        super().__init__(Reason.COMPILE_FAILED, message)
