"""A wasm file -> checked, compressed, cut into content-addressed ConfigMaps, one YAML stream."""

import base64
import gzip
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import brotli
import yaml
import zstandard

from sluice.errors import WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.wasm.compilation import Source
from sluice.wasm.runtime import Runtime
from sluice.workflow import API_VERSION, GROUP, KIND, Encoding, Workflow

# A plain `kubectl apply` repeats the object, base64 and all, in an annotation of at most 262,144
# bytes: 190,000 raw ones are 253,336 of base64, and leave room for the rest of the object.
PART_BYTES = 190_000
# The API server refuses objects over 1.5 MiB and ConfigMaps over 1 MiB (of raw bytes).
PART_BYTES_MAX = 1 << 20

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "brotli": lambda raw: brotli.compress(raw, quality=11),
    "zstd": zstandard.ZstdCompressor(level=19).compress,
    "gzip": lambda raw: gzip.compress(raw, 9, mtime=0),  # the time would make it another file
    "none": lambda raw: raw,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be packed and how; ``spec`` is merged into the Workflow's spec as it is."""

    wasm: bytes
    name: str
    namespace: str | None = None
    encoding: Encoding = "brotli"
    part_bytes: int = PART_BYTES
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Packed:
    """The documents in the order in which they are to be applied: parts, then the Workflow."""

    documents: list[dict[str, Any]]
    record: dict[str, Any]  # what the compile child said of the module
    digest: str
    encoded_bytes: int

    def yaml(self) -> Iterator[str]:
        """Yield the stream document by document; the same input gives the same bytes."""
        for document in self.documents:
            text = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=1 << 30)
            yield f"---\n{text}"


def pack(order: Order, settings: Settings) -> Packed:
    """Return the documents, after the very checks that the operator will make.

    Raises:
        WorkflowInvalid: the module or an option would be refused by the operator.

    """
    digest = hashlib.sha256(order.wasm).hexdigest()
    parts: list[dict[str, Any]] = []
    workflow = _workflow(order, digest, [{"name": "placeholder"}])
    Workflow.parse(workflow, settings)  # the cheap mistakes first
    encoded = _COMPRESS[order.encoding](order.wasm)
    if len(encoded) > settings.encoded_bytes_max:
        raise WorkflowInvalid(
            Reason.MODULE_TOO_LARGE,
            f"the module has {len(encoded):,} bytes compressed, but an operator takes at most "
            f"{settings.encoded_bytes_max:,} (encoded_bytes_max)",
        )
    record = _compiled(order, digest, encoded, settings)
    for begin in range(0, len(encoded), order.part_bytes):
        parts.append(_config_map(order, len(parts), encoded[begin : begin + order.part_bytes]))
    refs = [{"name": part["metadata"]["name"], "key": "part"} for part in parts]
    return Packed([*parts, _workflow(order, digest, refs)], record, digest, len(encoded))


def _compiled(order: Order, digest: str, encoded: bytes, settings: Settings) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sluice-pack-") as directory:
        runtime = Runtime(replace(settings, data_dir=Path(directory) / "data"))
        try:
            path = runtime.settings.work_dir / "module.part"
            path.write_bytes(encoded)
            source = Source(path, order.encoding, digest, len(order.wasm), order.name)
            return runtime.compilation(source).run().entry.record
        finally:
            runtime.close()


def _config_map(order: Order, index: int, part: bytes) -> dict[str, Any]:
    # Named after what it holds: another content is another ConfigMap, so that a new revision
    # never pulls the parts away from under the one that serves.
    name = f"{order.name}-{hashlib.sha256(part).hexdigest()[:10]}-{index}"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(order, name) | {"labels": {f"{GROUP}/workflow": order.name}},
        "immutable": True,
        "binaryData": {"part": base64.b64encode(part).decode()},
    }


def _workflow(order: Order, digest: str, refs: list[dict[str, str]]) -> dict[str, Any]:
    module = {
        "digest": f"sha256:{digest}",
        "size": len(order.wasm),
        "encoding": order.encoding,
        "configMaps": refs,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": _metadata(order, order.name),
        "spec": {"module": module} | order.spec,
    }


def _metadata(order: Order, name: str) -> dict[str, Any]:
    return {"name": name} | ({"namespace": order.namespace} if order.namespace else {})
