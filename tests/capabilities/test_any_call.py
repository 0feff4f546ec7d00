"""Whatever a guest asks is answered: no request meets a mistake of ours, and none ends the loop."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from capabilities.asked import MemoryVault, asking
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.confidential_http_pb2 import ConfidentialHTTPRequest, HTTPRequest
from sluice.cre.proto.http_client_pb2 import Request
from sluice.cre.proto.sdk_pb2 import CapabilityRequest, ReportRequest, SimpleConsensusInputs

_URLS = st.text(max_size=30) | st.sampled_from([
    "http://127.0.0.1:1/", "http://[::1/", "http://[::1%25eth0]/", "https://127.0.0.1:99999/",
    "http://\u0130/", "http://a\u0301\u2024.example/", "http:///", "//a", "http://xn--/", "http://",
    "{{.KEY}}", "http://127.0.0.1:1/{{.KEY}}{{.NO}}", "http://127.0.0.1:1/#?", "HTTP://127.1/",
])  # fmt: skip
_METHODS = st.sampled_from(["", "GET", "post", "\u017fEARCH", "P OST"])
_PAIRS = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
_DURATIONS = st.fixed_dictionaries(
    {"seconds": st.integers(-(2**63), 2**63 - 1), "nanos": st.integers(-(2**31), 2**31 - 1)}
)
_NAMES = st.sampled_from(["ecdsa", "keccak256", "evm", ""])
_HTTP = st.builds(
    Request, url=_URLS, method=_METHODS, headers=_PAIRS, body=st.binary(max_size=9),
    timeout=st.none() | _DURATIONS,
    cache_settings=st.none() | st.fixed_dictionaries({"max_age": _DURATIONS}),
)  # fmt: skip
_CONFIDENTIAL = st.builds(
    ConfidentialHTTPRequest,
    request=st.builds(
        HTTPRequest, url=_URLS, method=_METHODS, body_string=st.text(max_size=9),
        template_public_values=_PAIRS, timeout=st.none() | _DURATIONS,
    ),
    vault_don_secrets=st.lists(
        st.fixed_dictionaries({"key": st.sampled_from(["KEY", "NO", ""])}), max_size=2
    ),
)  # fmt: skip
_REPORT = st.builds(
    ReportRequest, encoded_payload=st.binary(max_size=9), signing_algo=_NAMES, hashing_algo=_NAMES
)
_SIMPLE = st.builds(SimpleConsensusInputs, error=st.text(max_size=9))
_ASKED: list[tuple[str, str, st.SearchStrategy[Message]]] = [
    ("http-actions@1.0.0-alpha", "SendRequest", _HTTP),
    ("confidential-http@1.0.0-alpha", "SendRequest", _CONFIDENTIAL),
    ("consensus@1.0.0-alpha", "Simple", _SIMPLE),
    ("consensus@1.0.0-alpha", "Report", _REPORT),
]


@st.composite
def _requests(draw: st.DrawFn) -> CapabilityRequest:
    """Make a good message, one with a flaw, or none at all."""
    id_, method, messages = draw(st.sampled_from(_ASKED))
    payload = Packed()
    payload.Pack(draw(messages))
    flaw = draw(st.sampled_from(["", "", "", "value", "type", "method", "id"]))
    if flaw == "value":
        payload.value = draw(st.binary(max_size=40))
    elif flaw == "type":
        payload.type_url = draw(st.text(max_size=20))
    return CapabilityRequest(
        id=draw(st.text(max_size=200)) if flaw == "id" else id_,
        method=draw(st.text(max_size=200)) if flaw == "method" else method,
        payload=payload,
    )


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text("11" * 32)
    return path


@settings(max_examples=200, deadline=None)
@given(st.lists(_requests(), min_size=1, max_size=12))
def test_any_request_is_answered(key_file: Path, requests: list[CapabilityRequest]) -> None:
    """By a payload or by an error of the one form; the operator's own failures are none of them."""

    async def ask() -> None:
        vault = MemoryVault(api={"a": b"x\r\n"})
        key = {"id": "KEY", "secretKeyRef": {"name": "api", "key": "a"}}
        bounds: dict[str, Any] = {"cre_http_calls_max": 99, "cre_confidential_calls_max": 99}
        async with asking(vault, cre_signing_key_file=str(key_file), **bounds) as operator:
            execution = operator.execution(secrets=[key], http={"allowHosts": ["127.0.0.1"]})
            for response in await asyncio.gather(*map(execution.raw, requests)):
                if response.WhichOneof("response") == "error":
                    code = CapabilityError.parse(response.error).code
                    assert code not in {Code.INTERNAL, Code.UNKNOWN}, response.error
                else:
                    assert response.payload.type_url

    asyncio.run(ask())
