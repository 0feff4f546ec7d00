"""Each bad input has a reason and a message that says what to do, and a mended one heals."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import brotli
import pytest
import wasmtime
import yaml

from ground.controlplane import ControlPlane
from ground.golden import matches_golden
from ground.manifests import Writing, Written, config_map, distinct, write
from ground.operator import Operator
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest

_COMPONENT = b"\0asm\r\0\1\0"
_FLAGS = (
    "--binary-bytes-max=4000000",
    "--encoded-bytes-max=400000",
    "--compile-memory-bytes-max=130000000",
    "--compile-cpu-s-max=2",
    "--source-retry-s-max=1",
    "--source-check-s=0.5",
    "--retry-s-max=1",
)


@pytest.fixture(scope="module")
def stage(
    plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Scene, Operator]]:
    """One namespace and one operator with small limits, for all of the bad inputs."""
    namespace = plane.create_namespace("failures")
    directory = tmp_path_factory.mktemp("failures")
    operator = Operator(plane.kubeconfig("operator"), directory, (namespace,), *_FLAGS)
    operator.start()
    yield Scene(plane, namespace), operator
    operator.stop()
    plane.delete_namespace(namespace)


def _wasm(name: str) -> bytes:
    # Another digest for each: what one has compiled is in the cache, and would not be read again.
    return distinct(guest("acts"), zlib.crc32(name.encode()))


def _good(name: str, parts: int = 3, **spec: Any) -> Written:
    return write(_wasm(name), Writing(name=name, parts=parts, spec=spec))


def _encoded(name: str, encoding: str, encoded: bytes, parts: int = 1) -> Written:
    how = Writing(name=name, encoding=encoding, encoded=encoded, parts=parts)
    return write(_wasm(name), how)


def _brotli(name: str) -> bytes:
    return bytes(brotli.compress(_wasm(name), quality=5))


def _without_part(name: str) -> Written:
    written = _good(name)
    del written.config_maps[1]
    return written


def _with_wrong_key(name: str) -> Written:
    written = _good(name)
    written.module["configMaps"][1]["key"] = "prat"
    return written


def _in_wrong_order(name: str) -> Written:
    written = write(_wasm(name), Writing(name=name, parts=3, encoding="none"))
    written.module["configMaps"].reverse()
    return written


def _with_other_digest(name: str) -> Written:
    written = _good(name)
    written.module["digest"] = "sha256:" + hashlib.sha256(b"another").hexdigest()
    return written


def _bomb(name: str) -> Written:
    # 3 MB of zeros in a few bytes, said to be 3,000 bytes.
    bomb = brotli.compress(b"\0" * 3_000_000, quality=5)
    written = _encoded(name, "brotli", bomb)
    written.module["size"] = 3000
    return written


def _too_small(name: str) -> Written:
    written = _good(name)
    written.module["size"] += 1
    return written


def _wat(name: str, text: str) -> Written:
    return write(bytes(wasmtime.wat2wasm(text)), Writing(name=name))


def _giant_of(name: str, tiers: str) -> Written:
    written = _wat(name, _giant(60_000))
    written.spec["tiers"] = tiers
    return written


def _giant(functions: int) -> str:
    # One function of very many blocks: what it takes to compile has little to do with its size.
    body = "(local.set 0 (i32.add (local.get 0) (i32.mul (local.get 0) (i32.const 3))))"
    body += "(if (local.get 0) (then (local.set 1 (i32.load (local.get 0)))))"
    return (
        '(module (memory (export "memory") 1) (func (export "_start") (local i32 i32) '
        f"{body * functions}))"
    )


def _text(name: str) -> Written:
    written = _good(name, parts=1)
    part = written.config_maps[0]
    part["data"] = {"part": "not base64!"}
    del part["binaryData"]
    return written


def _with_config(name: str, text: str) -> Written:
    written = _good(name)
    written.spec["configFrom"] = {"configMapKeyRef": {"name": f"{name}-config", "key": "config"}}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-config"}}
    written.config_maps.append(body | {"data": {"config": text}})
    return written


def _cron(name: str, **cron: str) -> Written:
    return _good(name, triggers=[{"name": "c", "cron": cron}])


@dataclass(frozen=True)
class Case:
    write: Callable[[str], Written]
    reason: str


CASES = {
    "config-map-missing": Case(_without_part, "ConfigMapNotFound"),
    "key-missing": Case(_with_wrong_key, "KeyNotFound"),
    "wrong-order": Case(_in_wrong_order, "DigestMismatch"),
    "digest-mismatch": Case(_with_other_digest, "DigestMismatch"),
    "not-text": Case(_text, "PartInvalid"),
    "corrupt": Case(
        lambda n: _encoded(n, "brotli", b"\xff" * 8 + _brotli(n)[8:], 2), "StreamCorrupt"
    ),
    "wrong-encoding": Case(lambda n: _encoded(n, "gzip", _brotli(n)), "StreamCorrupt"),
    "truncated": Case(lambda n: _encoded(n, "brotli", _brotli(n)[:-100]), "StreamTruncated"),
    "trailing": Case(lambda n: _encoded(n, "brotli", _brotli(n) + b"more"), "TrailingData"),
    "bomb": Case(_bomb, "SizeExceeded"),
    "too-small": Case(_too_small, "SizeMismatch"),
    "not-wasm": Case(lambda n: write(b"#!/bin/sh\necho hello\n", Writing(name=n)), "NotWasm"),
    "component": Case(lambda n: write(_COMPONENT + b"\0", Writing(name=n)), "ComponentUnsupported"),
    "invalid": Case(lambda n: write(guest("acts")[:-7], Writing(name=n)), "ModuleInvalid"),
    "unknown-import": Case(
        lambda n: _wat(n, '(module (import "env" "print" (func)) (memory (export "memory") 1))'),
        "UnknownImport",
    ),
    "no-start": Case(lambda n: _wat(n, '(module (memory (export "memory") 1))'), "MissingExport"),
    "cre": Case(
        lambda n: _wat(n, '(module (import "env" "send_response" (func (param i32 i32))))'),
        "AbiUnsupported",
    ),
    "too-large": Case(
        lambda n: write(guest("acts") + bytes(5_000_000), Writing(name=n)), "ModuleTooLarge"
    ),
    "too-large-encoded": Case(
        lambda n: write(b"\0asm" + b"x" * 500_000, Writing(name=n, encoding="none", parts=4)),
        "ModuleTooLarge",
    ),
    "out-of-memory": Case(lambda n: _giant_of(n, "optimizing"), "CompileOutOfMemory"),
    "config-too-large": Case(lambda n: _with_config(n, "x" * 60_000), "ConfigTooLarge"),
    "time-zone": Case(
        lambda n: _cron(n, schedule="0 3 * * *", timeZone="Mars/Olympus"), "InvalidSchedule"
    ),
    "never-due": Case(lambda n: _cron(n, schedule="0 0 30 2 *"), "InvalidSchedule"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_says_what_to_do(stage: tuple[Scene, Operator], name: str) -> None:
    """The condition and the event name the reason and the remedy, as the golden file has them."""
    scene, _ = stage
    case = CASES[name]
    scene.apply(case.write(name))
    ready = scene.until_reason(name, case.reason)
    event = wait_until(
        lambda: next((e for e in scene.events(name) if e["reason"] == case.reason), {}),
        10,
        f"the event; there are {scene.reasons(name)}",
    )
    source = scene.condition(name, "Source")
    told = {
        "Ready": _brief(ready),
        "Source": _brief(source),
        "event": {"type": event["type"], "action": event["action"], "note": event["note"]},
    }
    matches_golden(f"failures/{name}.yaml", _yaml(told))


@pytest.mark.parametrize(
    "name", ["config-map-missing", "key-missing", "wrong-order", "truncated", "not-text"]
)
def test_mended_parts_heal(stage: tuple[Scene, Operator], name: str) -> None:
    """Once the ConfigMaps or the object are right, it becomes Ready without a restart."""
    scene, _ = stage
    name, case = f"mended-{name}", CASES[name]
    scene.apply(case.write(name))
    scene.until_reason(name, case.reason)
    good = _good(name)
    for body in good.config_maps:
        scene.kubectl("delete", "cm", body["metadata"]["name"], "--ignore-not-found")
        scene.apply_object(body)
    scene.apply_object(good.workflow)
    scene.until_ready(name)


def test_parts_changed_after_ready(stage: tuple[Scene, Operator]) -> None:
    """A ConfigMap that changes or goes after Ready is told; what serves goes on; it heals."""
    scene, _ = stage
    written = _good("drift")
    scene.apply(written)
    scene.until_ready("drift")
    part = written.config_maps[1]
    scene.apply_object(config_map(part["metadata"]["name"], b"garbage"))
    changed = scene.until_reason("drift", "ConfigMapChanged", "Source")
    scene.delete("cm", part["metadata"]["name"])
    gone = scene.until_reason("drift", "ConfigMapNotFound", "Source")
    assert scene.condition("drift")["status"] == "True"
    scene.apply_object(part)
    healed = scene.until_reason("drift", "Verified", "Source")
    told = {"changed": _brief(changed), "gone": _brief(gone), "healed": _brief(healed)}
    matches_golden("failures/drift.yaml", _yaml(told))
    assert [r for r in scene.reasons("drift") if r != "Serving"] == [
        "ConfigMapChanged",
        "ConfigMapNotFound",
        "Verified",
    ]


def test_config_from_a_config_map_follows_it(stage: tuple[Scene, Operator]) -> None:
    """An edit of the ConfigMap that holds the config reaches the guest; Ready never goes."""
    scene, _ = stage
    written = _with_config("follows", "one")
    written.spec["args"] = ["env"]
    scene.apply(written)
    scene.until_ready("follows")
    assert "SLUICE_CONFIG=one" in scene.run("follows", "first")["result"]
    before = scene.condition("follows")["lastTransitionTime"]
    scene.kubectl("patch", "cm", "follows-config", "-p", '{"data":{"config":"two"}}')
    wait_until(
        lambda: "SLUICE_CONFIG=two" in scene.run("follows", "r" + str(zlib.crc32(
            scene.get("follows")["metadata"]["resourceVersion"].encode())))["result"],
        20, "the new config reaches the guest",
    )  # fmt: skip
    assert scene.condition("follows")["lastTransitionTime"] == before


def test_a_giant_serves_from_the_baseline_tier(stage: tuple[Scene, Operator]) -> None:
    """What the optimising compiler cannot have within its cap, the baseline one may."""
    scene, _ = stage
    scene.apply(_giant_of("giant", "auto"))
    scene.until_ready("giant")
    wait_until(lambda: scene.status("giant")["serving"]["tier"] == "baseline", 30, "its tier")


def test_a_bad_neighbour_hurts_nobody(stage: tuple[Scene, Operator]) -> None:
    """Beside all of these, a good workflow starts and runs, and no line is a traceback."""
    scene, operator = stage
    scene.apply(_good("good"))
    scene.until_ready("good")
    assert operator.children() == []
    assert "Traceback" not in operator.log


def _brief(condition: dict[str, Any]) -> dict[str, str]:
    return {name: condition[name] for name in ("status", "reason", "message")}


def _yaml(told: dict[str, Any]) -> str:
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=96)
