"""How a failed call is told to a guest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.cre.errors import CapabilityError, Code, Origin, Visibility

_WORDS = {
    1: "Canceled", 2: "Unknown", 3: "InvalidArgument", 4: "DeadlineExceeded", 5: "NotFound",
    6: "AlreadyExists", 7: "PermissionDenied", 8: "ResourceExhausted", 9: "FailedPrecondition",
    10: "Aborted", 11: "OutOfRange", 12: "Unimplemented", 13: "Internal", 14: "Unavailable",
    15: "DataLoss", 16: "Unauthenticated", 100: "ConsensusFailed", 101: "LimitExceeded",
    102: "InsufficientObservations",
}  # fmt: skip


def test_the_codes_are_those_of_the_interface() -> None:
    """All 19, by number and word."""
    assert {int(code): code.word for code in Code} == _WORDS


@given(st.sampled_from(Code), st.text(), st.sampled_from(Visibility), st.sampled_from(Origin))
def test_a_failure_comes_back_from_its_text(
    code: Code, message: str, visibility: Visibility, origin: Origin
) -> None:
    """Whatever the message holds, colons too: only the first three count."""
    error = CapabilityError(code, message, visibility, origin)
    assert error.text == f"{visibility}:{origin}:{_WORDS[code]}:{message}"
    back = CapabilityError.parse(error.text)
    assert (back.code, back.message) == (code, message)
    assert (back.visibility, back.origin) == (visibility, origin)


@pytest.mark.parametrize(
    "text", ["", "no", "a:b:c", "Public:User:Nothing:x", "public:User:Unknown:x"]
)
def test_another_text_is_of_no_known_kind(text: str) -> None:
    """And all of it is kept."""
    error = CapabilityError.parse(text)
    assert (error.code, error.message) == (Code.UNKNOWN, text)


@pytest.mark.parametrize(
    ("code", "origin"), [(Code.LIMIT_EXCEEDED, "User"), (Code.UNAVAILABLE, "System")]
)
def test_whose_doing_it_is_follows_from_the_code(code: Code, origin: str) -> None:
    """An author's mistakes are told from the world's."""
    assert CapabilityError(code, "x").text.split(":")[1] == origin
