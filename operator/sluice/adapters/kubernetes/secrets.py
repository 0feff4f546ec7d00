"""One key of one Secret by its name: read when a caller has to be judged, kept for a minute."""

import asyncio
import base64
import binascii
import http
from dataclasses import dataclass

from sluice.adapters.kubernetes.api import Api, ApiError
from sluice.errors import SourceUnavailable
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import SecretKeyRef

# Who guesses makes us ask for it anew; not more often than this.
_FRESH_S = 3.0
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was read, and when: an answer, or that there was none."""

    at: float
    answer: bytes | SourceUnavailable


class Secrets:
    """A ``triggers.credentials.SecretSource``. Asks for the right to ``get`` Secrets, no other.

    That right is opt-in: whoever holds it can read every Secret whose name he knows. So there is
    no list and no watch, and a Secret is read only where an http trigger names it.
    """

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api, self._age_s_max = api, settings.secret_age_s_max
        self._kept: dict[_Key, _Kept] = {}
        self._reads: dict[_Key, asyncio.Task[_Kept]] = {}

    async def secret(self, namespace: str, ref: SecretKeyRef, *, fresh: bool = False) -> bytes:
        """Return the bytes of one key.

        Raises:
            SourceUnavailable: SecretNotFound, where there is no such Secret or key, or it is empty;
                SecretForbidden; or the API server does not answer.

        """
        key = (namespace, ref.name, ref.key)
        kept, now = self._kept.get(key), asyncio.get_running_loop().time()
        # What could not be read is asked for anew as soon as by those who guess.
        soon = fresh or (kept is not None and not isinstance(kept.answer, bytes))
        age_s_max = min(_FRESH_S, self._age_s_max) if soon else self._age_s_max
        if kept is None or now - kept.at >= age_s_max:
            kept = await self._read(key)
        if isinstance(kept.answer, bytes):
            return kept.answer
        raise kept.answer.with_traceback(None)

    async def read(self, namespace: str, ref: SecretKeyRef) -> bytes:
        """Return the bytes of one key as they are now, be it none, and keep them not.

        Raises:
            SourceUnavailable: as ``secret``, but for an empty value.

        """
        return await self._bytes(namespace, ref.name, ref.key)

    async def _read(self, key: _Key) -> _Kept:
        """Read once, however many wait for it; one that goes does not end it for the others."""
        reading = self._reads.get(key)
        if reading is None:
            reading = self._reads[key] = asyncio.create_task(self._answer(key))
            reading.add_done_callback(lambda _: self._reads.pop(key))
        return await asyncio.shield(reading)

    async def _answer(self, key: _Key) -> _Kept:
        try:
            answer: bytes | SourceUnavailable = _refusing_empty(await self._bytes(*key), key)
        except SourceUnavailable as e:
            answer = e
        now = asyncio.get_running_loop().time()
        # No other place forgets those that nobody asks for any more.
        for old in [k for k, kept in self._kept.items() if now - kept.at >= self._age_s_max]:
            del self._kept[old]
        self._kept[key] = kept = _Kept(now, answer)
        return kept

    async def _bytes(self, namespace: str, name: str, key: str) -> bytes:
        path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        try:
            # One attempt: a caller waits for the answer, and asks again himself.
            body = await self._api.ask("GET", path, attempts=1)
        except ApiError as e:
            raise _unread(name, e) from None
        try:
            value = base64.b64decode((body.get("data") or {})[key], validate=True)
        except (KeyError, binascii.Error):
            raise _not_found(f"Secret {name} has no key {key}; add it") from None
        return value


def _refusing_empty(value: bytes, key: _Key) -> bytes:
    """Refuse an empty value as a credential."""
    if not value.strip():
        raise _not_found(f"key {key[2]} of Secret {key[1]} is empty, and would let anybody in")
    return value


def _unread(name: str, error: ApiError) -> SourceUnavailable:
    if error.status == http.HTTPStatus.NOT_FOUND:
        return _not_found(f"Secret {name} is not there; apply it, it is looked for again by itself")
    if error.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        return SourceUnavailable(
            Reason.SECRET_FORBIDDEN,
            f"the operator may not read Secret {name}; an admin can allow it "
            "(chart value rbac.secrets)",
        )
    return error.unavailable(f"Secret {name}")


def _not_found(message: str) -> SourceUnavailable:
    # Not the workflow's fault for good: it is tried again until somebody applies the Secret.
    return SourceUnavailable(Reason.SECRET_NOT_FOUND, message)
