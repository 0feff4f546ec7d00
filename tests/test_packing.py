import base64
import hashlib
import io
import json
import random
from typing import Any, get_args

import pytest
import wasmtime
import yaml

from sluice.cli import _PART_BYTES, _PART_BYTES_MAX
from sluice.errors import WorkflowInvalid
from sluice.packing import Order, pack
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.wasm.inflate import inflate
from sluice.workflow import Encoding, Workflow

ANNOTATION_BYTES_MAX = 262_144
START = '(module (memory (export "memory") 1) (func (export "_start")))'


def module(padding: int = 0) -> bytes:
    """Return a wasm module with so many bytes that no compressor makes smaller."""
    data = random.Random(1).randbytes(padding)
    text = "".join(f"\\{byte:02x}" for byte in data)
    return bytes(wasmtime.wat2wasm(START[:-1] + f' (@custom "x" "{text}"))'))


def order(wasm: bytes, **options: Any) -> Order:
    given: dict[str, Any] = {"wasm": wasm, "name": "hello", "part_bytes": _PART_BYTES}
    return Order(**given | options)


def parts(documents: list[dict[str, Any]]) -> list[bytes]:
    return [base64.b64decode(d["binaryData"]["part"]) for d in documents[:-1]]


@pytest.mark.parametrize("encoding", get_args(Encoding))
def test_what_is_packed_is_the_module(encoding: Encoding) -> None:
    """In every encoding the parts in order inflate to the module that the digest names."""
    wasm = module(300_000)
    packed = pack(order(wasm, encoding=encoding), Settings())
    encoded = b"".join(parts(packed.documents))
    assert b"".join(inflate(io.BytesIO(encoded), encoding)) == wasm
    spec = Workflow.parse(packed.documents[-1], Settings()).spec.module
    assert spec.digest == "sha256:" + hashlib.sha256(wasm).hexdigest()
    assert (spec.size, spec.encoding) == (len(wasm), encoding)
    names = [d["metadata"]["name"] for d in packed.documents[:-1]]
    assert [part.name for part in spec.config_maps] == names
    assert packed.encoded_bytes == len(encoded)


@pytest.mark.parametrize("encoding", get_args(Encoding))
def test_the_same_input_gives_the_same_bytes(encoding: Encoding) -> None:
    """Packed twice is packed alike: in Git nothing changes that nobody changed."""
    wasm, streams = module(5_000), set()
    for _ in range(2):
        packed = pack(order(wasm, encoding=encoding, part_bytes=1024), Settings())
        streams.add("".join(packed.yaml()))
    assert len(streams) == 1


def test_plain_apply_takes_the_default() -> None:
    """Client-side apply repeats each object in an annotation, and there is room for it."""
    packed = pack(order(module(400_000), encoding="none", name="n" * 63, namespace="n" * 63),
                  Settings())  # fmt: skip
    assert len(packed.documents) == 4
    assert max(map(len, parts(packed.documents))) == _PART_BYTES
    for document in packed.documents:
        assert len(json.dumps(document)) < ANNOTATION_BYTES_MAX


@pytest.mark.parametrize("size", [1024, _PART_BYTES_MAX])
def test_no_part_is_larger_than_asked_for(size: int) -> None:
    """From the smallest part to the API's largest, each but the last is as large as it may be."""
    packed = pack(order(module(size + 100), encoding="none", part_bytes=size), Settings())
    sizes = [len(part) for part in parts(packed.documents)]
    assert sizes[:-1] == [size]
    assert 0 < sizes[-1] <= size


def test_parts_are_named_after_what_they_hold() -> None:
    """A new revision never changes a part of the one that serves: it has other names."""
    wasm = module(2_000)
    before, after = (
        pack(order(data, encoding="none", part_bytes=1024), Settings()).documents[:-1]
        for data in (wasm, wasm + b"\0\2\1x")
    )
    for document, part in zip(before, parts([*before, {}]), strict=True):
        assert hashlib.sha256(part).hexdigest()[:10] in document["metadata"]["name"]
        assert document["immutable"] is True
    names = [[d["metadata"]["name"] for d in documents] for documents in (before, after)]
    assert names[0][0] == names[1][0]
    assert names[0][-1] != names[1][-1]


@pytest.mark.parametrize("spare", [0, -1])
def test_the_operators_bound_on_what_is_compressed(spare: int) -> None:
    """What the operator would not take is not packed; what it just takes is."""
    wasm = module(1_000)
    settings = Settings(encoded_bytes_max=len(wasm) + spare)
    if spare >= 0:
        assert pack(order(wasm, encoding="none"), settings).encoded_bytes == len(wasm)
        return
    with pytest.raises(WorkflowInvalid, match="encoded_bytes_max") as refused:
        pack(order(wasm, encoding="none"), settings)
    assert refused.value.reason is Reason.MODULE_TOO_LARGE


@pytest.mark.parametrize(("wasm", "reason"), [
    (b"", Reason.NOT_WASM),
    (b"MZ\x90\x00", Reason.NOT_WASM),
    (b"\0asm\r\0\1\0", Reason.COMPONENT_UNSUPPORTED),
    (b"\0asm\1\0\0\0\1", Reason.MODULE_INVALID),
    (bytes(wasmtime.wat2wasm('(module (import "env" "f" (func)) (memory (export "memory") 1)'
                             '(func (export "_start")))')), Reason.UNKNOWN_IMPORT),
    (bytes(wasmtime.wat2wasm("(module)")), Reason.MISSING_EXPORT),
])  # fmt: skip
def test_what_the_operator_would_refuse_is_not_packed(wasm: bytes, reason: Reason) -> None:
    """The operator's own checks are made, so that its refusal comes before `kubectl apply`."""
    with pytest.raises(WorkflowInvalid) as refused:
        pack(order(wasm), Settings())
    assert refused.value.reason is reason


@pytest.mark.parametrize("text", ["1e3", "0x1F", "0o17", "1_000", "12:30", "y", "N", "on", "null",
                                  "~", "-", "", "2001-01-01", "a: b", "#", "\ttab", "é", "x\ny\n",
                                  " lead", "\ufeffbom", "{", "1.", "+1", ".5"])  # fmt: skip
def test_text_stays_text(text: str) -> None:
    """An env value or a config reads back as written, for YAML 1.1 and 1.2 alike."""
    spec = {"config": text, "env": [{"name": "A", "value": text}]}
    stream = "".join(pack(order(module(), spec=spec), Settings()).yaml())
    workflow = list(yaml.safe_load_all(stream))[-1]
    assert workflow["spec"]["config"] == workflow["spec"]["env"][0]["value"] == text
    written = next(line for line in stream.splitlines() if "value: " in line)
    bare = written.partition("value: ")[2]
    assert bare[0] in "'\"" or not bare[0].isdigit()


def test_whoever_waits_is_told() -> None:
    """Progress counts every byte once, up to all of them."""
    wasm = module(600_000)
    told: list[int] = []
    pack(order(wasm, encoding="gzip"), Settings(), told.append)
    assert len(told) > 1
    assert sum(told) == len(wasm)
