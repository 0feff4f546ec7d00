"""What a watch tells, and what it means for a trigger: the parts that need no cluster. Pure.

A workflow sees what the operator's rights let it see, and its author may have fewer. So a trigger
watches its workflow's own namespace, and only kinds that the admin gave the operator the right to;
another namespace, and what lies in none, needs the setting ``watch_namespaces`` besides.
"""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from sluice.errors import WorkflowInvalid
from sluice.event import Event
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import Change, KubernetesSpec
from sluice.workflow import WorkflowKey

_CHANGES: dict[str, Change] = {"ADDED": "Added", "MODIFIED": "Modified", "DELETED": "Deleted"}
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_GONE = 410


class Expired(Exception):  # noqa: N818 - what the API server calls it
    """The version to go on from is forgotten: what changed is found by comparison."""


class Broken(Exception):  # noqa: N818
    """The API server ended the watch with an error; it is opened anew."""


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """All that is kept of an object."""

    version: str
    name: str  # namespace/name


class Told(msgspec.Struct, frozen=True):
    """One change of one object; ``data`` is what the guest gets."""

    change: Change
    uid: str
    seen: Seen
    data: dict[str, Any]

    def event(self, trigger: str) -> Event:
        """Return its event, whose id is the same however often it is told."""
        return Event(
            kind="kubernetes",
            trigger=trigger,
            id=f"{self.uid}@{self.seen.version}-{self.change}",
            subject=self.seen.name,
            data=self.data,
        )


class Mark(msgspec.Struct, frozen=True):
    """A bookmark: all up to this version has been told."""

    version: str


class Standing(msgspec.Struct):
    """Where a trigger stands: up to which version it has told, and what was there then.

    ``known`` None: it is more than ``watched_objects_max``, and after a gap no deletion can be
    told. ``at`` is when the version was current, for those: what is older was not added since.
    """

    scope: str
    version: str
    at: datetime
    known: dict[str, Seen] | None

    @classmethod
    def load(cls, cursor: str | None, scope: str) -> Self | None:
        """Return what a cursor says; None where there is none for this resource and selectors."""
        if cursor is None:
            return None
        try:
            standing = msgspec.json.decode(cursor, type=cls)
        except msgspec.DecodeError:
            return None
        return standing if standing.scope == scope else None

    def dump(self) -> str:
        return msgspec.json.encode(self).decode()

    def told(self, told: Told) -> bool:
        """Whether this is no news: a watch that begins anew may repeat what was listed."""
        seen = (self.known or {}).get(told.uid)
        return told.change != "Deleted" and seen is not None and seen.version == told.seen.version

    def note(self, told: Told, objects_max: int) -> None:
        """Take it as told."""
        if self.known is None:
            return
        if told.change == "Deleted":
            self.known.pop(told.uid, None)
        else:
            self.known[told.uid] = told.seen
        if len(self.known) > objects_max:
            self.known = None

    def advance(self, version: str) -> None:
        self.version, self.at = version, datetime.now(UTC)

    def ahead_of(self, version: str) -> bool:
        """Whether this is of a time that is still to come, as far as versions can be compared."""
        return self.version.isdigit() and version.isdigit() and int(self.version) > int(version)

    def newer(self, seen: Seen, created: datetime) -> Change | None:
        """Say what became of a listed object, where it is not known what was there."""
        if not (self.version.isdigit() and seen.version.isdigit()):
            return "Modified"  # versions of an API that does not count: rather twice than never
        if int(seen.version) <= int(self.version):
            return None
        # A creation is told to the second: within one, rather added twice than never.
        return "Added" if created >= self.at.replace(microsecond=0) else "Modified"


def scope_of(spec: KubernetesSpec, namespace: str | None) -> str:
    """Return what tells this watch from one for other objects."""
    parts = (spec.api_version, spec.kind, namespace, spec.label_selector, spec.field_selector)
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def differences(
    known: dict[str, Seen], listed: dict[str, Seen]
) -> Iterator[tuple[Change, str, Seen]]:
    """Yield what changed from one to the other, as (change, uid, seen): deletions first.

    An object that was made anew under its name was deleted before it was added. What changed
    more than once is told once, as it is now; what came and went in between is not told.
    """
    for uid, seen in known.items():
        if uid not in listed:
            yield "Deleted", uid, seen
    for uid, seen in listed.items():
        before = known.get(uid)
        if before is None:
            yield "Added", uid, seen
        elif before.version != seen.version:
            yield "Modified", uid, seen


def read(line: bytes, bytes_max: int) -> Told | Mark:
    """Return what one line of a watch says; raises Expired or Broken where it is an error."""
    told = msgspec.json.decode(line)
    kind, body = told["type"], told["object"]
    if kind == "ERROR":
        message = str(body.get("message") or body)[:500]
        raise (Expired if body.get("code") == _GONE else Broken)(message)
    if kind == "BOOKMARK":
        return Mark(body["metadata"]["resourceVersion"])
    return tell(_CHANGES[kind], body, bytes_max)


def tell(change: Change, body: dict[str, Any], bytes_max: int) -> Told:
    """Return the change of an object; ``body`` loses what nobody reads.

    An object that is too large for an event is told by its metadata, marked ``truncated``; one
    whose metadata is too large as well by its names.
    """
    metadata = body["metadata"]
    uid, version = metadata["uid"], metadata["resourceVersion"]
    seen = Seen(version, full_name(metadata))
    metadata.pop("managedFields", None)
    annotations = metadata.get("annotations") or {}
    if annotations.pop(_LAST_APPLIED, None) is not None and not annotations:
        del metadata["annotations"]
    data: dict[str, Any] = {"type": change, "object": body}
    for names in (None, metadata, ("name", "namespace", "uid", "resourceVersion")):
        if names is not None:
            short = {name: metadata[name] for name in names if name in metadata}
            what = {name: body[name] for name in ("apiVersion", "kind") if name in body}
            data = {"type": change, "object": what | {"metadata": short}, "truncated": True}
        if len(msgspec.json.encode(data)) <= bytes_max:
            break
    return Told(change, uid, seen, data)


def tell_by_name(change: Change, spec: KubernetesSpec, uid: str, seen: Seen) -> Told:
    """Return the change of an object of which no more is left than its name."""
    namespace, _, name = seen.name.rpartition("/")
    metadata = {"name": name, "uid": uid, "resourceVersion": seen.version}
    if namespace:
        metadata["namespace"] = namespace
    body = {"apiVersion": spec.api_version, "kind": spec.kind, "metadata": metadata}
    return Told(change, uid, seen, {"type": change, "object": body, "truncated": True})


def full_name(metadata: dict[str, Any]) -> str:
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def namespace_to_watch(
    key: WorkflowKey, trigger: str, spec: KubernetesSpec, *, namespaced: bool, settings: Settings
) -> str | None:
    """Return the namespace to watch in, None for what lies in none.

    Raises:
        WorkflowInvalid: the admin does not allow it.

    """
    allowed = {item.strip() for item in settings.watch_namespaces.split(",")}
    if not namespaced:
        if "*" not in allowed:
            raise WorkflowInvalid(
                Reason.INVALID_SPEC,
                f"trigger {trigger}: {spec.kind} of {spec.api_version} lies in no namespace, and "
                "this operator watches such kinds only where its admin sets watch_namespaces to *",
            )
        return None
    namespace = spec.namespace or key.namespace
    if namespace != key.namespace and not allowed & {namespace, "*"}:
        raise WorkflowInvalid(
            Reason.INVALID_SPEC,
            f"trigger {trigger}: it may watch its own namespace {key.namespace}, not {namespace}; "
            f"leave namespace out, or have the admin add {namespace} to watch_namespaces",
        )
    return namespace
