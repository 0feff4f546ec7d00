"""A folder of manifests: the same fleet without a cluster.

Each file is read document by document, and what is kept of a ConfigMap is where it stands, so
that a part is in memory only while it is read, here too.
"""

import base64
import binascii
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sluice.binary import Part
from sluice.desire import Desire
from sluice.errors import ContentInvalid, WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.workflow import API_VERSION, KIND, PartRef, WorkflowKey

log = logging.getLogger(__name__)
_SUFFIXES = {".yaml", ".yml", ".json"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one document stands: bytes of a file, and the item where it is a list."""

    path: Path
    begin: int
    end: int
    item: int | None


@dataclass(slots=True)
class _Known:
    spec: str
    generation: int


class Directory:
    """Files and folders as a source of desires, and a ``supply.Source`` of their ConfigMaps."""

    def __init__(self, paths: Sequence[Path], namespace: str) -> None:
        self.paths, self._namespace = paths, namespace
        self._config_maps: dict[tuple[str, str], _Place] = {}
        self._known: dict[WorkflowKey, _Known] = {}

    def scan(self, settings: Settings) -> list[Desire]:
        """Return what the files ask for now.

        Raises:
            WorkflowInvalid: a file is no YAML, or two documents have one name.

        """
        config_maps: dict[tuple[str, str], _Place] = {}
        bodies: dict[WorkflowKey, dict[str, Any]] = {}
        for path in self.files():
            for place, body in _documents(path):
                metadata = body.setdefault("metadata", {})
                name, namespace = metadata.get("name"), metadata.get("namespace")
                metadata["namespace"] = namespace = namespace or self._namespace
                if not isinstance(name, str):
                    raise _wrong(path, f"a {body.get('kind')} has no metadata.name")
                if body.get("kind") == "ConfigMap":
                    config_maps[namespace, name] = place
                elif (body.get("kind"), body.get("apiVersion")) == (KIND, API_VERSION):
                    if bodies.setdefault(WorkflowKey(namespace, name), body) is not body:
                        raise _wrong(path, f"workflow {namespace}/{name} stands twice")
        self._config_maps = config_maps
        return [self._desire(key, body, settings) for key, body in sorted(bodies.items())]

    def files(self) -> list[Path]:
        """Return the files that are read, each once, in order."""
        found: dict[Path, None] = {}
        for path in self.paths:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            for file in inside:
                if file == path or (file.suffix in _SUFFIXES and file.is_file()):
                    found[file] = None
        return list(found)

    async def part(self, namespace: str, ref: PartRef) -> Part:
        body, version = self._read(namespace, ref.name)
        if body is None or version is None:
            raise ContentInvalid(
                Reason.CONFIG_MAP_NOT_FOUND,
                f"ConfigMap {ref.name} is in none of the files",
                {ref.name: None},
            )
        for section in ("binaryData", "data"):
            if (payload := (body.get(section) or {}).get(ref.key)) is not None:
                return Part(_payload(section, payload, ref, version), version)
        keys = sorted([*(body.get("binaryData") or {}), *(body.get("data") or {})])
        raise ContentInvalid(
            Reason.KEY_NOT_FOUND,
            f"ConfigMap {ref.name} has no key {ref.key}; it has {', '.join(keys) or 'none'}",
            {ref.name: version},
        )

    async def version(self, namespace: str, name: str) -> str | None:
        return self._read(namespace, name)[1]

    def _read(self, namespace: str, name: str) -> tuple[dict[str, Any] | None, str | None]:
        place = self._config_maps.get((namespace, name))
        if place is None:
            return None, None
        try:
            with place.path.open("rb") as file:
                file.seek(place.begin)
                text = file.read(place.end - place.begin)
            body = _load(place.path, text)
        except (OSError, WorkflowInvalid):
            return None, None  # the file is being written: the next scan will tell
        if place.item is not None and body is not None:
            body = body["items"][place.item]
        return body, hashlib.sha256(text).hexdigest()

    def _desire(self, key: WorkflowKey, body: dict[str, Any], settings: Settings) -> Desire:
        # A generation as the API server would count it: one more for each change of the spec.
        spec = repr(body.get("spec"))
        known = self._known.setdefault(key, _Known(spec, 1))
        if known.spec != spec:
            known.spec, known.generation = spec, known.generation + 1
        metadata = {"uid": str(key), "generation": known.generation}
        return Desire.of(body | {"metadata": body["metadata"] | metadata}, settings)


def _documents(path: Path) -> Iterator[tuple[_Place, dict[str, Any]]]:
    with path.open("rb") as file:
        for begin, end, text in _pieces(file):
            body = _load(path, text)
            if body is None:
                continue
            if isinstance(body.get("items"), list):
                for i, item in enumerate(body["items"]):
                    yield _Place(path, begin, end, i), item
            else:
                yield _Place(path, begin, end, None), body


def _pieces(lines: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Cut a stream at its ``---`` lines, which no scalar of a manifest can hold at column 0."""
    begin = position = 0
    piece: list[bytes] = []
    for line in lines:
        if line.startswith(b"---") and not line[3:].strip():
            yield begin, position, b"".join(piece)
            piece, begin = [], position
        else:
            piece.append(line)
        position += len(line)
    yield begin, position, b"".join(piece)


def _load(path: Path, text: bytes) -> dict[str, Any] | None:
    try:
        body = yaml.load(text.removeprefix(b"---\n"), Loader=yaml.CSafeLoader)
    except yaml.YAMLError as e:
        raise _wrong(path, f"is no YAML: {' '.join(str(e).split())}") from None
    if body is not None and not isinstance(body, dict):
        raise _wrong(path, "holds something that is no Kubernetes object")
    return body


def _payload(section: str, payload: Any, ref: PartRef, version: str) -> bytes | str:
    if section == "data":
        return str(payload)
    try:
        return payload if isinstance(payload, bytes) else base64.b64decode(payload)
    except (binascii.Error, TypeError, ValueError):
        raise ContentInvalid(
            Reason.PART_INVALID,
            f"key {ref.key} of ConfigMap {ref.name} is not base64",
            {ref.name: version},
        ) from None


def _wrong(path: Path, what: str) -> WorkflowInvalid:
    return WorkflowInvalid(Reason.INVALID_SPEC, f"{path}: {what}")
