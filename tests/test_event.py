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
