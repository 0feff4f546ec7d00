"""ConfigMaps read by name, one key's payload at a time."""

import base64
import binascii
import http
from typing import Any, NoReturn

from sluice.adapters.kubernetes.api import METADATA, Api, ApiError
from sluice.binary import Part, key_missing
from sluice.errors import ContentInvalid
from sluice.reasons import Reason
from sluice.workflow import PartRef


class ConfigMaps:
    """A ``supply.Source``. Asks for the right to ``get`` ConfigMaps, and no other."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def part(self, namespace: str, ref: PartRef) -> Part:
        try:
            body = await self._api.ask("GET", _path(namespace, ref.name))
        except ApiError as e:
            self._missing(ref.name, e)
        version = _version(body)
        payload = _payload(body, ref)
        if payload is None:
            keys = [*(body.get("binaryData") or {}), *(body.get("data") or {})]
            raise key_missing(ref, keys, version)
        return Part(payload, version)

    async def version(self, namespace: str, name: str) -> str | None:
        try:
            return _version(await self._api.ask("GET", _path(namespace, name), accept=METADATA))
        except ApiError as e:
            if e.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise e.unavailable(f"ConfigMap {name}") from None

    @staticmethod
    def _missing(name: str, error: ApiError) -> NoReturn:
        if error.status == http.HTTPStatus.NOT_FOUND:
            raise ContentInvalid(
                Reason.CONFIG_MAP_NOT_FOUND,
                f"ConfigMap {name} is not there; apply it, it is looked for again by itself",
                {name: None},
            ) from None
        raise error.unavailable(f"ConfigMap {name}") from None


def _path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


def _version(body: dict[str, Any]) -> str:
    # The uid too: one that was deleted and made anew in another cluster's backup may count anew.
    metadata = body["metadata"]
    return f"{metadata['uid']}/{metadata['resourceVersion']}"


def _payload(body: dict[str, Any], ref: PartRef) -> bytes | str | None:
    binary = (body.get("binaryData") or {}).get(ref.key)
    if binary is None:
        text: str | None = (body.get("data") or {}).get(ref.key)
        return text
    try:
        return base64.b64decode(binary, validate=True)
    except binascii.Error:  # the API server lets no such object in
        raise ContentInvalid(
            Reason.PART_INVALID, f"key {ref.key} of ConfigMap {ref.name} is not base64"
        ) from None
