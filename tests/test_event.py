import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.event import Event, new_id

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_a_guest_reads_the_data_that_was_sent(data: object) -> None:
    """Whatever JSON can say, a lone surrogate included, arrives as it was sent."""
    encoded = Event(kind="manual", trigger="now", data=data).encode("/team/hello")
    assert json.loads(encoded.decode())["data"] == data


def test_an_event_speaks_cloudevents() -> None:
    """A guest may use any CloudEvents library: the required attributes stand in it."""
    time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    event = Event(kind="cron", trigger="nightly", data={"a": "ü"}, id="7", time=time)
    assert event.encode("/team/hello").decode() == (
        '{"specversion":"1.0","id":"7","source":"/team/hello/triggers/nightly",'
        '"type":"dev.sluice.cron","time":"2026-01-02T03:04:05+00:00","data":{"a":"ü"}}'
    )


@pytest.mark.parametrize("data", [float("nan"), float("inf"), date(2026, 1, 1), b"bytes"])
def test_what_json_does_not_know_is_refused(data: object) -> None:
    """A guest never reads NaN or worse where its parser expects JSON."""
    with pytest.raises((TypeError, ValueError)):
        Event(kind="manual", trigger="now", data=data).encode("/team/hello")


def test_ids_sort_by_time_and_differ() -> None:
    """Executions listed by id stand in the order in which they began."""
    ids = [new_id() for _ in range(100)]
    assert len(set(ids)) == len(ids)
    assert [i.partition("-")[0] for i in ids] == sorted(i.partition("-")[0] for i in ids)


def test_attributes_that_somebody_gave_are_handed_on() -> None:
    """Type, source, subject and content of an event that came over HTTP are its sender's."""
    event = Event(
        kind="http", trigger="hook", id="7", type="com.example.made", source="/there",
        subject="it", content_type="image/png", data_base64="/w==",
    )  # fmt: skip
    told = json.loads(event.encode("/team/hello"))
    assert (told["type"], told["source"], told["subject"]) == ("com.example.made", "/there", "it")
    assert (told["datacontenttype"], told["data_base64"]) == ("image/png", "/w==")
    assert "data" not in told


def test_a_guest_can_tell_a_repeated_attempt() -> None:
    """The second attempt of one event says so, in an extension attribute; the first has none."""
    event = Event(kind="cron", trigger="nightly")
    assert "sluiceattempt" not in json.loads(event.encode("/team/hello"))
    assert json.loads(event.encode("/team/hello", 2))["sluiceattempt"] == 2


@given(_JSON)
def test_a_stay_on_disk_changes_nothing(data: object) -> None:
    """What the journal gives back is the event that was put into it."""
    event = Event(kind="manual", trigger="now", data=data)
    again = Event.load(event.dump())
    assert again == event
    assert again.encode("/team/hello") == event.encode("/team/hello")
