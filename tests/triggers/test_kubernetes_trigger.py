"""What a watch's lines mean, what a cursor remembers, and who may watch what."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.errors import WorkflowInvalid
from sluice.settings import Settings
from sluice.spec import KubernetesSpec
from sluice.triggers.kubernetes import (
    Broken,
    Expired,
    Mark,
    Seen,
    Standing,
    Told,
    differences,
    namespace_to_watch,
    read,
    scope_of,
    tell_by_name,
)
from sluice.workflow import WorkflowKey

_KEY = WorkflowKey("team", "hello")
_SPEC = KubernetesSpec(api_version="v1", kind="ConfigMap")
_THEN = datetime(2026, 1, 1, tzinfo=UTC)
_MUCH = 1 << 20


def _body(**metadata: Any) -> dict[str, Any]:
    names = {"name": "a", "namespace": "team", "uid": "u1", "resourceVersion": "7"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": names | metadata,
        "data": {"key": "value"},
    }


def _line(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode()


def _told(kind: str, body: dict[str, Any], bytes_max: int = _MUCH) -> Told:
    told = read(_line(kind, body), bytes_max)
    assert isinstance(told, Told)
    return told


def _standing(known: dict[str, Seen] | None = None, version: str = "5") -> Standing:
    return Standing("scope", version, _THEN, known)


@pytest.mark.parametrize(
    ("kind", "change"), [("ADDED", "Added"), ("MODIFIED", "Modified"), ("DELETED", "Deleted")]
)
def test_a_change_becomes_an_event(kind: str, change: str) -> None:
    """It holds the change and the object; its subject is namespace/name, its id the change's."""
    event = _told(kind, _body()).event("watch")
    assert event.id == f"u1@7-{change}"
    assert (event.kind, event.trigger, event.subject) == ("kubernetes", "watch", "team/a")
    assert event.data == {"type": change, "object": _body()}


def test_what_is_told_twice_has_one_id() -> None:
    """A repeat is a duplicate; another change of the same object is not."""
    ids = [
        _told(kind, _body(resourceVersion=version)).event("watch").id
        for kind, version in (("ADDED", "7"), ("ADDED", "7"), ("MODIFIED", "8"), ("DELETED", "9"))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_what_lies_in_no_namespace_is_named_without_one() -> None:
    """The subject of a cluster-scoped object is its name."""
    body = _body(name="node-1")
    del body["metadata"]["namespace"]
    assert _told("ADDED", body).event("watch").subject == "node-1"


def test_what_nobody_reads_is_left_out() -> None:
    """What managers own and kubectl's copy of the object go; other annotations stay."""
    copied = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    lean = _told("ADDED", _body(managedFields=[{"manager": "kubectl"}], annotations=copied))
    assert lean.data["object"] == _body()
    mixed = _told("ADDED", _body(annotations=copied | {"team": "x"}))
    assert mixed.data["object"]["metadata"]["annotations"] == {"team": "x"}


def test_an_object_that_fits_exactly_is_whole_and_one_byte_more_is_cut() -> None:
    """Past event_bytes_max an object is told by its metadata, and says so."""
    size = len(json.dumps({"type": "ADDED", "object": _body()}, separators=(",", ":")))
    whole = _told("ADDED", _body(), size)
    cut = _told("ADDED", _body(), size - 1)
    assert "truncated" not in whole.data
    assert whole.data["object"]["data"] == {"key": "value"}
    assert cut.data["truncated"] is True
    assert "data" not in cut.data["object"]
    assert cut.data["object"]["metadata"] == _body()["metadata"]


def test_metadata_that_is_too_large_leaves_the_names() -> None:
    """A megabyte of annotations neither stops the trigger nor reaches the guest."""
    told = _told("ADDED", _body(annotations={"note": "x" * 1000}), 500)
    assert told.data["object"]["metadata"] == _body()["metadata"]
    assert told.data["truncated"] is True


def test_a_bookmark_is_no_event() -> None:
    """It only says up to where all has been told."""
    assert read(_line("BOOKMARK", {"metadata": {"resourceVersion": "9"}}), _MUCH) == Mark("9")


@pytest.mark.parametrize(("code", "error"), [(410, Expired), (500, Broken)])
def test_an_error_in_the_stream_is_no_change(code: int, error: type[Exception]) -> None:
    """A forgotten past is told from any other failure."""
    line = _line("ERROR", {"kind": "Status", "code": code, "message": "too old"})
    with pytest.raises(error, match="too old"):
        read(line, _MUCH)


_KNOWN = st.dictionaries(
    st.text("abcdef0123456789-", min_size=1, max_size=36),
    st.builds(Seen, st.integers(1, 10**9).map(str), st.text(min_size=1, max_size=20)),
    max_size=20,
)


@given(_KNOWN | st.none(), st.text(max_size=10))
def test_a_cursor_survives_the_disk(known: dict[str, Seen] | None, version: str) -> None:
    """What is stored is what is read, whatever the names."""
    standing = _standing(known, version)
    assert Standing.load(standing.dump(), "scope") == standing


def test_a_cursor_of_a_thousand_objects_is_small() -> None:
    """With usual names, a thousand objects take about 80 KB beside each event."""
    names = {
        f"00000000-0000-0000-0000-{i:012x}": Seen(str(10**8 + i), f"team-a/settings-{i:05}")
        for i in range(1000)
    }
    assert len(_standing(names).dump()) < 100_000


@pytest.mark.parametrize("cursor", ["", "{}", "[1]", '{"scope":1}', "null"])
def test_a_cursor_that_cannot_be_read_is_none(cursor: str) -> None:
    """Whatever is in the journal, the trigger begins anew and does not fail."""
    assert Standing.load(cursor, "scope") is None


def test_a_cursor_of_other_objects_is_none() -> None:
    """An edit of kind, namespace or selectors begins anew; one of ``on`` goes on."""
    scopes = {
        scope_of(spec, namespace)
        for spec, namespace in [
            (_SPEC, "team"),
            (_SPEC, "other"),
            (KubernetesSpec(api_version="v1", kind="Pod"), "team"),
            (KubernetesSpec(api_version="v1", kind="ConfigMap", label_selector="a=b"), "team"),
            (KubernetesSpec(api_version="v1", kind="ConfigMap", field_selector="a=b"), "team"),
        ]
    }
    assert len(scopes) == 5
    fewer = KubernetesSpec(api_version="v1", kind="ConfigMap", on=("Added",))
    assert scope_of(fewer, "team") == scope_of(_SPEC, "team")
    assert Standing.load(_standing({}).dump(), "another") is None


@given(_KNOWN, _KNOWN)
def test_a_comparison_leads_from_one_to_the_other(
    known: dict[str, Seen], listed: dict[str, Seen]
) -> None:
    """Taking every difference as told makes what is known what is there; nothing is told twice."""
    standing = _standing(dict(known))
    told = list(differences(known, listed))
    for change, uid, seen in told:
        standing.note(Told(change, uid, seen, {}), 1000)
    assert standing.known == listed
    assert len({uid for _, uid, _ in told}) == len(told)
    assert list(differences(listed, listed)) == []


def test_what_was_made_anew_is_deleted_first() -> None:
    """An object of the same name with another uid: a clean-up must not come last."""
    known, listed = {"u1": Seen("3", "team/a")}, {"u2": Seen("8", "team/a")}
    assert [change for change, _, _ in differences(known, listed)] == ["Deleted", "Added"]


def test_up_to_the_bound_all_is_known_and_past_it_nothing() -> None:
    """The bound holds: the set is dropped, not grown."""
    standing = _standing({"u0": Seen("1", "team/0")})
    standing.note(Told("Added", "u1", Seen("6", "team/1"), {}), 2)
    assert standing.known is not None
    assert len(standing.known) == 2
    standing.note(Told("Added", "u2", Seen("7", "team/2"), {}), 2)
    assert standing.known is None


def test_where_nothing_is_known_the_version_and_the_age_tell() -> None:
    """What is newer than what was told is told: as added if it was created since."""
    standing, later = _standing(None, "5"), _THEN + timedelta(seconds=1)
    standing.at += timedelta(milliseconds=500)
    assert standing.newer(Seen("5", "team/a"), later) is None
    assert standing.newer(Seen("6", "team/a"), later) == "Added"
    assert standing.newer(Seen("6", "team/a"), _THEN) == "Added"  # the API tells seconds
    assert standing.newer(Seen("6", "team/a"), _THEN - timedelta(seconds=1)) == "Modified"
    assert standing.newer(Seen("xyz", "team/a"), later) == "Modified"


def test_a_listed_object_is_not_told_again() -> None:
    """A watch that repeats what the list had tells nothing; a deletion is always news."""
    standing = _standing({"u1": Seen("7", "team/a")})
    assert standing.told(_told("ADDED", _body()))
    assert not standing.told(_told("MODIFIED", _body(resourceVersion="8")))
    assert not standing.told(_told("DELETED", _body()))


def test_a_deletion_that_nobody_saw_is_told_by_name() -> None:
    """It has the kind, the name and the last known version, and says that this is all."""
    told = tell_by_name("Deleted", _SPEC, "u1", Seen("7", "team/a"))
    assert told.event("watch").subject == "team/a"
    assert told.data["truncated"] is True
    assert told.data["object"]["metadata"] == {
        "name": "a", "namespace": "team", "uid": "u1", "resourceVersion": "7",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "allowed", "namespace"),
    [
        (None, "", "team"),
        ("team", "", "team"),
        ("other", "other", "other"),
        ("other", "some, other", "other"),
        ("other", "*", "other"),
    ],
)
def test_an_allowed_namespace_is_watched(asked: str | None, allowed: str, namespace: str) -> None:
    """A workflow's own namespace always, another one if the admin says so."""
    assert _namespace(asked, allowed) == namespace


@pytest.mark.parametrize("allowed", ["", "team", "others", "oth*"])
def test_another_namespace_is_refused(allowed: str) -> None:
    """The message names both namespaces and the setting."""
    with pytest.raises(WorkflowInvalid) as told:
        _namespace("other", allowed)
    for word in ("team", "other", "watch_namespaces"):
        assert word in told.value.message


def test_what_lies_in_no_namespace_needs_the_admins_star() -> None:
    """Nodes and namespaces are everybody's: only an operator that may watch all may watch them."""
    assert _namespace(None, "*", namespaced=False) is None
    with pytest.raises(WorkflowInvalid, match="lies in no namespace"):
        _namespace(None, "team,other", namespaced=False)


def _namespace(asked: str | None, allowed: str, *, namespaced: bool = True) -> str | None:
    spec = KubernetesSpec(api_version="v1", kind="ConfigMap", namespace=asked)
    settings = Settings(watch_namespaces=allowed)
    return namespace_to_watch(_KEY, "watch", spec, namespaced=namespaced, settings=settings)
