"""Values between Python and a CRE guest: nothing is lost on the way, and each has one JSON."""

import base64
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from sluice.cre.proto import values_pb2 as pb
from sluice.cre.values import InvalidValue, Time, big, small, to_json, unwrap, wrap

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_TIMES = st.integers(-62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1).map(Time)
_DECIMALS = st.builds(
    lambda sign, digits, exponent: Decimal((sign, tuple(map(int, str(digits))), exponent)),
    st.integers(0, 1), st.integers(1, 10**60), st.integers(-(2**31), 2**31 - 1),
)  # fmt: skip
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**600), 2**600), _TEXTS,
    st.binary(max_size=20), st.floats(allow_nan=False), _TIMES, _DECIMALS,
)  # fmt: skip
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_wrapped_comes_back(value: Any) -> None:
    """Through the wire: numbers of any length, moments to the nanosecond, maps in lists in maps."""
    back = unwrap(pb.Value.FromString(wrap(value).SerializeToString()))
    assert back == value
    assert type(back) is type(value)


@given(VALUES)
def test_every_value_has_one_json(value: Any) -> None:
    """It can be read by anybody, and does not depend on the order in which a map was filled."""
    text = to_json(wrap(value))
    again = json.dumps(
        json.loads(text), ensure_ascii=False, sort_keys=True, separators=(",", ":")
    ).encode()
    assert again == text
    if isinstance(value, dict):
        assert to_json(wrap(dict(reversed(value.items())))) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ({"b": 1, "a": [True, "é"]}, '{"a":[true,"é"],"b":1}'),
        (b"\0\xff", '"AP8="'),
        (2**63, "9223372036854775808"),
        (-(2**200), str(-(2**200))),
        (Decimal("97.10"), '"97.10"'),
        (Decimal("1E+2147483647"), '"1E+2147483647"'),
        (0.1, "0.1"),
        (math.inf, '"Infinity"'),
        (-math.inf, '"-Infinity"'),
        (math.nan, '"NaN"'),
        (Time(0), '"1970-01-01T00:00:00Z"'),
        (Time(-1), '"1969-12-31T23:59:59.999999999Z"'),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=1))), '"2026-01-02T02:00:00Z"'),
    ],
)
def test_the_json_of_a_result(value: Any, text: str) -> None:
    """What JSON has no form for is text."""
    assert to_json(wrap(value)).decode() == text


def test_a_number_that_nobody_could_write_out_takes_no_time() -> None:
    """A guest's result of a megabyte of digits is shown in hexadecimal, and holds nobody up."""
    raw = b"\xff" * (1 << 20)
    huge = pb.BigInt(abs_val=raw, sign=-1)
    assert json.loads(to_json(pb.Value(bigint_value=huge))) == "-0x" + raw.hex()
    decimal = pb.Decimal(coefficient=huge, exponent=-7)
    assert json.loads(to_json(pb.Value(decimal_value=decimal))) == f"-0x{raw.hex()}E-7"
    with pytest.raises(InvalidValue, match="digits"):
        unwrap(pb.Value(decimal_value=decimal))


@pytest.mark.parametrize("digits", [4300, 4301])
def test_the_longest_decimals(digits: int) -> None:
    """Up to 4,300 digits are written out; one more is not taken."""
    value = Decimal("9" * digits)
    if digits == 4300:
        assert unwrap(wrap(value)) == value
        assert json.loads(to_json(wrap(value))) == "9" * digits
    else:
        with pytest.raises(InvalidValue, match="too long"):
            wrap(value)


@given(st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1))
def test_a_guests_numbers_may_have_any_form(magnitude: bytes, sign: int) -> None:
    """Leading zeros, and a sign of any size: what counts is whether it is below zero."""
    number = small(pb.BigInt(abs_val=magnitude, sign=sign))
    assert abs(number) == int.from_bytes(magnitude, "big")
    assert number == 0 or (number < 0) == (sign < 0)
    assert small(big(number)) == number


@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800])
def test_a_moment_that_no_calendar_has_is_told(seconds: int) -> None:
    """In words, not by an overflow somewhere."""
    value = pb.Value(time_value=Timestamp(seconds=seconds))
    for read in (unwrap, to_json):
        with pytest.raises(InvalidValue, match="1 to 9999"):
            read(value)


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, Decimal("NaN"), Decimal("1E+2147483648"), Time(10**30), {1}],
    ids=lambda value: type(value).__name__,
)
def test_what_a_guest_could_not_be_given_is_refused(value: object) -> None:
    """Before it is sent."""
    with pytest.raises(InvalidValue):
        wrap(value)


def test_a_moment_without_a_zone_is_refused() -> None:
    """It would be one here and another there."""
    with pytest.raises(InvalidValue, match="time zone"):
        wrap(datetime(2026, 1, 1))  # noqa: DTZ001 - it is what is refused


@pytest.mark.parametrize("depth", [32, 33])
def test_values_in_values_have_a_bound(depth: int) -> None:
    """What can be sent can be read at the other end."""
    value: Any = 1
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    if depth == 32:
        assert unwrap(pb.Value.FromString(wrap(value).SerializeToString())) == value
    else:
        with pytest.raises(InvalidValue, match="one in another"):
            wrap(value)


def test_bytes_are_base64() -> None:
    """As protobuf's own JSON has them."""
    assert json.loads(to_json(wrap(b"x" * 100))) == base64.b64encode(b"x" * 100).decode()


def test_a_moment_of_now() -> None:
    """Python's own moments go in to the microsecond."""
    now = datetime.now(UTC)
    assert unwrap(wrap(now)) == Time.of(now)
