"""A folder of manifests: the same fleet without a cluster.

Each file is read document by document, and what is kept of a ConfigMap is where it stands, so
that a part is in memory only while it is read, here too.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

from sluice.binary import Part, key_missing
from sluice.desire import Desire
from sluice.errors import ContentInvalid, WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.workflow import API_VERSION, KIND, PartRef, Workflow, WorkflowKey

log = logging.getLogger(__name__)
_SUFFIXES = {".yaml", ".yml", ".json"}
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# A ConfigMap has at most 1 MiB; a list of them is read whole for each of its items.
_DOCUMENT_BYTES_MAX = 32 << 20
_DEPTH_MAX, _VALUES_MAX = 100, 100_000


class _Loader(yaml.CSafeLoader):
    """YAML as kubectl reads it: a date without quotes is the text it was written as."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one document stands: bytes of a file, and the item where it is a list."""

    path: Path
    begin: int
    end: int
    item: int | None
    version: str


@dataclass(slots=True)
class _Known:
    asked: str
    generation: int


@dataclass(slots=True)
class _Found:
    """What one scan has come across so far."""

    config_maps: dict[WorkflowKey, _Place] = field(default_factory=dict)
    workflows: dict[WorkflowKey, dict[str, Any]] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)


class Directory:
    """Files and folders as a source of desires, and a ``supply.Source`` of their ConfigMaps."""

    def __init__(self, paths: Sequence[Path], namespace: str) -> None:
        self.paths, self._namespace = paths, namespace
        self._config_maps: dict[WorkflowKey, _Place] = {}
        self._known: dict[WorkflowKey, _Known] = {}
        self._ignored: Counter[str] = Counter()
        self._stamps: list[tuple[Path, int, int, int]] = []

    def scan(self, settings: Settings) -> list[Desire]:
        """Return what the files ask for now.

        Raises:
            WorkflowInvalid: a file cannot be read or holds what no cluster would take, or two
                documents have one name. What was known before stays.

        """
        found = _Found()
        # Taken before the reading: what changes meanwhile has another stamp afterwards.
        self._stamps = self._look()
        for path in self.files():
            try:
                for place, body in _documents(path):
                    self._sort(found, place, body)
            except OSError as e:
                raise _wrong(path, f"cannot be read: {e.strerror}") from None
        self._config_maps = found.config_maps
        self._tell_ignored(found.ignored)
        for key in self._known.keys() - found.workflows.keys():
            del self._known[key]
        bodies = sorted(found.workflows.items())
        return [self._desire(key, body, settings) for key, body in bodies]

    def changed(self) -> bool:
        """Whether the files are other ones than at the last scan."""
        return self._look() != self._stamps

    def folders(self) -> list[Path]:
        """Return where changes show: a file that is replaced is another one, its folder stays."""
        found = {path if path.is_dir() else path.parent for path in self.paths}
        return sorted(path for path in found if path.is_dir())

    def files(self) -> list[Path]:
        """Return the files that are read, each once, in order."""
        found: dict[Path, Path] = {}
        for path in self.paths:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            for file in inside:
                if file.exists() and (
                    file == path or (file.suffix in _SUFFIXES and file.is_file())
                ):
                    found.setdefault(file.resolve(), file)
        return list(found.values())

    async def part(self, namespace: str, ref: PartRef) -> Part:
        body, version = await asyncio.to_thread(self._read, namespace, ref.name)
        if body is None:
            raise ContentInvalid(
                Reason.CONFIG_MAP_NOT_FOUND,
                f"ConfigMap {ref.name} is in none of the files",
                {ref.name: None},
            )
        for section in ("binaryData", "data"):
            if (payload := _section(body, section).get(ref.key)) is not None:
                return Part(_payload(section, payload, ref, version), version)
        raise key_missing(ref, [*_section(body, "binaryData"), *_section(body, "data")], version)

    async def version(self, namespace: str, name: str) -> str | None:
        place = self._config_maps.get(WorkflowKey(namespace, name))
        return place.version if place else None

    def _look(self) -> list[tuple[Path, int, int, int]]:
        stamps = []
        for path in self.files():
            try:
                stat = path.stat()
            except OSError:
                continue  # it has gone since it was listed
            stamps.append((path, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return stamps

    def _sort(self, found: _Found, place: _Place, body: Any) -> None:
        kind, version, key = self._identity(place.path, body)
        if (kind, version) == ("ConfigMap", "v1"):
            known = found.config_maps.setdefault(key, place)
            if known.version != place.version:
                raise _wrong(place.path, f"ConfigMap {key} stands in {known.path} too")
        elif (kind, version) == (KIND, API_VERSION):
            if found.workflows.setdefault(key, body) is not body:
                raise _wrong(place.path, f"workflow {key} stands twice")
        else:
            found.ignored[f"{kind} of {version}"] += 1

    def _identity(self, path: Path, body: Any) -> tuple[str, str, WorkflowKey]:
        """Return kind, API version and name; the namespace of who names none is put in."""
        if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
            raise _wrong(path, "holds something that is no Kubernetes object: it has no kind")
        kind, metadata = body["kind"], body.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise _wrong(path, f"the metadata of a {kind} is no map")
        name = metadata.get("name")
        namespace = metadata.get("namespace") or self._namespace
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _wrong(
                path, f"a {kind} has {_quoted(name)} as metadata.name; write lower-case letters, "
                "digits, - and ., in quotes if it is a number",
            )  # fmt: skip
        if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
            raise _wrong(path, f"{kind} {name} has {_quoted(namespace)} as metadata.namespace")
        annotations = metadata.get("annotations") or {}
        if not isinstance(annotations, dict) or any(
            not isinstance(text, str) for text in annotations.values()
        ):
            raise _wrong(path, f"{kind} {name} has metadata.annotations that map not text to text")
        metadata["namespace"] = namespace
        return kind, str(body.get("apiVersion")), WorkflowKey(namespace, name)

    def _tell_ignored(self, ignored: Counter[str]) -> None:
        if ignored and ignored != self._ignored:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
            log.warning("ignored: %s; only %s and ConfigMap are read", kinds, KIND)
        self._ignored = ignored

    def _read(self, namespace: str, name: str) -> tuple[dict[str, Any] | None, str]:
        place = self._config_maps.get(WorkflowKey(namespace, name))
        if place is None:
            return None, ""
        try:
            with place.path.open("rb") as file:
                file.seek(place.begin)
                text = file.read(place.end - place.begin)
            if _version(text) == place.version:
                body = _load(place.path, text)
                return body if place.item is None else body["items"][place.item], place.version
        except OSError:
            pass
        return None, ""  # the file has changed since: the next scan will tell

    def _desire(self, key: WorkflowKey, body: dict[str, Any], settings: Settings) -> Desire:
        metadata = body["metadata"] | {"uid": str(key), "generation": 1}
        desire = Desire.of(body | {"metadata": metadata}, settings)
        # A generation as the API server would count it, one more for each change of the spec; and
        # for each change of what it names, so that a mended ConfigMap heals without a wait.
        asked = [repr(body.get("spec"))]
        for name in _names(desire.workflow):
            place = self._config_maps.get(WorkflowKey(key.namespace, name))
            asked.append(place.version if place else "")
        version = _version("\n".join(asked).encode(errors="surrogatepass"))
        known = self._known.setdefault(key, _Known(version, 1))
        if known.asked != version:
            known.asked, known.generation = version, known.generation + 1
        return Desire.of(body | {"metadata": metadata | {"generation": known.generation}}, settings)


def _names(workflow: Workflow | None) -> list[str]:
    if workflow is None:
        return []
    names = [ref.name for ref in workflow.spec.module.config_maps]
    if workflow.spec.config_from:
        names.append(workflow.spec.config_from.config_map_key_ref.name)
    return names


def _documents(path: Path) -> Iterator[tuple[_Place, Any]]:
    if not path.is_file():
        raise _wrong(path, "is no regular file; its parts could not be read again when needed")
    with path.open("rb") as file:
        for begin, end, text in _pieces(path, file):
            body, version = _load(path, text), _version(text)
            if body is None:
                continue
            if _is_list(body):
                for i, item in enumerate(body["items"]):
                    yield _Place(path, begin, end, i, version), item
            else:
                yield _Place(path, begin, end, None, version), body


def _is_list(body: Any) -> bool:
    return (
        isinstance(body, dict)
        and str(body.get("kind")).endswith("List")
        and isinstance(body.get("items"), list)
    )


def _pieces(path: Path, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Cut a stream at its ``---`` lines, which no scalar of a manifest can hold at column 0."""
    begin = position = 0
    piece: list[bytes] = []
    while line := file.readline(_DOCUMENT_BYTES_MAX + 1):
        if piece and line.startswith(b"---") and not line[3:4].strip():
            yield begin, position, b"".join(piece)
            piece, begin = [], position
        piece.append(line)
        position += len(line)
        if position - begin > _DOCUMENT_BYTES_MAX:
            raise _wrong(
                path, f"has a document of more than {_DOCUMENT_BYTES_MAX:,} bytes; put a line "
                "--- between its objects instead of a list",
            )  # fmt: skip
    yield begin, position, b"".join(piece)


def _load(path: Path, text: bytes) -> Any:
    try:
        body = _parse(path, text)
        _check_plain(body, {}, 0)
    except (ValueError, RecursionError) as e:
        what = " ".join(str(e).split())
        raise _wrong(
            path, f"is no {'JSON' if path.suffix == '.json' else 'YAML'}: {what}"
        ) from None
    return body


def _parse(path: Path, text: bytes) -> Any:
    # JSON by its own parser: YAML's is slow on it, and refuses its tabs.
    if path.suffix == ".json":
        return json.loads(text.decode("utf-8-sig")) if text.strip() else None
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader it is
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from None


def _check_plain(value: Any, sizes: dict[int, int], depth: int) -> int:
    """Return how many values there are once every alias is written out.

    Raises:
        ValueError: JSON could not hold it, or not within reason. A few lines of aliases can stand
            for more than any memory holds.

    """
    if not isinstance(value, dict | list):
        if not isinstance(value, str | int | float | bytes | None) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise ValueError(f"{value!r:.40} is no value of JSON")
        return 1
    if (size := sizes.get(id(value))) is not None:
        return size
    if depth > _DEPTH_MAX:
        raise ValueError(f"it is nested more than {_DEPTH_MAX} deep, or contains itself")
    if isinstance(value, dict) and (odd := [key for key in value if not isinstance(key, str)]):
        raise ValueError(f"{odd[0]!r:.40} is the key of a map; put it in quotes")
    inside = value.values() if isinstance(value, dict) else value
    size = 1 + sum(_check_plain(item, sizes, depth + 1) for item in inside)
    if size > _VALUES_MAX:
        raise ValueError(f"it holds more than {_VALUES_MAX:,} values once its aliases are resolved")
    sizes[id(value)] = size
    return size


def _section(body: dict[str, Any], name: str) -> dict[str, Any]:
    section = body.get(name)
    return section if isinstance(section, dict) else {}


def _payload(section: str, payload: Any, ref: PartRef, version: str) -> bytes | str:
    if isinstance(payload, bytes) and section == "binaryData":
        return payload  # YAML's own !!binary
    if not isinstance(payload, str):
        _refuse(ref, version, "is no text; put it in quotes")
    if section == "data":
        return payload
    try:
        return base64.b64decode("".join(payload.split()), validate=True)
    except (binascii.Error, ValueError):
        _refuse(ref, version, "is not base64")


def _refuse(ref: PartRef, version: str, what: str) -> NoReturn:
    raise ContentInvalid(
        Reason.PART_INVALID, f"key {ref.key} of ConfigMap {ref.name} {what}", {ref.name: version}
    ) from None


def _version(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _quoted(value: Any) -> str:
    return "nothing" if value is None else f'"{str(value)[:60]}"'


def _wrong(path: Path, what: str) -> WorkflowInvalid:
    return WorkflowInvalid(Reason.INVALID_SPEC, f"{path}: {what}")
