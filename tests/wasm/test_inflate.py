import gzip
import io
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import ContentInvalid
from sluice.reasons import Reason
from sluice.wasm.inflate import inflate

_PIECE_BYTES_MAX = 4 << 20
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "brotli": lambda raw: bytes(brotli.compress(raw, quality=5)),
    "zstd": lambda raw: bytes(zstandard.ZstdCompressor().compress(raw)),
    "gzip": lambda raw: gzip.compress(raw, mtime=0),
}
compressed = pytest.mark.parametrize("encoding", sorted(ENCODE))
WASM = bytes(range(256)) * 2000


def _inflated(data: bytes, encoding: str) -> bytes:
    return b"".join(inflate(io.BytesIO(data), encoding))


def _reason(data: bytes, encoding: str) -> tuple[Reason, str]:
    with pytest.raises(ContentInvalid) as refused:
        _inflated(data, encoding)
    return refused.value.reason, refused.value.message


@given(raw=st.binary(max_size=5000), times=st.integers(1, 200))
@pytest.mark.parametrize("encoding", ["none", *sorted(ENCODE)])
def test_what_was_packed_comes_back(encoding: str, raw: bytes, times: int) -> None:
    """Every encoding gives back exactly the bytes that went in, whatever they are."""
    encode = ENCODE.get(encoding, bytes)
    assert _inflated(encode(raw * times), encoding) == raw * times


@compressed
def test_every_truncation_is_told(encoding: str) -> None:
    """A stream cut anywhere says that parts are missing, not that the module is broken."""
    whole = ENCODE[encoding](WASM)
    for end in {0, 1, len(whole) // 2, len(whole) - 1}:
        reason, message = _reason(whole[:end], encoding)
        assert reason is Reason.STREAM_TRUNCATED
        assert "add the missing parts" in message


@compressed
@pytest.mark.parametrize("extra", [b"\0", b"x" * 100_000])
def test_what_follows_the_end_is_told(encoding: str, extra: bytes) -> None:
    """Bytes behind the stream are refused: nobody knows what they were meant to be."""
    reason, message = _reason(ENCODE[encoding](WASM) + extra, encoding)
    assert reason is Reason.TRAILING_DATA
    assert "listed twice" in message


@compressed
def test_a_second_stream_behind_the_first_is_trailing_data(encoding: str) -> None:
    """A part listed twice gives two whole streams; the second is not quietly inflated."""
    stream = ENCODE[encoding](WASM)
    assert _reason(stream + stream, encoding)[0] is Reason.TRAILING_DATA


@compressed
def test_trailing_data_is_told_at_a_chunk_s_edge(encoding: str) -> None:
    """It makes no difference where the reads of 64 KiB happen to fall."""
    noise = zlib.compress(WASM)  # incompressible, so that the stream is as long
    for size in range(65_300, 65_560, 7):
        raw = (noise * (size // len(noise) + 1))[:size]
        stream = ENCODE[encoding](raw)
        assert _inflated(stream, encoding) == raw
        assert _reason(stream + b"\0", encoding)[0] is Reason.TRAILING_DATA


@compressed
def test_parts_in_the_wrong_order_are_told(encoding: str) -> None:
    """Swapped halves are reported as damage that points to the order of the parts."""
    whole = ENCODE[encoding](WASM + bytes(brotli.compress(WASM)) * 40)
    reason, message = _reason(whole[len(whole) // 2 :] + whole[: len(whole) // 2], encoding)
    assert reason is Reason.STREAM_CORRUPT
    assert "wrong place of spec.module.configMaps" in message


@given(data=st.binary(min_size=1, max_size=200))
@compressed
def test_noise_is_refused_with_a_reason(encoding: str, data: bytes) -> None:
    """Whatever bytes come, they inflate or have a reason; nothing else is ever raised."""
    try:
        _inflated(data, encoding)
    except ContentInvalid as e:
        assert e.reason in {  # noqa: PT017 - noise may be a stream by chance
            Reason.STREAM_CORRUPT,
            Reason.STREAM_TRUNCATED,
            Reason.TRAILING_DATA,
        }


@pytest.mark.parametrize("true", sorted(ENCODE))
@compressed
def test_the_wrong_encoding_is_told(encoding: str, true: str) -> None:
    """A stream of one encoding is never taken for another's."""
    if encoding == true:
        assert _inflated(ENCODE[true](WASM), encoding) == WASM
    else:
        assert _reason(ENCODE[true](WASM), encoding)[0] in {
            Reason.STREAM_CORRUPT,
            Reason.STREAM_TRUNCATED,
            Reason.TRAILING_DATA,
        }


@compressed
def test_a_bomb_comes_in_pieces_that_can_be_refused(encoding: str) -> None:
    """A few KiB that inflate to 128 MiB never hold more than 4 MiB of it at once."""
    bomb = ENCODE[encoding](bytes(128 << 20))
    seen = 0
    for piece in inflate(io.BytesIO(bomb), encoding):
        assert len(piece) <= _PIECE_BYTES_MAX
        seen += len(piece)
        if seen > 32 << 20:
            break
    assert len(bomb) < 300_000
    assert seen <= (32 << 20) + _PIECE_BYTES_MAX


def test_a_zstd_bomb_of_tiny_blocks_comes_in_pieces() -> None:
    """The densest zstd there is, four bytes to 128 KiB, is bounded too."""
    header = bytes.fromhex("28b52ffd") + bytes([0x00, 0x88])  # no size, a window of 128 MiB
    block = ((128 << 10) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"  # run length encoded
    last = ((128 << 10) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    bomb = header + block * 2000 + last
    pieces = [len(piece) for piece in inflate(io.BytesIO(bomb), "zstd")]
    assert sum(pieces) == 2001 * (128 << 10)
    assert max(pieces) <= _PIECE_BYTES_MAX


def test_nothing_is_nothing() -> None:
    """No bytes at all are a stream only where there is no encoding."""
    assert _inflated(b"", "none") == b""
    assert _reason(b"", "brotli")[0] is Reason.STREAM_TRUNCATED
