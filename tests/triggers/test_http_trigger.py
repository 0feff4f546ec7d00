"""What an HTTP request means: its event, its id, its rate."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from sluice.event import Event
from sluice.spec import RateSpec
from sluice.triggers.http import BadRequest, Bucket, event_of, wait_s

BINARY = {
    "ce-specversion": "1.0", "ce-id": "evt-1", "ce-source": "/shop", "ce-type": "order.paid",
    "Content-Type": "application/json",
}  # fmt: skip
STRUCTURED = {
    "specversion": "1.0", "id": "evt-1", "source": "/shop", "type": "order.paid",
    "data": {"a": 1},
}  # fmt: skip
STRUCTURED_TYPE = "application/cloudevents+json; charset=utf-8"


def event(body: bytes = b"", **headers: str) -> Event:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return event_of("hook", CIMultiDict(named), body)


def structured(**changed: Any) -> Event:
    told = {name: value for name, value in (STRUCTURED | changed).items() if value is not ...}
    return event(json.dumps(told).encode(), Content_Type=STRUCTURED_TYPE)


def guest_reads(made: Event) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(made.encode("/team/hello"))
    return read


@pytest.mark.parametrize(("content_type", "body", "read"), [
    ("application/json", b'{"a": [1, null]}', {"data": {"a": [1, None]}}),
    ("application/json; charset=utf-8", b'"x"', {"data": "x"}),
    ("application/problem+json", b"1", {"data": 1, "datacontenttype": "application/problem+json"}),
    ("application/json", b"", {"data": None}),
    ("text/plain", "grüezi".encode(), {"data": "grüezi", "datacontenttype": "text/plain"}),
    ("text/plain; charset=latin1", b"ab", {"data_base64": "YWI=",
     "datacontenttype": "text/plain; charset=latin1"}),
    ("text/csv", b'{"a":', {"data": '{"a":', "datacontenttype": "text/csv"}),
    ("application/octet-stream", b"\x00\xff", {"data_base64": "AP8=",
     "datacontenttype": "application/octet-stream"}),
    ("", b"ab", {"data": "ab", "datacontenttype": "application/octet-stream"}),
    ("", b"", {"data": None}),
])  # fmt: skip
def test_a_body_becomes_data(content_type: str, body: bytes, read: dict[str, Any]) -> None:
    """JSON is a value, other text a string, bytes that are none base64: as CloudEvents says."""
    headers = {"Content_Type": content_type} if content_type else {}
    told = guest_reads(event(body, **headers))
    assert {k: v for k, v in told.items() if k.startswith("data")} == read
    assert (told["type"], told["source"]) == ("dev.sluice.http", "/team/hello/triggers/hook")


@pytest.mark.parametrize(("body", "says"), [
    (b'{"a":', "the body is not JSON"),
    (b"{'a': 1}", "the body is not JSON"),
    (b"{} {}", "the body is not JSON"),
    (b"NaN", "the body is not JSON"),
    (b"1e999", "the body is not JSON"),
    (b'"\\ud800"', "the body is not JSON"),
    (b'"\xff"', "the body is not JSON"),
    (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
])  # fmt: skip
def test_json_that_is_none_is_told(body: bytes, says: str) -> None:
    """A guest never gets what it could not read again."""
    with pytest.raises(BadRequest, match=says) as bad:
        event(body, Content_Type="application/json")
    assert bad.value.status == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize("depth", range(900, 1000, 5))
def test_what_is_taken_can_be_kept(depth: int) -> None:
    """Data at the very depth that Python still reads is refused, or goes all the way."""
    made = None
    with suppress(BadRequest):
        made = event(b"[" * depth + b"]" * depth, Content_Type="application/json")
    assert made is None or Event.load(made.dump()).encode("/team/hello")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner),
))  # fmt: skip
def test_any_json_arrives_as_it_was(value: Any) -> None:
    """Whatever JSON says reaches the guest, through the journal too."""
    sent = event(json.dumps(value).encode(), Content_Type="application/json")
    assert guest_reads(Event.load(sent.dump()))["data"] == value


@given(st.binary(min_size=1))
def test_any_bytes_arrive_as_they_were(body: bytes) -> None:
    """Bytes of no declared type reach the guest as text or base64, and nothing is lost."""
    import base64

    told = guest_reads(event(body))
    if "data_base64" in told:
        assert base64.b64decode(told["data_base64"]) == body
    else:
        assert told["data"].encode() == body


def test_a_cloudevent_in_headers() -> None:
    """Binary mode: the attributes are the headers, percent-encoded, the data is the body."""
    headers = BINARY | {"ce-time": "2026-01-31T12:00:00+01:00", "ce-subject": "gr%C3%BCn"}
    made = event_of("hook", CIMultiDict(headers), b'{"a": 1}')
    told = guest_reads(made)
    assert made.time == datetime(2026, 1, 31, 11, tzinfo=UTC)
    assert {k: told[k] for k in ("id", "source", "type", "subject", "data")} == {
        "id": "evt-1", "source": "/shop", "type": "order.paid", "subject": "grün",
        "data": {"a": 1},
    }  # fmt: skip


def test_a_cloudevent_as_json() -> None:
    """Structured mode: the whole event is the body, its data text, a value, or base64."""
    told = guest_reads(structured(time="2026-01-31T12:00:00Z", subject="x", extension=1))
    assert {k: told[k] for k in ("id", "source", "type", "subject", "time", "data")} == {
        "id": "evt-1", "source": "/shop", "type": "order.paid", "subject": "x",
        "time": "2026-01-31T12:00:00+00:00", "data": {"a": 1},
    }  # fmt: skip
    encoded = structured(data=..., data_base64="AP8=", datacontenttype="image/png")
    assert guest_reads(encoded)["data_base64"] == "AP8="
    assert guest_reads(encoded)["datacontenttype"] == "image/png"
    assert guest_reads(structured(data=...))["data"] is None


@pytest.mark.parametrize(("changed", "says"), [
    ({"specversion": "0.3"}, "specversion is not 1.0"),
    ({"specversion": ...}, "specversion is not 1.0"),
    ({"id": ...}, "needs id"),
    ({"source": ""}, "needs source"),
    ({"type": 1}, "needs type"),
    ({"type": "x" * 1025}, "type has more than"),
    ({"subject": 1}, "subject is no text"),
    ({"time": "yesterday"}, "no time of RFC 3339"),
    ({"time": "2026-01-31T12:00:00"}, "no time of RFC 3339"),
    ({"time": 1}, "no time of RFC 3339"),
    ({"data_base64": "AP8="}, "has data and data_base64"),
    ({"data": ..., "data_base64": "?"}, "data_base64 is not base64"),
    ({"data": ..., "data_base64": 1}, "data_base64 is not base64"),
    ({"datacontenttype": 1}, "datacontenttype is no text"),
    ({"id": "a b"}, "the event's id: write"),
])  # fmt: skip
def test_a_cloudevent_that_is_none_is_told(changed: dict[str, Any], says: str) -> None:
    """What is missing or wrong in an event is named."""
    with pytest.raises(BadRequest, match=says):
        structured(**changed)


@pytest.mark.parametrize(("headers", "body", "status", "says"), [
    ({"Content-Type": STRUCTURED_TYPE}, b"[]", 400, "no JSON object"),
    ({"Content-Type": STRUCTURED_TYPE}, b"", 400, "the event is not JSON"),
    ({"Content-Type": "application/cloudevents-batch+json"}, b"[]", 415, "one event"),
    ({"Content-Type": "application/cloudevents+avro"}, b"", 415, "one event"),
    ({"Content-Encoding": "gzip"}, b"", 415, "as it is"),
    (BINARY | {"ce-subject": "%FF"}, b"1", 400, "ce-subject is not percent-encoded"),
    (BINARY | {"ce-time": "noon"}, b"1", 400, "no time of RFC 3339"),
    ({"ce-specversion": "1.0"}, b"", 400, "needs id"),
])  # fmt: skip
def test_what_is_not_understood_is_told(
    headers: dict[str, str], body: bytes, status: int, says: str
) -> None:
    """Other forms of CloudEvents, and bodies that are packed, are refused by name."""
    with pytest.raises(BadRequest, match=says) as bad:
        event_of("hook", CIMultiDict(headers), body)
    assert bad.value.status == status


@pytest.mark.parametrize(("headers", "found"), [
    ({"Idempotency-Key": "a-1"}, "a-1"),
    ({"Idempotency-Key": '"a-1"'}, "a-1"),
    ({"X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"},
     "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
    (BINARY, "evt-1"),
    (BINARY | {"Idempotency-Key": "mine"}, "mine"),
    ({"Idempotency-Key": "a" * 128}, "a" * 128),
])  # fmt: skip
def test_who_sends_gives_the_id(headers: dict[str, str], found: str) -> None:
    """Idempotency-Key, a CloudEvent's id or GitHub's delivery is the execution's, in this order."""
    assert event_of("hook", CIMultiDict(headers), b"1").id == found


@pytest.mark.parametrize("key", ["", "a" * 129, "a/b", "a b", "a@b", "grün", '""', '"a', "a\n"])
def test_an_id_that_is_none_is_told(key: str) -> None:
    """An id that could be another trigger's, or break a line, is refused."""
    with pytest.raises(BadRequest, match="Idempotency-Key: write 1 to 128"):
        event(b"", Idempotency_Key=key + ("" if key != "a\n" else "b"))


def test_githubs_event_is_the_subject() -> None:
    """What kind of a delivery it is stands in a header alone; the guest is told."""
    assert guest_reads(event(b"{}", X_GitHub_Event="push"))["subject"] == "push"


def test_a_rate_lets_a_burst_through_and_then_so_many_a_minute() -> None:
    """Of 60 a minute and 10 at once, 10 come at once, and then one each second; no debt is kept."""
    bucket = Bucket(RateSpec(per_minute=60, burst=10), 0.0)
    assert [bucket.take(0.0) for _ in range(11)] == [0.0] * 10 + [1.0]
    assert bucket.take(0.5) == 0.5
    assert [bucket.take(1.0), bucket.take(1.0)] == [0.0, 1.0]
    # An hour without a request is no more than a burst.
    assert sum(bucket.take(3600.0) == 0.0 for _ in range(60)) == 10


def test_over_a_long_time_no_more_than_the_rate_comes_through() -> None:
    """Whoever asks a hundred times a second gets the rate, and what the first burst was."""
    bucket = Bucket(RateSpec(per_minute=120, burst=5), 0.0)
    assert sum(bucket.take(i / 128) == 0.0 for i in range(60 * 128 + 1)) == 5 + 120


def test_a_wait_is_bounded() -> None:
    """A caller may wait as long as the operator allows; the words of a longer one are told."""
    assert wait_s(None, 60) == 0
    assert (wait_s("1m", 60), wait_s("500ms", 60)) == (60, 0.5)
    for text, says in (("61s", "at most 60s"), ("-1s", "no duration"), ("30", "no duration"),
                       ("", "no duration")):  # fmt: skip
        with pytest.raises(BadRequest, match=says):
            wait_s(text, 60)
