"""Objects as an author would write them, and as no author should."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import brotli

from sluice.workflow import API_VERSION, KIND


@dataclass(slots=True)
class Written:
    """The ConfigMaps of one workflow and the Workflow; change what you like before you apply."""

    config_maps: list[dict[str, Any]]
    workflow: dict[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.workflow["spec"]
        return spec

    @property
    def module(self) -> dict[str, Any]:
        module: dict[str, Any] = self.spec["module"]
        return module

    def text(self) -> str:
        """Return all of it for ``kubectl apply -f -``."""
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": self.items()})

    def items(self) -> list[dict[str, Any]]:
        return [*self.config_maps, self.workflow]


@dataclass(slots=True, kw_only=True)
class Writing:
    """How a module is written down; ``encoded`` stands for a stream that is not the module's."""

    name: str = "guest"
    encoding: str = "brotli"
    parts: int = 1
    encoded: bytes | None = None
    spec: dict[str, Any] = field(default_factory=dict)


def write(wasm: bytes, how: Writing) -> Written:
    """Return the objects for a module, cut into as many parts as asked for."""
    encoded = how.encoded
    if encoded is None:
        encoded = brotli.compress(wasm, quality=5) if how.encoding == "brotli" else wasm
    step = -(-len(encoded) // how.parts) or 1
    pieces = [encoded[i : i + step] for i in range(0, len(encoded), step)] or [b""]
    config_maps = [config_map(f"{how.name}-{i}", piece) for i, piece in enumerate(pieces)]
    module = {
        "digest": "sha256:" + hashlib.sha256(wasm).hexdigest(),
        "size": len(wasm),
        "encoding": how.encoding,
        "configMaps": [{"name": c["metadata"]["name"], "key": "part"} for c in config_maps],
    }
    workflow = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": how.name},
        "spec": {"module": module} | how.spec,
    }
    return Written(config_maps, workflow)


def config_map(name: str, piece: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "binaryData": {"part": base64.b64encode(piece).decode()},
    }


def distinct(wasm: bytes, number: int) -> bytes:
    """Return the same module with another digest: a custom section at its end."""
    name = f"n{number}".encode()
    return wasm + bytes([0, len(name) + 1, len(name)]) + name
