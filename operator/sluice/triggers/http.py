"""What an HTTP request means: its id, its event, its rate. Pure; the port is in adapters.

A body becomes data as CloudEvents says: JSON is a value, other text a string, the rest base64.
"""

import base64
import binascii
import http
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec

from sluice.event import JSON_TYPE, Event
from sluice.executions.acceptance import Find, Fire
from sluice.quantities import seconds
from sluice.spec import HttpSpec, RateSpec
from sluice.triggers.credentials import SecretReader
from sluice.workflow import WorkflowKey

_KIND = "http"
_ID = re.compile(r"[-._A-Za-z0-9:]{1,128}")
_ID_HEADERS = ("Idempotency-Key", "ce-id", "X-GitHub-Delivery")
_STRUCTURED = "application/cloudevents+json"
_JSON = re.compile(r"(application|text)/([-.\w]+\+)?json")
_REQUIRED = ("id", "source", "type")
_NESTED_SURELY_FINE = 200
_TEXT_CHARS_MAX = 1024  # of an attribute; CloudEvents asks for 64 KiB in all, the headers for less


class HttpDoor(Protocol):
    """A port at which triggers can be opened."""

    def open(
        self,
        key: WorkflowKey,
        trigger: str,
        spec: HttpSpec,
        secret: SecretReader | None,
        fire: Fire,
        find: Find,
    ) -> AbstractContextManager[None]:
        """Let callers in for as long as the block; of two that are open, the newer counts.

        Raises:
            WorkflowInvalid: a key of the spec is none.

        """
        ...


class BadRequest(Exception):  # noqa: N818 - named as HTTP does
    """The request cannot be an event; the message says what is wrong, to who sent it."""

    def __init__(self, message: str, status: http.HTTPStatus = http.HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class Bucket:
    """So many at once, and then so many a minute; the time comes from who asks."""

    def __init__(self, rate: RateSpec, now: float) -> None:
        self._per_s, self._burst = rate.per_minute / 60, float(rate.burst)
        self._tokens, self._at = self._burst, now

    def take(self, now: float) -> float:
        """Take one and return 0, or return in how many seconds there will be one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_s


def wait_s(text: str | None, most: float) -> float:
    """Return for how long a caller waits for the end; raises BadRequest."""
    if text is None:
        return 0.0
    try:
        wanted = seconds(text)
    except ValueError as e:
        raise BadRequest(f"wait: {e}") from None
    if wanted > most:
        raise BadRequest(f"wait: at most {most:g}s (http_wait_s_max); ask for the execution later")
    return wanted


def event_of(trigger: str, headers: Mapping[str, str], body: bytes) -> Event:
    """Return what a request says; raises BadRequest.

    Understood are a CloudEvent in structured and in binary mode, and any other body.
    """
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadRequest("Content-Encoding: send it as it is", _UNSUPPORTED)
    content_type = headers.get("Content-Type", "")
    media = content_type.partition(";")[0].strip().lower()
    if media == _STRUCTURED:
        attributes = _structured(body)
    elif media.startswith("application/cloudevents"):
        raise BadRequest(
            f"Content-Type: {media[:100]}: one event, as {_STRUCTURED} or in binary mode, is "
            "understood",
            _UNSUPPORTED,
        )
    else:
        attributes = _plain(headers) | _content(content_type, media, body)
    if found := _id(headers):
        attributes["id"] = found
    elif "id" in attributes:
        attributes["id"] = _checked_id("the event's id", attributes["id"])
    return Event(kind=_KIND, trigger=trigger, **attributes)


_UNSUPPORTED = http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def _id(headers: Mapping[str, str]) -> str | None:
    for name in _ID_HEADERS:
        if (given := headers.get(name)) is not None:
            # The draft of Idempotency-Key has it in quotes; most who send it have not.
            return _checked_id(name, re.sub(r'\A"(.*)"\Z', r"\1", given.strip()))
    return None


def _checked_id(where: str, given: str) -> str:
    if not _ID.fullmatch(given):
        raise BadRequest(
            f"{where}: write 1 to 128 letters, digits, - . _ and :, or give an Idempotency-Key "
            "that is"
        )
    return given


def _structured(body: bytes) -> dict[str, Any]:
    event = _json("the event", body)
    if not isinstance(event, dict):
        raise BadRequest("the event is no JSON object")
    content_type = event.get("datacontenttype")
    if not isinstance(content_type, str | None):
        raise BadRequest("datacontenttype is no text")
    attributes = _attributes(event) | _given(content_type=_limited("datacontenttype", content_type))
    if "data_base64" not in event:
        return attributes | {"data": event.get("data")}
    if event.get("data") is not None:
        raise BadRequest("the event has data and data_base64; give one of them")
    encoded = event["data_base64"]
    try:
        base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise BadRequest("data_base64 is not base64") from None
    return attributes | {"data_base64": encoded}


def _plain(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes of the headers: a CloudEvent's in binary mode, or GitHub's own."""
    if "ce-specversion" not in headers:
        return _given(subject=_limited("X-GitHub-Event", headers.get("X-GitHub-Event")))
    found = {
        name[3:].lower(): _unquoted(name, value)
        for name, value in headers.items()
        if name[:3].lower() == "ce-"
    }
    return _attributes(found)


def _unquoted(name: str, value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(f"{name} is not percent-encoded UTF-8") from None


def _attributes(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an Event has of the attributes of a CloudEvent; extensions are let go of."""
    if event.get("specversion") != "1.0":
        raise BadRequest("specversion is not 1.0")
    for name in _REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise BadRequest(f"a CloudEvent needs {name}, a text that is not empty")
        _limited(name, event[name])
    subject, time = event.get("subject"), event.get("time")
    if not isinstance(subject, str | None):
        raise BadRequest("subject is no text")
    attributes = {name: event[name] for name in _REQUIRED}
    return attributes | _given(subject=_limited("subject", subject), time=_time(time))


def _time(text: Any) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        time = None
    if time is None or time.tzinfo is None:
        raise BadRequest("time is no time of RFC 3339, such as 2026-01-31T12:00:00Z")
    return time


def _given(**attributes: Any) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _limited(name: str, text: str | None) -> str | None:
    if text is not None and len(text) > _TEXT_CHARS_MAX:
        raise BadRequest(f"{name} has more than {_TEXT_CHARS_MAX:,} characters")
    return text


def _content(content_type: str, media: str, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    _limited("Content-Type", content_type)
    if _JSON.fullmatch(media):
        return {"data": _json("the body", body)} | _given(content_type=_unusual(media))
    named = {"content_type": content_type or "application/octet-stream"}
    charset = re.search(r'charset="?([-\w]+)', content_type, re.IGNORECASE)
    if charset is None or charset[1].lower() in {"utf-8", "us-ascii"}:
        try:
            return named | {"data": body.decode()}
        except UnicodeDecodeError:
            pass
    return named | {"data_base64": base64.b64encode(body).decode()}


def _unusual(media: str) -> str | None:
    return None if media == JSON_TYPE else media


def _json(what: str, body: bytes) -> Any:
    try:
        value = msgspec.json.decode(body)
        # What it can read others cannot write: they need more of the stack for each level.
        if body.count(b"[") + body.count(b"{") > _NESTED_SURELY_FINE:
            json.dumps(value)
        return value  # noqa: TRY300 - one place for what is wrong
    except RecursionError:
        raise BadRequest(f"{what} is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise BadRequest(f"{what} is not JSON: {e}") from None
