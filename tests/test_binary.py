import base64
import errno
import io
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import Payload, workflow
from sluice.binary import Assembly, Part, TextDecoder
from sluice.errors import ContentInvalid, EngineRefused
from sluice.reasons import Reason
from sluice.workflow import PartRef

MAX = 1000


def assemble(directory: Path, payloads: list[Payload], text: str = "base64") -> bytes:
    """Feed the payloads as ConfigMaps cm-0, cm-1, … and return what stands in the file."""
    wanted = workflow(b"whatever", module={"text": text})
    with Assembly(wanted, directory, MAX) as assembly:
        for i, payload in enumerate(payloads):
            assembly.feed(PartRef(name=f"cm-{i}"), Part(payload, f"v{i}"))
        assembly.finish()
        return assembly.path.read_bytes()


class FullDisk(io.RawIOBase):
    """A file on a disk that has no room left."""

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refusal(directory: Path, payloads: list[Payload], text: str = "base64") -> ContentInvalid:
    with pytest.raises(ContentInvalid) as caught:
        assemble(directory, payloads, text)
    return caught.value


@st.composite
def _cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    text = draw(texts)
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _blanks(text: str, width: int) -> str:
    return "\r\n".join(text[i : i + width] for i in range(0, len(text), width)) + "\n"


class TestTextDecoder:
    @given(st.data(), st.binary(max_size=200), st.sampled_from(["base64", "hex"]))
    def test_text_cut_anywhere_is_the_bytes_it_was_made_of(
        self, data: st.DataObject, raw: bytes, notation: str
    ) -> None:
        """A text file may be split at any character, wrapped at any width, and comes out whole."""
        text = base64.b64encode(raw).decode() if notation == "base64" else raw.hex()
        wrapped = _blanks(text, data.draw(st.integers(1, 77)))
        pieces = data.draw(_cut(st.just(wrapped)))
        decoder = TextDecoder(notation)  # type: ignore[arg-type]
        decoded = b"".join(decoder.feed(piece) for piece in pieces)
        decoder.finish()
        assert decoded == raw

    @given(st.lists(st.binary(max_size=20), max_size=8))
    def test_parts_encoded_each_on_its_own_are_joined(self, raws: list[bytes]) -> None:
        """``base64 < part`` for each part leaves padding in the middle; it is understood."""
        decoder = TextDecoder("base64")
        decoded = b"".join(decoder.feed(base64.b64encode(raw).decode()) for raw in raws)
        decoder.finish()
        assert decoded == b"".join(raws)

    @given(_cut(st.text("AQg=+/ \n-_é", max_size=40)))
    def test_what_is_no_base64_is_refused_however_it_is_cut(self, pieces: list[str]) -> None:
        """Where the cuts are never decides whether a text is accepted, nor what it means."""
        assert _decoded(pieces) == _decoded(["".join(pieces)])

    @pytest.mark.parametrize("text", ["A===", "====", "=AAA", "AA=A", "AA-_", "AAAé", "AAA\x00"])
    def test_wrong_base64_is_refused(self, text: str) -> None:
        """Bad padding, the URL alphabet and foreign letters are errors, never skipped."""
        assert _decoded([text]) is None

    @pytest.mark.parametrize("text", ["0", "0g", "0x00", "é0"])
    def test_wrong_hex_is_refused(self, text: str) -> None:
        """An odd digit, a letter beyond f and a prefix are errors, never skipped."""
        assert _decoded([text], "hex") is None

    def test_a_megabyte_of_padding_is_work_for_a_megabyte(self) -> None:
        """A ConfigMap full of padding cannot stop the operator: it was quadratic, 100 s of it."""
        decoder = TextDecoder("base64")
        assert decoder.feed("AA==" * (1 << 18)) == bytes(1 << 18)


def _decoded(pieces: list[str], notation: str = "base64") -> bytes | None:
    decoder = TextDecoder(notation)  # type: ignore[arg-type]
    try:
        decoded = b"".join(decoder.feed(piece) for piece in pieces)
        decoder.finish()
    except ValueError:
        return None
    return decoded


class TestAssembly:
    @given(st.lists(st.binary(max_size=60), max_size=6))
    def test_parts_of_bytes_and_of_text_come_out_in_their_order(
        self, tmp_path_factory: pytest.TempPathFactory, raws: list[bytes]
    ) -> None:
        """Keys of binaryData and of data may be mixed; the file has all, in the spec's order."""
        payloads: list[Payload] = [
            raw if i % 2 else base64.b64encode(raw).decode() for i, raw in enumerate(raws)
        ]
        assert assemble(tmp_path_factory.getbasetemp(), payloads) == b"".join(raws)

    def test_the_file_is_ours_alone_and_dies_with_the_block(self, tmp_path: Path) -> None:
        """Nobody else reads a tenant's module, and nothing of it is left behind."""
        before = os.umask(0)
        try:
            with Assembly(workflow(b""), tmp_path, MAX) as assembly:
                assert stat.S_IMODE(assembly.path.stat().st_mode) == 0o600
        finally:
            os.umask(before)
        assert list(tmp_path.iterdir()) == []

    def test_the_file_dies_with_a_failure_too(self, tmp_path: Path) -> None:
        """A part that is refused leaves no file."""
        refusal(tmp_path, ["ABCD", "!!!!"])
        assert list(tmp_path.iterdir()) == []

    def test_as_much_as_is_allowed_is_taken(self, tmp_path: Path) -> None:
        """encoded_bytes_max itself is no excess."""
        assert assemble(tmp_path, [bytes(MAX - 1), b"x"]) == bytes(MAX - 1) + b"x"

    def test_one_byte_more_is_refused_and_can_be_mended(self, tmp_path: Path) -> None:
        """Too large is a fault of the ConfigMaps: changing one is enough to be tried again."""
        error = refusal(tmp_path, [bytes(MAX), b"x", b"never read"])
        assert error.reason is Reason.MODULE_TOO_LARGE
        assert "cm-1 have 1,001 bytes" in error.message
        assert error.seen == {"cm-0": "v0", "cm-1": "v1"}

    def test_a_wrong_text_names_its_config_map_and_key(self, tmp_path: Path) -> None:
        """The author reads which ConfigMap it was, and how else the bytes could be given."""
        error = refusal(tmp_path, ["00", "xy"], "hex")
        assert error.reason is Reason.PART_INVALID
        assert "key part of ConfigMap cm-1 is not hex text" in error.message
        assert "binaryData" in error.message
        assert error.seen == {"cm-0": "v0", "cm-1": "v1"}

    def test_a_text_that_ends_within_a_byte_is_refused(self, tmp_path: Path) -> None:
        """A cut-off last part is said to be one, not a wrong digest."""
        error = refusal(tmp_path, ["QUJDR"])
        assert error.reason is Reason.PART_INVALID
        assert "ends in the middle of a byte" in error.message

    def test_bytes_never_overtake_the_text_before_them(self, tmp_path: Path) -> None:
        """A text cut off before a part of bytes is an error where it is, not a mixed-up file."""
        error = refusal(tmp_path, ["QUJDR", b"bytes", "EVG"])
        assert error.reason is Reason.PART_INVALID
        assert "before ConfigMap cm-1" in error.message

    def test_a_config_map_that_changes_between_two_of_its_keys_is_seen_as_it_was_first(
        self, tmp_path: Path
    ) -> None:
        """What was read half before and half after an edit is read again, without another edit."""
        with Assembly(workflow(b""), tmp_path, MAX) as assembly:
            assembly.feed(PartRef(name="cm", key="a"), Part(b"old", "1"))
            assembly.feed(PartRef(name="cm", key="b"), Part(b"new", "2"))
            assert assembly.seen == {"cm": "1"}

    def test_a_disk_that_is_full_is_said_and_tried_again(self, tmp_path: Path) -> None:
        """A full disk is the operator's trouble: a reason and a retry, not a traceback."""
        with Assembly(workflow(b""), tmp_path, 1 << 20) as assembly:
            assembly._file.close()
            assembly._file = io.BufferedWriter(FullDisk())
            assembly.feed(PartRef(name="cm"), Part(b"buffered", "1"))
            with pytest.raises(EngineRefused) as caught:
                assembly.finish()
        assert "No space left on device" in caught.value.message
        assert not assembly.path.exists()

    def test_a_directory_that_is_gone_is_said(self, tmp_path: Path) -> None:
        """Where nothing can be written the condition names the place."""
        with pytest.raises(EngineRefused, match="gone cannot be written"):
            Assembly(workflow(b""), tmp_path / "gone", MAX)
