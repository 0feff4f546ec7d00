"""Reports: signed so that anybody can tell by whom, with a key that stays where it is."""

import asyncio
import hashlib
import logging
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from coincurve import PrivateKey, PublicKey
from Crypto.Hash import keccak
from hypothesis import given
from hypothesis import strategies as st

from capabilities.asked import Execution, asking, asking_workflow
from sluice.capabilities.report import KeyUnusable, Signer, keccak256
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.sdk_pb2 import ReportRequest, ReportResponse
from sluice.settings import Settings

_ID = "consensus@1.0.0-alpha"
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _keccak(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


async def _sign(
    execution: Execution, payload: bytes = b"abi", more: Mapping[str, str] | None = None
) -> ReportResponse:
    request = ReportRequest(
        encoded_payload=payload, encoder_name="evm", signing_algo="ecdsa",
        hashing_algo="keccak256",
    )  # fmt: skip
    for name, value in (more or {}).items():
        setattr(request, name, value)
    return await execution.ask(_ID, "Report", request, ReportResponse)


def _signer(report: ReportResponse) -> bytes:
    """Return the address of who signed, as a contract's ecrecover finds it."""
    digest = _keccak(_keccak(report.raw_report) + report.report_context)
    key = PublicKey.from_signature_and_message(report.sigs[0].signature, digest, hasher=None)
    return _keccak(key.format(compressed=False)[1:])[-20:]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("0x" + "11" * 32 + "\n")
    return path


def test_the_hash_is_ethereums() -> None:
    """Not the SHA-3 that became a standard."""
    assert keccak256(b"").hex().startswith("c5d2460186f7233c927e7db2dcc703c0")
    assert keccak256(b"") != hashlib.sha3_256(b"").digest()


async def test_a_report_is_signed_by_the_operators_key(key_file: Path) -> None:
    """The signer is found from the signature, whose s is low, as contracts ask."""
    async with asking(cre_signing_key_file=str(key_file)) as operator:
        report = await _sign(operator.execution(asking_workflow("price"), "run-7"))
    public = PrivateKey(b"\x11" * 32).public_key.format(compressed=False)
    assert _signer(report) == _keccak(public[1:])[-20:]
    [signature] = report.sigs
    assert (len(signature.signature), signature.signer_id) == (65, 0)
    assert signature.signature[64] in {0, 1}
    assert int.from_bytes(signature.signature[32:64], "big") <= _ORDER // 2


async def test_what_a_report_says(key_file: Path) -> None:
    """Which execution of which module of which workflow, and the payload as it was given."""
    async with asking(cre_signing_key_file=str(key_file)) as operator:
        report = await _sign(operator.execution(asking_workflow("price"), "run-7"), b"payload")
    raw = report.raw_report
    assert len(raw) == 109 + len(b"payload")
    assert raw[:1] == b"\1"
    assert raw[1:33] == hashlib.sha256(b"run-7").digest()
    assert raw[45:77] == bytes(32)  # the digest of the tests' module
    assert raw[77:87] == hashlib.sha256(b"price").hexdigest()[:10].encode()
    assert raw[87:107] == _keccak(b"team")[-20:]
    assert raw[107:109] == b"\0\1"
    assert raw[109:] == b"payload"
    assert report.report_context == (
        report.config_digest + report.seq_nr.to_bytes(32, "big") + bytes(32)
    )


async def test_no_two_reports_have_one_number(key_file: Path) -> None:
    """Not even those that are signed in one moment; the configuration stays the same."""
    async with asking(cre_signing_key_file=str(key_file)) as operator:
        execution = operator.execution()
        reports = await asyncio.gather(*(_sign(execution) for _ in range(20)))
    numbers = [report.seq_nr for report in reports]
    assert numbers == sorted(set(numbers))
    assert len({report.config_digest for report in reports}) == 1
    assert len({report.report_context for report in reports}) == 20


@pytest.mark.parametrize(
    ("name", "value"),
    [("signing_algo", "ed25519"), ("signing_algo", ""), ("hashing_algo", "sha256")],
)
async def test_another_algorithm_is_refused(key_file: Path, name: str, value: str) -> None:
    """Nothing is signed in a way that nobody asked for."""
    async with asking(cre_signing_key_file=str(key_file)) as operator:
        with pytest.raises(CapabilityError, match=f'{name}: "{value}" is not known') as told:
            await _sign(operator.execution(), more={name: value})
    assert told.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("more", [0, 1])
async def test_a_payload_has_a_bound(key_file: Path, more: int) -> None:
    """100 KiB of a request are taken, one byte more is not."""
    size = (100 << 10) - 27 + more  # what the names of the algorithms take
    async with asking(cre_signing_key_file=str(key_file)) as operator:
        if more:
            with pytest.raises(CapabilityError, match="at most 102,400 are taken"):
                await _sign(operator.execution(), b"x" * size)
        else:
            report = await _sign(operator.execution(), b"x" * size)
            assert len(report.raw_report) == 109 + size


async def test_a_key_is_made_once_and_kept_for_the_operator_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next start signs with it again; the log says who signs, and no more."""
    caplog.set_level(logging.DEBUG)
    data_dir = tmp_path / "not" / "there"
    signers = set()
    for _ in range(2):
        async with asking(data_dir=data_dir) as operator:
            signers.add(_signer(await _sign(operator.execution())))
    [kept] = data_dir.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len(signers) == 1
    assert f"0x{signers.pop().hex()}" in caplog.text
    assert kept.read_text().strip() not in caplog.text


def test_two_processes_that_begin_at_once_have_one_key(tmp_path: Path) -> None:
    """Whoever comes second takes the first one's."""
    settings = Settings(data_dir=tmp_path)
    first = Signer.load(settings)
    (tmp_path / f".cre-signing.key.{1}").write_text("what a process that died left behind")
    assert Signer.load(settings).address == first.address


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    """It says what to do, and shows nothing of the key."""
    settings = Settings(data_dir=tmp_path)
    Signer.load(settings)
    [kept] = tmp_path.iterdir()
    kept.chmod(0o640)
    with pytest.raises(KeyUnusable, match="chmod 600") as told:
        Signer.load(settings)
    assert kept.read_text().strip() not in str(told.value)


@pytest.mark.parametrize(
    "text",
    ["", "11" * 31, "11" * 33, "zz" * 32, "00" * 32, f"{_ORDER:064x}", "é" * 64, "1" * 10**6],
)
async def test_a_file_that_holds_no_key(tmp_path: Path, text: str) -> None:
    """The guest learns that it was not its fault, the admin's log what is wrong; nobody the key."""
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(KeyUnusable, match="64 hex digits"):
        Signer.load(Settings(cre_signing_key_file=str(path)))
    async with asking(cre_signing_key_file=str(path)) as operator:
        with pytest.raises(CapabilityError) as told:
            await _sign(operator.execution())
    assert told.value.text.startswith(
        "Private:System:FailedPrecondition:the operator's signing key"
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A key that was named is not made in silence."""
    with pytest.raises(KeyUnusable, match="No such file"):
        Signer.load(Settings(cre_signing_key_file=str(tmp_path / "none")))
    assert list(tmp_path.iterdir()) == []


@given(st.binary(min_size=32, max_size=32), st.integers(1, _ORDER - 1))
def test_every_signature_is_of_the_form_that_contracts_take(digest: bytes, secret: int) -> None:
    """Any key, any digest: it is found again, s is low, and the same each time."""
    signer = Signer(PrivateKey.from_int(secret))
    signature = signer.sign(digest)
    assert signature == signer.sign(digest)
    assert signature[64] in {0, 1}
    assert 0 < int.from_bytes(signature[32:64], "big") <= _ORDER // 2
    key = PublicKey.from_signature_and_message(signature, digest, hasher=None)
    assert _keccak(key.format(compressed=False)[1:])[-20:] == signer.address
