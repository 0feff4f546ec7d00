"""What a start will need in memory: predicted before it, learned after it, known after a restart.

A compile's peak is predicted by the first of these that there is:

1. what this digest peaked at last time in this tier, or, where it was refused for asking for more
   than a cap, an eighth more than that cap. This is **known**;
2. a bound from its size: of the 16 modules nearest to it in size, each one's peak scaled up in
   proportion where this module is the larger (never down: a fixed part of a peak does not
   shrink), the 90 % quantile, and a quarter more. A quantile and not the mean, because a mean
   is too low for half of them; not the maximum, because one module in some hundred takes 500
   times its size and would price every other like itself. Below ten modules it is the maximum;
3. the cap of one child.

What is not known is an estimate and may be far off either way: a start may gamble on it, alone,
and its child dies at its own cap.
"""

import json
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_MIB = 1 << 20
_KEPT_BYTES = _MIB  # of an engine nobody has measured: five times the most that was seen
_NEAREST = 16
_SAMPLES_MIN, _SAMPLES_MAX = 4, 256
_QUANTILE = 0.9
_TELLING_BYTES = 40 * _MIB  # every compile asks for more: a refusal below tells nothing of it
_BYTES_MAX = 1 << 50  # what a damaged file may claim


@dataclass(frozen=True, slots=True)
class Cost:
    """Memory of one start: a compile's peak (0: nothing to compile), and what stays after it."""

    compile_bytes: int
    keep_bytes: int
    known: bool  # of this very digest; else compile_bytes is an estimate or the cap


FREE = Cost(0, 0, known=True)


@dataclass(slots=True)
class _Seen:
    size: int
    peak_bytes: int = 0
    refused_bytes: int = 0  # the largest cap that was too small

    def needs(self, cap: int) -> int:
        return min(cap, max(self.peak_bytes, self.refused_bytes + self.refused_bytes // 8))


class Costs:
    """What was seen of at most ``entries_max`` modules, the latest seen; a line a fact on disk.

    The file is only appended to, so that a death in mid-air loses its last line at most, and is
    written anew, into place by a rename, when half of it is out of date. It is a help and no
    truth: lines that make no sense are passed over, and a file that cannot be written is told
    once in the log.
    """

    def __init__(self, path: Path, compile_bytes_cap: int, entries_max: int = 4096) -> None:
        self._path, self._cap, self._entries_max = path, compile_bytes_cap, entries_max
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._bounds: dict[tuple[str, int], int] = {}
        self._keeps: int | None = None
        self._lines = 0
        self._told = False
        self._load()

    def predict(self, digest: str, size: int, tier: str, cached: bool) -> Cost:
        """Return what a start of ``digest`` will need; ``size`` is that of the raw module."""
        keep = self._kept.get(digest) or self._usual_keep()
        if cached:
            return Cost(0, keep, known=True)
        seen = self._seen.get((digest, tier))
        if seen and (need := seen.needs(self._cap)):
            return Cost(need, keep, known=True)
        return Cost(self._bound(size, tier), keep, known=False)

    def compiled(self, digest: str, size: int, tier: str, peak_bytes: int) -> None:
        """Learn the peak of a compile that succeeded."""
        if peak_bytes > 0:  # 0: too short to be measured
            self._learn("compiled", digest, size, tier, peak_bytes)

    def failed(self, digest: str, size: int, tier: str, cap_bytes: int) -> None:
        """Learn that ``cap_bytes`` were too few."""
        if cap_bytes >= _TELLING_BYTES:
            self._learn("failed", digest, size, tier, cap_bytes)

    def kept(self, digest: str, bytes_: int) -> None:
        """Learn what an engine held after it had settled."""
        known = self._kept.get(digest, 0)
        if bytes_ > 0 and abs(bytes_ - known) * 8 > known:  # a restart repeats what it measured
            self._learn("kept", digest, 0, "", bytes_)

    def _learn(self, what: str, digest: str, size: int, tier: str, value: int) -> None:
        fact = [what, digest, size, tier, value]
        self._take(fact)
        self._write(fact)

    def _take(self, fact: Any) -> None:
        what, digest, size, tier, value = fact
        if not (isinstance(digest, str) and isinstance(tier, str) and _sane(size, value) and value):
            raise ValueError(fact)
        if what == "kept":
            self._keeps = None
            _newest(self._kept, digest, value, self._entries_max)
            return
        seen = self._seen.get((digest, tier)) or _Seen(size)
        if what == "compiled":
            seen.peak_bytes = value
        elif what == "failed":
            seen.refused_bytes = max(seen.refused_bytes, value)
        else:
            raise ValueError(fact)
        self._bounds.clear()
        _newest(self._seen, (digest, tier), seen, self._entries_max)

    def _bound(self, size: int, tier: str) -> int:
        step = math.ceil(4 * math.log2(max(size, 1)))  # a quarter of an octave, rounded up
        found = self._bounds.get((tier, step))
        if found is None:
            found = self._bounds[tier, step] = self._bound_of(2 ** (step / 4), tier)
        return found

    def _bound_of(self, size: float, tier: str) -> int:
        near = sorted(self._samples(tier), key=lambda s: abs(math.log(size / s[0])))[:_NEAREST]
        if len(near) < _SAMPLES_MIN:
            return self._cap
        scaled = sorted(peak * max(1.0, size / of) for of, peak in near)
        bound = scaled[math.ceil(_QUANTILE * len(scaled)) - 1] * 1.25
        return min(self._cap, int(bound))

    def _samples(self, tier: str) -> list[tuple[int, int]]:
        seen = (
            (max(s.size, 1), s.needs(self._cap))
            for (_, of), s in reversed(self._seen.items())
            if of == tier
        )
        return [sample for sample, _ in zip(seen, range(_SAMPLES_MAX), strict=False)]

    def _usual_keep(self) -> int:
        if self._keeps is None:
            last = [b for b, _ in zip(reversed(self._kept.values()), range(_SAMPLES_MAX))]  # noqa: B905
            few = len(last) < _SAMPLES_MIN
            self._keeps = _KEPT_BYTES if few else sorted(last)[int(_QUANTILE * (len(last) - 1))]
        return self._keeps

    def _load(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as e:
            self._complain(e)
            return
        damaged = 0  # the last line, where a death cut it short, and the next would be joined to it
        for line in lines:
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, RecursionError):
                damaged += 1
        if damaged:
            log.warning("%d of %d lines of %s make no sense", damaged, len(lines), self._path)
        self._lines = len(lines)
        self._renew(at_once=damaged > 0)

    def _write(self, fact: list[Any]) -> None:
        self._lines += 1
        if self._renew():
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(fd, _line(fact))
            finally:
                os.close(fd)
        except OSError as e:
            self._complain(e)

    def _renew(self, *, at_once: bool = False) -> bool:
        """Write the file anew if half of it is out of date; return whether that was done."""
        if not at_once and self._lines <= 2 * (2 * len(self._seen) + len(self._kept)) + 64:
            return False
        facts = list(self._facts())
        new = self._path.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
                f.writelines(map(_line, facts))
            new.rename(self._path)
        except OSError as e:
            self._complain(e)
            return False
        self._lines = len(facts)
        return True

    def _facts(self) -> Iterator[list[Any]]:
        for (digest, tier), seen in self._seen.items():
            if seen.peak_bytes:
                yield ["compiled", digest, seen.size, tier, seen.peak_bytes]
            if seen.refused_bytes:
                yield ["failed", digest, seen.size, tier, seen.refused_bytes]
        for digest, bytes_ in self._kept.items():
            yield ["kept", digest, 0, "", bytes_]

    def _complain(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            log.warning("what compiles cost is not remembered over a restart: %s", error)


def _sane(*numbers: Any) -> bool:
    return all(type(n) is int and 0 <= n <= _BYTES_MAX for n in numbers)


def _line(fact: list[Any]) -> bytes:
    return json.dumps(fact, separators=(",", ":")).encode() + b"\n"


def _newest(of: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    of[key] = value
    of.move_to_end(key)
    while len(of) > most:
        of.popitem(last=False)
