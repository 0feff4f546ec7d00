"""Secrets of a CRE workflow: keys of Kubernetes Secrets that its spec names, read for each call.

Nothing that is read is logged, quoted in an error or kept for longer than the call that wanted it.
"""

from collections.abc import Sequence
from typing import Protocol

from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.sdk_pb2 import (
    Secret,
    SecretError,
    SecretRequest,
    SecretResponse,
    SecretResponses,
)
from sluice.errors import SourceUnavailable
from sluice.settings import Settings
from sluice.spec import CRE_NAMESPACE, SecretKeyRef
from sluice.workflow import Workflow

_NAME_CHARS_MAX = 100


class Vault(Protocol):
    """Where Secrets are: one key of one Secret by its name, as it is now."""

    async def read(self, namespace: str, ref: SecretKeyRef) -> bytes:
        """Raise SourceUnavailable where it cannot be had: SecretNotFound, SecretForbidden."""
        ...


class SecretRefused(Exception):  # noqa: N818 - named for what it says
    """A secret that cannot be given; ``message`` is for the author and holds none of it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SecretReader:
    """The secrets of one execution's workflow."""

    def __init__(self, workflow: Workflow, vault: Vault, settings: Settings) -> None:
        self._namespace = workflow.key.namespace
        self._vault, self._settings = vault, settings
        named = workflow.spec.cre.secrets if workflow.spec.cre else ()
        self._refs = {(secret.namespace, secret.id): secret.secret_key_ref for secret in named}

    async def value(self, id_: str, namespace: str = "") -> str:
        """Return one secret; raises SecretRefused."""
        space = namespace or CRE_NAMESPACE
        ref = self._refs.get((space, id_))
        what = f'secret "{id_[:_NAME_CHARS_MAX]}" in namespace "{space[:_NAME_CHARS_MAX]}"'
        if ref is None:
            raise SecretRefused(f"{what} is not there; list it in the workflow's spec.cre.secrets")
        try:
            value = await self._vault.read(self._namespace, ref)
        except SourceUnavailable as e:
            raise SecretRefused(f"{what} cannot be read: {e.message}") from None
        most = self._settings.cre_secret_bytes_max
        if len(value) > most:
            raise SecretRefused(f"{what} is too large; at most {most:,} bytes are given")
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise SecretRefused(f"{what} is no UTF-8 text") from None

    async def answer(self, requests: Sequence[SecretRequest]) -> SecretResponses:
        """Answer each request in its place; raises CapabilityError where they are too many."""
        most = self._settings.cre_secrets_max
        if len(requests) > most:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED, f"{len(requests)} secrets in one call; at most {most}"
            )
        left = self._settings.cre_secrets_bytes_max
        responses = []
        for request in requests:
            response = await self._answer(request, left)
            left -= len(response.secret.value.encode())
            responses.append(response)
        return SecretResponses(responses=responses)

    async def _answer(self, request: SecretRequest, left: int) -> SecretResponse:
        given = {
            "id": request.id, "namespace": request.namespace or CRE_NAMESPACE,
            "owner": self._namespace,
        }  # fmt: skip
        try:
            value = await self.value(request.id, request.namespace)
        except SecretRefused as e:
            return SecretResponse(error=SecretError(**given, error=e.message))
        if len(value.encode()) > left:
            most = self._settings.cre_secrets_bytes_max
            error = f"the secrets of one call have at most {most:,} bytes"
            return SecretResponse(error=SecretError(**given, error=error))
        return SecretResponse(secret=Secret(**given, value=value))
