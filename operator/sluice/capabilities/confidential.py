"""``confidential-http@1.0.0-alpha``: HTTP requests with secrets filled in where ``{{.NAME}}`` is.

At its home such a request is put together in an enclave. Here it is in this process, and all that
is left of the promise is that the guest need not see the secret. What only an enclave could do
(encrypted answers) is refused, not left out.
"""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from google.protobuf.any_pb2 import Any as Packed

from sluice.capabilities import Budget, CallContext, pack, unknown_method, unpack
from sluice.capabilities.secrets import SecretRefused
from sluice.capabilities.sending import Sending, Wanted
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.confidential_http_pb2 import (
    ConfidentialHTTPRequest,
    HeaderValues,
    HTTPRequest,
    HTTPResponse,
)
from sluice.settings import Settings

_BLANK = re.compile(r"\{\{-?\s*\.([A-Za-z_][A-Za-z0-9_]*)\s*-?\}\}")


class ConfidentialHttp:
    id = "confidential-http@1.0.0-alpha"

    def __init__(self, sending: Sending, settings: Settings) -> None:
        self.budget = Budget("ConfidentialHTTP", settings.cre_confidential_calls_max)
        self._sending, self._settings = sending, settings

    async def call(self, method: str, payload: Packed, context: CallContext) -> Packed:
        if method != "SendRequest":
            raise unknown_method(method, ["SendRequest"])
        asked = unpack(payload, ConfidentialHTTPRequest)
        request = asked.request
        _check(request)
        words = dict(request.template_public_values) | await self._secrets(asked, context)
        answered = await self._sending.send(_filled(request, words), context.spec)
        headers = {n: HeaderValues(values=v) for n, v in answered.headers.items()}
        return pack(
            HTTPResponse(
                status_code=answered.status, body=answered.body, multi_headers=headers
            )
        )  # fmt: skip

    async def _secrets(
        self, asked: ConfidentialHTTPRequest, context: CallContext
    ) -> dict[str, str]:
        most = self._settings.cre_secrets_max
        if len(asked.vault_don_secrets) > most:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED,
                f"vault_don_secrets: {len(asked.vault_don_secrets)} secrets; at most {most}",
            )
        try:
            return {
                secret.key: await context.secrets.value(secret.key, secret.namespace)
                for secret in asked.vault_don_secrets
            }
        except SecretRefused as e:
            raise CapabilityError(Code.FAILED_PRECONDITION, e.message) from None


def _check(request: HTTPRequest) -> None:
    """Refuse what cannot be done as it is asked for."""
    if request.encrypt_output:
        raise CapabilityError(
            Code.UNIMPLEMENTED, "encrypt_output: is not supported; there is no enclave here"
        )
    if request.custom_root_ca_cert_pem:
        raise CapabilityError(
            Code.UNIMPLEMENTED,
            "custom_root_ca_cert_pem: is not supported; the operator's own certificates are used",
        )
    try:
        host = urlsplit(request.url).netloc
    except ValueError:
        host = ""  # which whoever sends it tells
    if "{{" in host:  # hosts are looked up, and named in errors
        raise CapabilityError(
            Code.INVALID_ARGUMENT, "url: its host is to be filled in; write the host itself"
        )


def _filled(request: HTTPRequest, words: Mapping[str, str]) -> Wanted:
    """Fill in the URL, the headers' values and a body that is text. Bytes are sent as they are."""
    headers = [
        (name, _fill(f"multi_headers.{name}", value, words))
        for name, many in request.multi_headers.items()
        for value in many.values
    ]
    text = request.WhichOneof("body") == "body_string"
    return Wanted(
        method=request.method,
        url=_fill("url", request.url, words),
        headers=tuple(headers),
        body=_fill("body_string", request.body_string, words).encode()
        if text
        else request.body_bytes,
        timeout=request.timeout,
    )


def _fill(where: str, text: str, words: Mapping[str, str]) -> str:
    def word(blank: re.Match[str]) -> str:
        name = blank[1]
        if name not in words:
            raise CapabilityError(
                Code.INVALID_ARGUMENT,
                f"{where[:100]}: {{{{.{name[:100]}}}}} is neither in vault_don_secrets nor in "
                "template_public_values",
            )
        return words[name]

    return _BLANK.sub(word, text)
