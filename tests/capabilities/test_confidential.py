"""confidential-http@1.0.0-alpha: secrets are filled in on the way out, and seen by nobody else."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from capabilities.asked import Execution, MemoryVault, Server, asking, serving
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.confidential_http_pb2 import (
    ConfidentialHTTPRequest,
    HeaderValues,
    HTTPRequest,
    HTTPResponse,
    SecretIdentifier,
)

_ID = "confidential-http@1.0.0-alpha"
_SECRETS = [
    {"id": "KEY", "secretKeyRef": {"name": "api", "key": "a"}},
    {"id": "KEY_2", "namespace": "other", "secretKeyRef": {"name": "api", "key": "b"}},
]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def _vault() -> MemoryVault:
    return MemoryVault(api={"a": b"hunter2", "b": b"swordfish"})


async def _send(execution: Execution, *secrets: tuple[str, str], **request: Any) -> HTTPResponse:
    asked = ConfidentialHTTPRequest(
        vault_don_secrets=[SecretIdentifier(key=k, namespace=n) for k, n in secrets],
        request=HTTPRequest(**request),
    )
    return await execution.ask(_ID, "SendRequest", asked, HTTPResponse)


async def test_secrets_are_filled_in_wherever_text_is_sent(server: Server) -> None:
    """URL, headers and a body of text; public values too. What comes back is as it came."""
    server.headers, server.body = [("x-a", "1"), ("X-A", "2")], b"answer"
    async with asking(_vault()) as operator:
        response = await _send(
            operator.execution(secrets=_SECRETS), ("KEY", ""), ("KEY_2", "other"),
            url=f"{server.url}{{{{.path}}}}?key={{{{ .KEY }}}}", method="POST",
            multi_headers={
                "Authorization": HeaderValues(values=["Bearer {{.KEY}}", "{{- .KEY_2 -}}"])
            },
            body_string='{"password":"{{.KEY_2}}","other":"{ {.KEY} }"}',
            template_public_values={"path": "v1/prices"},
        )  # fmt: skip
    [seen] = server.requests
    assert (seen.method, seen.path_qs) == ("POST", "/v1/prices?key=hunter2")
    assert seen.headers.getall("Authorization") == ["Bearer hunter2", "swordfish"]
    assert server.bodies == [b'{"password":"swordfish","other":"{ {.KEY} }"}']
    assert (response.status_code, response.body) == (200, b"answer")
    assert list(response.multi_headers["X-A"].values) == ["1", "2"]


async def test_a_body_of_bytes_is_sent_as_it_is(server: Server) -> None:
    """Nothing that looks like a blank is one there."""
    async with asking(_vault()) as operator:
        execution = operator.execution(secrets=_SECRETS)
        await _send(execution, ("KEY", ""), url=server.url, method="POST", body_bytes=b"\0{{.KEY}}")
    assert server.bodies == [b"\0{{.KEY}}"]


async def test_a_secret_goes_before_a_public_value(server: Server) -> None:
    """No guest can have what it takes for a secret replaced by what it says in public."""
    async with asking(_vault()) as operator:
        await _send(
            operator.execution(secrets=_SECRETS), ("KEY", ""), url=server.url,
            template_public_values={"KEY": "public"}, method="POST", body_string="{{.KEY}}",
        )  # fmt: skip
    assert server.bodies == [b"hunter2"]


async def test_what_is_filled_in_is_not_looked_at_again(server: Server) -> None:
    """A secret that looks like a blank is no blank."""
    vault = MemoryVault(api={"a": b"{{.KEY_2}}", "b": b"swordfish"})
    async with asking(vault) as operator:
        await _send(
            operator.execution(secrets=_SECRETS), ("KEY", ""), ("KEY_2", "other"),
            url=server.url, method="POST", body_string="{{.KEY}}",
        )  # fmt: skip
    assert server.bodies == [b"{{.KEY_2}}"]


@pytest.mark.parametrize(
    ("secrets", "request_", "code", "what"),
    [
        ([], {"body_string": "{{.KEY}}"}, Code.INVALID_ARGUMENT, "body_string: {{.KEY}}"),
        ([("NO", "")], {}, Code.FAILED_PRECONDITION, 'secret "NO" in namespace "main"'),
        ([("KEY_2", "")], {}, Code.FAILED_PRECONDITION, "spec.cre.secrets"),
        ([], {"encrypt_output": True}, Code.UNIMPLEMENTED, "enclave"),
        ([], {"custom_root_ca_cert_pem": b"x"}, Code.UNIMPLEMENTED, "certificates"),
        ([], {"timeout": Duration(seconds=11)}, Code.LIMIT_EXCEEDED, "at most 10 s"),
        ([("KEY", "")] * 101, {}, Code.LIMIT_EXCEEDED, "101 secrets"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    server: Server, secrets: list[tuple[str, str]], request_: dict[str, Any], code: Code, what: str
) -> None:
    """And nothing is sent half-way."""
    async with asking(_vault()) as operator:
        execution = operator.execution(secrets=_SECRETS)
        with pytest.raises(CapabilityError) as told:
            await _send(execution, *secrets, url=server.url, method="POST", **request_)
    assert (told.value.code, what in told.value.message) == (code, True), told.value.message
    assert server.requests == []


async def test_a_host_is_no_place_for_a_secret() -> None:
    """It would be looked up, and named in errors."""
    async with asking(_vault()) as operator:
        with pytest.raises(CapabilityError, match="write the host itself"):
            await _send(
                operator.execution(secrets=_SECRETS), ("KEY", ""),
                url="http://{{.KEY}}.example.com/",
            )  # fmt: skip


async def test_the_specs_hosts_hold_here_too(server: Server) -> None:
    """A secret leaves for no host that the author did not name."""
    async with asking(_vault()) as operator:
        execution = operator.execution(secrets=_SECRETS, http={"allowHosts": ["a.example"]})
        with pytest.raises(CapabilityError, match="allowHosts"):
            await _send(execution, ("KEY", ""), url=server.url)
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/?{{.KEY}}", "http://127.0.0.1:99999/{{.KEY}}", "{{.KEY}}://a/"]
)
async def test_no_error_and_no_log_holds_the_secret(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with what it was filled into."""
    caplog.set_level(logging.DEBUG)
    vault = MemoryVault(api={"a": b"hunter2\r\n"})
    async with asking(vault) as operator:
        execution = operator.execution(secrets=_SECRETS)
        for headers in ({}, {"X": HeaderValues(values=["{{.KEY}}"])}):
            with pytest.raises(CapabilityError) as told:
                await _send(execution, ("KEY", ""), url=url, multi_headers=headers)
            assert "hunter2" not in told.value.text + caplog.text
