"""A watch's stream, cut anywhere: the lines that come out are the lines that went in."""

import asyncio
from contextlib import aclosing

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from fakes import until
from sluice.adapters.kubernetes import objects
from sluice.adapters.kubernetes.objects import _lines
from sluice.triggers.kubernetes import Expired

_LARGE = objects._LARGE_BYTES + 1


def _stream(*pieces: bytes, end: bool = True) -> aiohttp.StreamReader:
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    stream = aiohttp.StreamReader(protocol, 1 << 22, loop=loop)
    for piece in pieces:
        stream.feed_data(piece)
    if end:
        stream.feed_eof()
    return stream


async def _all(stream: aiohttp.StreamReader, large: asyncio.Lock) -> list[bytes]:
    async with aclosing(_lines(stream, lambda line: line, large)) as lines:
        return [line async for line in lines]


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b)), st.data())
def test_lines_come_out_as_they_went_in(lines: list[bytes], data: st.DataObject) -> None:
    """Wherever the network cuts, and with half a line at the end, which is none."""
    text = b"".join(line + b"\n" for line in lines) + b"half"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    async def read() -> list[bytes]:
        return await _all(_stream(*filter(None, pieces)), asyncio.Lock())

    assert asyncio.run(read()) == lines


async def test_one_large_object_is_held_at_a_time() -> None:
    """A watch that reads a large object waits for the one that another watch assembles."""
    large = asyncio.Lock()
    first, second = (_stream(b"x" * _LARGE, end=False) for _ in range(2))
    tasks = [asyncio.create_task(_all(stream, large)) for stream in (first, second)]
    await until(large.locked)
    second.feed_data(b"y")
    for _ in range(10):
        await asyncio.sleep(0)
    assert second._size == 1  # it does not even read on
    first.feed_data(b"\n")
    first.feed_eof()
    assert [len(line) for line in await tasks[0]] == [_LARGE]
    second.feed_data(b"\n")
    second.feed_eof()
    assert [len(line) for line in await tasks[1]] == [_LARGE + 1]
    assert not large.locked()


async def test_a_watch_that_ends_amid_a_large_object_gives_its_place_back() -> None:
    """Cut, or cancelled: the next large object is read."""
    large = asyncio.Lock()
    assert await _all(_stream(b"x" * _LARGE), large) == []
    task = asyncio.create_task(_all(_stream(b"x" * _LARGE, end=False), large))
    await until(large.locked)
    task.cancel()
    await asyncio.wait([task])
    assert not large.locked()


async def test_a_line_of_any_size_that_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the bound a line is read, past it the watch begins anew from a list."""
    monkeypatch.setattr(objects, "_LINE_BYTES_MAX", _LARGE)
    assert await _all(_stream(b"x" * _LARGE, b"\n"), asyncio.Lock()) == [b"x" * _LARGE]
    with pytest.raises(Expired):
        await _all(_stream(b"x" * (_LARGE + 1)), asyncio.Lock())
