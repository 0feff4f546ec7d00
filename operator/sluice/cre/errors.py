"""How a capability's failure is told to a CRE guest: ``Visibility:Origin:Code:message``."""

from enum import IntEnum, StrEnum
from typing import Self


class Code(IntEnum):
    """What kind of failure it is; ``word`` is how it is written."""

    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16
    CONSENSUS_FAILED = 100
    LIMIT_EXCEEDED = 101
    INSUFFICIENT_OBSERVATIONS = 102

    @property
    def word(self) -> str:
        return "".join(part.capitalize() for part in self.name.split("_"))


class Visibility(StrEnum):
    PUBLIC = "Public"
    PRIVATE = "Private"


class Origin(StrEnum):
    """Whose doing it is: of the host and the world, or of the workflow's author."""

    SYSTEM = "System"
    USER = "User"


_BY_WORD = {code.word: code for code in Code}
_OF_THE_SYSTEM = frozenset(
    {
        Code.CANCELED, Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.ABORTED, Code.INTERNAL,
        Code.UNAVAILABLE, Code.DATA_LOSS,
    }
)  # fmt: skip


class CapabilityError(Exception):
    """A call that failed; ``message`` is for the author, ``text`` is what the guest is given."""

    def __init__(
        self,
        code: Code,
        message: str,
        visibility: Visibility = Visibility.PUBLIC,
        origin: Origin | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.visibility = code, message, visibility
        self.origin = origin or (Origin.SYSTEM if code in _OF_THE_SYSTEM else Origin.USER)

    @property
    def text(self) -> str:
        return f"{self.visibility}:{self.origin}:{self.code.word}:{self.message}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what ``text`` tells; what has no such form is Unknown, with all of it."""
        parts = text.split(":", 3)
        try:
            visibility, origin, word, message = parts
            return cls(_BY_WORD[word], message, Visibility(visibility), Origin(origin))
        except (KeyError, ValueError):
            return cls(Code.UNKNOWN, text, Visibility.PRIVATE, Origin.SYSTEM)
