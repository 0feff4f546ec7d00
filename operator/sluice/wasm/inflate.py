"""Decompress in bounded pieces, and tell truncated, corrupt and trailing data apart."""

import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import brotli
import zstandard

from sluice.errors import ContentInvalid
from sluice.reasons import Reason

CHUNK_BYTES = 64 * 1024
OUTPUT_BYTES = 256 * 1024
# A zstd block inflates four bytes to 128 KiB, and its binding cannot bound its output: small
# bites keep one step's output below 4 MiB.
ZSTD_BITE_BYTES = 128


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]: ...
    @property
    def finished(self) -> bool: ...


class _Brotli:
    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()
        self.finished = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        # can_accept_more_data speaks of the input alone: output may still be pending when it
        # says yes, and a full buffer is the only sign of it.
        piece = data
        while True:
            output = self._decoder.process(piece, output_buffer_limit=OUTPUT_BYTES)
            yield output
            if len(output) < OUTPUT_BYTES and self._decoder.can_accept_more_data():
                break
            piece = b""
        self.finished = self._decoder.is_finished()


class _Zstd:
    def __init__(self) -> None:
        self._decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()

    @property
    def finished(self) -> bool:
        return self._decoder.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        for begin in range(0, len(data), ZSTD_BITE_BYTES):
            if self._decoder.eof:
                raise _trailing()
            yield self._decoder.decompress(data[begin : begin + ZSTD_BITE_BYTES])
            if self._decoder.unused_data:
                raise _trailing()


class _Gzip:
    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def finished(self) -> bool:
        return self._decoder.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield self._decoder.decompress(data, OUTPUT_BYTES)
            # After the end it never shrinks again: to wait for it would be for ever.
            data = b"" if self._decoder.eof else self._decoder.unconsumed_tail
        if self._decoder.unused_data:
            raise _trailing()


class _Plain:
    finished: bool = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "brotli": _Brotli,
    "zstd": _Zstd,
    "gzip": _Gzip,
    "none": _Plain,
}
_ERRORS = (brotli.error, zstandard.ZstdError, zlib.error)


def inflate(source: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Yield the raw bytes of ``source`` in pieces of at most a few MiB.

    Raises:
        ContentInvalid: StreamCorrupt, StreamTruncated or TrailingData.

    """
    decoder = _DECODERS[encoding]()
    while chunk := source.read(CHUNK_BYTES):
        if decoder.finished and encoding != "none":
            raise _trailing()
        try:
            yield from decoder.feed(chunk)
        except _ERRORS as e:
            if encoding == "brotli" and _brotli_ends_within(source, len(chunk)):
                raise _trailing() from None
            raise ContentInvalid(
                Reason.STREAM_CORRUPT,
                f"are no {encoding} stream: a part is missing, damaged or in the wrong place of "
                f"spec.module.configMaps, or spec.module.encoding is another ({e})",
            ) from None
    if not decoder.finished:
        raise ContentInvalid(
            Reason.STREAM_TRUNCATED,
            f"are a {encoding} stream without its end; add the missing parts",
        )


def _trailing() -> ContentInvalid:
    return ContentInvalid(
        Reason.TRAILING_DATA,
        "go on after the end of the compressed stream; a part may be listed twice",
    )


def _brotli_ends_within(source: BinaryIO, length: int) -> bool:
    """Say whether a whole stream ends within the chunk that the decoder has just refused.

    The binding refuses trailing bytes as it refuses corrupt ones. Only here, in the failed case,
    the chunk is fed again byte by byte.
    """
    end = source.tell()
    source.seek(0)
    decoder = _Brotli()
    try:
        while (left := end - length - source.tell()) > 0:
            for _ in decoder.feed(source.read(min(CHUNK_BYTES, left))):
                pass
        for byte in source.read(length):
            for _ in decoder.feed(bytes([byte])):
                pass
            if decoder.finished:
                return True
    except brotli.error:
        pass
    finally:
        source.seek(end)
    return False
