"""Python's values <-> values.v1.Value of CRE, and the JSON in which a result is shown.

Whole numbers of any kind are ``int``, so what was uint64 or BigInt and would fit goes back as
int64. A moment is a ``Time``: a ``datetime`` knows no nanoseconds.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from sluice.cre.proto import values_pb2 as pb

_INT64 = range(-(1 << 63), 1 << 63)
_EXPONENT = range(-(1 << 31), 1 << 31)
# Python will not write out longer ones in decimal, because that takes the square of their length.
_DIGITS_MAX = 4300
_WRITTEN_OUT = range(1 - 10**_DIGITS_MAX, 10**_DIGITS_MAX)
# Messages are read to a depth of 100, and one of these is up to three of them.
_DEPTH_MAX = 32
_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Of the years 1 to 9999, as Timestamp and datetime have them.
_SECONDS = range(-62_135_596_800, 253_402_300_800)
_EXACT = Context(prec=_DIGITS_MAX + 1, Emax=MAX_EMAX, Emin=MIN_EMIN)


class InvalidValue(ValueError):  # noqa: N818 - named for what it says
    """One side holds what the other has no form for; the message says what."""


@dataclass(frozen=True, slots=True, order=True)
class Time:
    """Nanoseconds since 1970."""

    ns: int

    @classmethod
    def of(cls, moment: datetime) -> "Time":
        if moment.tzinfo is None:
            raise InvalidValue("a moment without a time zone")
        return cls((moment - _EPOCH) // timedelta(microseconds=1) * 1000)

    def __str__(self) -> str:
        seconds, ns = divmod(self.ns, _NS)
        fraction = f".{ns:09d}".rstrip("0") if ns else ""
        whole = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None)
        return f"{whole.isoformat()}{fraction}Z"


def wrap(value: object) -> pb.Value:
    """Return the Value of what Python has; raises InvalidValue where there is none."""
    return _wrap(value, 0)


def _wrap(value: object, depth: int) -> pb.Value:
    if depth > _DEPTH_MAX:
        raise InvalidValue(f"more than {_DEPTH_MAX} values one in another")
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise InvalidValue("a map with a key that is no text")
        fields = {name: _wrap(item, depth + 1) for name, item in value.items()}
        return pb.Value(map_value=pb.Map(fields=fields))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = [_wrap(item, depth + 1) for item in value]
        return pb.Value(list_value=pb.List(fields=items))
    return _wrap_one(value)


def _wrap_one(value: object) -> pb.Value:  # noqa: C901, PLR0911 - one for each kind
    match value:
        case None:
            return pb.Value()
        case bool():
            return pb.Value(bool_value=value)
        case str():
            return pb.Value(string_value=value)
        case bytes():
            return pb.Value(bytes_value=value)
        case int() if value in _INT64:
            return pb.Value(int64_value=value)
        case int():
            return pb.Value(bigint_value=big(value))
        case float():
            return pb.Value(float64_value=value)
        case Decimal():
            return pb.Value(decimal_value=_decimal(value))
        case datetime():
            return _wrap_one(Time.of(value))
        case Time():
            seconds, ns = divmod(value.ns, _NS)
            if seconds in _SECONDS:
                return pb.Value(time_value=Timestamp(seconds=seconds, nanos=ns))
    raise InvalidValue(f"a {type(value).__name__} that has no form")


def big(number: int) -> pb.BigInt:
    """Return a BigInt: its magnitude in as few bytes as it takes, and its sign."""
    magnitude = abs(number)
    length = (magnitude.bit_length() + 7) // 8
    sign = (number > 0) - (number < 0)
    return pb.BigInt(abs_val=magnitude.to_bytes(length, "big"), sign=sign)


def small(number: pb.BigInt) -> int:
    """Return a BigInt's number. Zero's sign may be anything."""
    magnitude = int.from_bytes(number.abs_val, "big")
    return -magnitude if number.sign < 0 else magnitude


def _decimal(value: Decimal) -> pb.Decimal:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or exponent not in _EXPONENT or len(digits) > _DIGITS_MAX:
        raise InvalidValue("a decimal that is no number, or too long")
    coefficient = int("".join(map(str, digits)))
    return pb.Decimal(coefficient=big(-coefficient if sign else coefficient), exponent=exponent)


def unwrap(value: pb.Value) -> Any:  # noqa: PLR0911 - one for each kind
    """Return what Python has for a Value, None for an empty one; raises InvalidValue."""
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "map_value":
            return {name: unwrap(item) for name, item in value.map_value.fields.items()}
        case "list_value":
            return [unwrap(item) for item in value.list_value.fields]
        case "bigint_value":
            return small(value.bigint_value)
        case "decimal_value":
            return _undecimal(value.decimal_value)
        case "time_value":
            return _moment(value.time_value)
    return getattr(value, kind)


def _undecimal(value: pb.Decimal) -> Decimal:
    coefficient = small(value.coefficient)
    if coefficient not in _WRITTEN_OUT:
        raise InvalidValue(f"a decimal of more than {_DIGITS_MAX:,} digits")
    return Decimal(coefficient).scaleb(value.exponent, _EXACT)


def _moment(value: Timestamp) -> Time:
    if value.seconds not in _SECONDS or value.nanos not in range(_NS):
        raise InvalidValue("a moment outside the years 1 to 9999")
    return Time(value.seconds * _NS + value.nanos)


def to_json(value: pb.Value) -> bytes:
    """Return the one JSON of a Value, with its keys in order and nothing between.

    Bytes are base64; decimals and moments are text; so are numbers that JSON does not have (NaN,
    Infinity) or that nobody can write out in decimal (hexadecimal then). Raises InvalidValue.
    """
    return json.dumps(
        _plain(value), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode()


def _plain(value: pb.Value) -> Any:  # noqa: PLR0911 - one for each kind
    kind = value.WhichOneof("value")
    match kind:
        case "map_value":
            return {name: _plain(item) for name, item in value.map_value.fields.items()}
        case "list_value":
            return [_plain(item) for item in value.list_value.fields]
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case "float64_value":
            return _plain_float(value.float64_value)
        case "bigint_value":
            number = small(value.bigint_value)
            return number if number in _WRITTEN_OUT else hex(number)
        case "decimal_value":
            return _plain_decimal(value.decimal_value)
        case "time_value":
            return str(_moment(value.time_value))
    return unwrap(value)


def _plain_float(number: float) -> float | str:
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _plain_decimal(value: pb.Decimal) -> str:
    coefficient = small(value.coefficient)
    if coefficient not in _WRITTEN_OUT:
        return f"{hex(coefficient)}E{value.exponent:+d}"
    return str(_undecimal(value))
