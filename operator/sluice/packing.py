"""A wasm file -> checked, compressed, cut into content-addressed ConfigMaps, one YAML stream."""

import base64
import hashlib
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from sluice.wasm.config import Tier
from sluice.wasm.runtime import Runtime
from sluice.workflow import API_VERSION, GROUP, KIND, Encoding, Workflow

_BITE_BYTES = 256 * 1024
# What YAML's versions disagree about: to kubectl a bare 1e3 is a number and y may be a truth.
_READ_IN_TWO_WAYS = re.compile(r"[-+.]?[0-9][-+.:_0-9a-fA-FxXoO]*|[yYnN]")

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be packed and how; ``spec`` is merged into the Workflow's spec as it is."""

    wasm: bytes
    name: str
    namespace: str | None = None
    encoding: Encoding = "brotli"
    part_bytes: int
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
            text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=1 << 30)
            yield f"---\n{text}"


class _Dumper(yaml.CSafeDumper):
    """YAML 1.1 and 1.2 alike read the same out of it."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "'" if _READ_IN_TWO_WAYS.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def pack(order: Order, settings: Settings, told: Told = lambda _: None) -> Packed:
    """Return the documents, after the very checks that the operator will make.

    ``told`` hears of each raw byte that is compressed: brotli takes a second or two for a megabyte.

    Raises:
        WorkflowInvalid: the module or an option would be refused by the operator.

    """
    if not order.wasm:
        raise WorkflowInvalid(Reason.NOT_WASM, "is empty")
    digest = hashlib.sha256(order.wasm).hexdigest()
    workflow = _workflow(order, digest, [{"name": "placeholder"}])
    Workflow.parse(workflow, settings)  # the cheap mistakes first
    with tempfile.TemporaryDirectory(prefix="sluice-pack-") as directory:
        desk = _Desk(order, digest, replace(settings, data_dir=Path(directory) / "data"))
        try:
            record = desk.compiled()  # … then the module's, and only then the long work
            encoded = _compressed(order, told)
            _check_size(encoded, settings)
            desk.verify(encoded)
        finally:
            desk.close()
    return Packed(_documents(order, digest, encoded), record, digest, len(encoded))


class _Desk:
    """A runtime for one module; a child of it does not outlive an interrupt."""

    def __init__(self, order: Order, digest: str, settings: Settings) -> None:
        self._order, self._digest = order, digest
        self._runtime = Runtime(settings)

    def compiled(self) -> dict[str, Any]:
        job = self._runtime.compilation(self._source(self._order.wasm, "none"), Tier.OPTIMIZING)
        try:
            return job.run().entry.record
        finally:
            job.cancel()

    def verify(self, encoded: bytes) -> None:
        job = self._runtime.verification(self._source(encoded, self._order.encoding))
        try:
            job.run()
        finally:
            job.cancel()

    def close(self) -> None:
        self._runtime.close()

    def _source(self, data: bytes, encoding: Encoding) -> Source:
        path = self._runtime.settings.work_dir / "module.part"
        path.write_bytes(data)
        return Source(path, encoding, self._digest, len(self._order.wasm), self._order.name)


def _compressed(order: Order, told: Told) -> bytes:
    # In a thread: brotli goes through megabytes without a look at signals, and Ctrl-C would wait.
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(lambda: b"".join(_encoded(order, told))).result()
    finally:
        pool.shutdown(wait=False)


def _encoded(order: Order, told: Told) -> Iterator[bytes]:
    feed, end = _compressor(order.encoding, len(order.wasm))
    for begin in range(0, len(order.wasm), _BITE_BYTES):
        bite = order.wasm[begin : begin + _BITE_BYTES]
        yield feed(bite)
        told(len(bite))
    yield end()


def _compressor(
    encoding: Encoding, size: int
) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    # The best that each can do: a module is packed once, and lies in etcd from then on.
    if encoding == "brotli":
        best = brotli.Compressor(quality=11)
        return best.process, best.finish
    if encoding == "zstd":
        strong = zstandard.ZstdCompressor(level=19).compressobj(size=size)
        return strong.compress, strong.flush
    if encoding == "gzip":  # without a time in its header, or it would be another file each time
        stream = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        return stream.compress, stream.flush
    return bytes, bytes


def _check_size(encoded: bytes, settings: Settings) -> None:
    if len(encoded) > settings.encoded_bytes_max:
        raise WorkflowInvalid(
            Reason.MODULE_TOO_LARGE,
            f"the module has {len(encoded):,} bytes compressed, but an operator takes at most "
            f"{settings.encoded_bytes_max:,} (encoded_bytes_max)",
        )


def _documents(order: Order, digest: str, encoded: bytes) -> list[dict[str, Any]]:
    parts = [
        _config_map(order, index, encoded[begin : begin + order.part_bytes])
        for index, begin in enumerate(range(0, len(encoded), order.part_bytes))
    ]
    refs = [{"name": part["metadata"]["name"], "key": "part"} for part in parts]
    return [*parts, _workflow(order, digest, refs)]


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
