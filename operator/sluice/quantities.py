"""Kubernetes' notations for bytes and times, read."""

import math
import re
from datetime import timedelta
from decimal import Decimal

import durationpy

_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMG]|[KMG]i)?")
_DURATION = re.compile(r"([0-9]{1,5}(\.[0-9]{1,3})?(h|m|s|ms)){1,4}")


def quantity(text: str | int) -> int:
    """Return the bytes of a quantity such as ``100Mi``, rounded up as Kubernetes does.

    Raises:
        ValueError: it is none.

    """
    if isinstance(text, int):
        return text
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text}" is no quantity; write for example 64Mi')
    return math.ceil(Decimal(found[1]) * _SUFFIXES[found[2] or ""])


def duration(text: str) -> timedelta:
    """Return a duration such as ``1m30s``; ValueError if it is none."""
    value = durationpy.from_str(text) if _DURATION.fullmatch(text) else None
    if not isinstance(value, timedelta):
        raise ValueError(f'"{text}" is no duration; write for example 30s or 1m30s')  # noqa: TRY004
    return value


def seconds(text: str) -> float:
    """Return the seconds of a duration such as ``1m30s``; ValueError if it is none."""
    return duration(text).total_seconds()
