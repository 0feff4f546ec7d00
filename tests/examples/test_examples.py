"""The example workflows as a user gets them: applied as they are, triggered, and rebuilt."""

import base64
import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import brotli
import msgspec
import pytest
import yaml

from sluice.event import Event
from sluice.outcome import Outcome, OutcomeKind
from sluice.settings import Settings
from sluice.spec import TriggerSpec
from sluice.wasm.engine import Engine, Execution
from sluice.workflow import Workflow
from wasm.lab import Lab, sha256

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("src/*/pack.json"))
ANNOTATION_BYTES_MAX = 262_144  # of all annotations of one object, as the API server counts them
TOTAL_BYTES_MAX = 8_000_000
BUILD_S_MAX = 900  # with an empty cache Go and Zig build their standard libraries first
MISSING = 3

# One worker runs them all: each module is compiled once, and the large ones take seconds.
pytestmark = pytest.mark.xdist_group("examples")


@dataclass(frozen=True)
class Packed:
    """What lies in examples/NAME.yaml."""

    documents: list[dict[str, Any]]

    @property
    def body(self) -> dict[str, Any]:
        return self.documents[-1]

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.body["spec"]
        return spec

    @property
    def encoded(self) -> bytes:
        """The parts in the order in which the Workflow names them."""
        parts = {d["metadata"]["name"]: d["binaryData"] for d in self.documents[:-1]}
        refs = self.spec["module"]["configMaps"]
        return b"".join(base64.b64decode(parts[ref["name"]][ref["key"]]) for ref in refs)

    @property
    def wasm(self) -> bytes:
        return bytes(brotli.decompress(self.encoded))

    @property
    def data(self) -> Any:
        """What an event brings for which nobody gives any data."""
        manual = next(t["manual"] for t in self.spec["triggers"] if "manual" in t)
        return manual["data"]


@cache
def packed(name: str) -> Packed:
    text = (EXAMPLES / f"{name}.yaml").read_text()
    return Packed(list(yaml.load_all(text, Loader=yaml.CSafeLoader)))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    shared = Lab.at(tmp_path_factory.mktemp("examples"))
    yield shared
    shared.runtime.close()


def run(
    lab: Lab, name: str, event: bytes, *, config: str | None = None, wasm: bytes = b""
) -> Outcome:
    """Run an example once, with all that its Workflow gives it unless told otherwise."""
    example = packed(name)
    workflow = Workflow.parse(example.body, Settings())
    module = lab.module(wasm or example.wasm)
    given = config if config is not None else workflow.spec.config or ""
    return Engine(lab.runtime, module, workflow, given).run(Execution(event=event))


def event(data: Any) -> bytes:
    at = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)
    return Event(kind="manual", trigger="manual", data=data, id="1", time=at).encode("/test/flow")


def expected(name: str) -> bytes:
    (path,) = (EXAMPLES / "src" / name).glob("expected.*")
    return path.read_bytes()


def same(result: bytes, wanted: bytes, name: str) -> bool:
    """Whether they say the same; JSON may be laid out in another way."""
    if (EXAMPLES / "src" / name / "expected.json").exists():
        return bool(json.loads(result) == json.loads(wanted))
    return result == wanted


@pytest.mark.parametrize("name", NAMES)
def test_an_example_gives_the_result_that_lies_beside_its_source(lab: Lab, name: str) -> None:
    """Triggered without data, the packed workflow answers what expected.* says."""
    outcome = run(lab, name, event(packed(name).data))
    assert outcome.ok, outcome.log.decode()
    assert same(outcome.result, expected(name), name)


CASES = [
    ("price-alert", {"symbol": "SLUICE", "price": 95}, None, {"alert": False, "price": "95"}),
    ("price-alert", {"symbol": "SLUICE", "price": "105.00"}, None, {"alert": False}),
    (
        "price-alert",
        {"symbol": "SLUICE", "price": "105.0000000000000000001"},
        None,
        {"alert": True, "reason": "above 105.00"},
    ),
    ("price-alert", {"symbol": "WEIR", "price": -1}, None, {"alert": False, "symbol": "WEIR"}),
    (
        "json-transform",
        [{"a.b": 1, "a": {"b": "\u00e9\n"}}, {"a": {}}],
        '{"pick": {"x": "a.b"}, "missing": "skip"}',
        [{"x": "\u00e9\n"}, {}],
    ),
    ("json-transform", {"é": [0, [7]]}, '{"pick": {"x": "\\u00e9.1.0"}}', {"x": 7}),
    ("csv-to-json", {"csv": "a,b\n1,\n\n,2"}, "", [{"a": "1", "b": ""}, {"a": "", "b": "2"}]),
    ("csv-to-json", {"csv": "a"}, "{}", []),
    (
        "log-summary",
        {"lines": ["nothing", "WARNING hot", "(took 0.1s)", " "]},
        '{"top": 0}',
        {
            "lines": 3,
            "levels": {"OTHER": 2, "WARN": 1},
            "top": [],
            "duration_ms": {"count": 1, "p50": 100, "p90": 100, "p99": 100, "max": 100},
        },
    ),
    (
        "invoice-totals",
        {"lines": [{"quantity": "-1.5", "price": 0.03, "rate": "reduced"}]},
        None,
        {"net": "-0.05", "total": "-0.05"},
    ),
    (
        "invoice-totals",
        {"number": "\\ü😀", "lines": [{"quantity": 1, "price": "0.62", "rate": "standard"}]},
        None,
        {"number": "\\ü😀", "net": "0.62", "total": "0.67"},
    ),
]


@pytest.mark.parametrize(("name", "data", "config", "wanted"), CASES)
def test_the_corners_of_an_examples_job(
    lab: Lab, name: str, data: Any, config: str | None, wanted: Any
) -> None:
    """Limits met exactly, halves of a cent, escapes, empty fields: each comes out right."""
    outcome = run(lab, name, event(data), config=config)
    assert outcome.ok, outcome.log.decode()
    result = json.loads(outcome.result)
    if isinstance(wanted, dict):
        result = {key: result.get(key) for key in wanted}
    assert result == wanted


def test_no_number_loses_a_digit_in_json_transform(lab: Lab) -> None:
    """An integer beyond 2^53 and a decimal with its zero leave as they came."""
    big = b'{"data": {"id": 20260001234567890123, "total": 129.90}}'
    outcome = run(lab, "json-transform", big, config='{"pick": {"a": "id", "b": "total"}}')
    assert outcome.result == b'{"a":20260001234567890123,"b":129.90}\n'


def test_markup_in_a_change_never_becomes_markup_of_the_page(lab: Lab) -> None:
    """Release notes are read by others than those who write changes."""
    script = "<script>alert(1)</script>"
    change = {"title": f"fix: {script}", "body": script, "author": "eve"}
    outcome = run(lab, "release-notes", event({"version": script, "changes": [change]}))
    assert outcome.ok, outcome.log.decode()
    assert "<script" not in json.loads(outcome.result)["html"]


BAD = [
    ("price-alert", {}, None, 'needs a symbol and a price, such as {"symbol"'),
    ("price-alert", {"symbol": "NIL", "price": 1}, None, 'no limits for the symbol "NIL"'),
    ("price-alert", {"symbol": "WEIR", "price": "1e9999999"}, None, "no plain decimal number"),
    ("price-alert", None, "[]", "the config is not a JSON object"),
    ("json-transform", 3, None, "neither an object nor an array"),
    ("json-transform", {}, '{"pick": {"x": "gone"}, "missing": "fail"}', 'has no "gone"'),
    ("json-transform", {}, '{"pick": {"x": "a"}, "missing": 0}', '"null", "skip", "fail"'),
    ("json-transform", {}, '{\n "pick": tru}', "the config, line 2, column 10"),
    ("json-transform", {}, "", 'the config needs "pick"'),
    ("csv-to-json", None, None, "needs csv"),
    ("csv-to-json", {"csv": ""}, None, "is empty"),
    ("csv-to-json", {"csv": 'amount;b\n1;"x\ny"\n2'}, None, "line 4: 1 fields under 2 columns"),
    ("csv-to-json", {"csv": "amount\nNaN"}, None, 'line 2: "NaN" in amount is no number'),
    ("csv-to-json", {"csv": 'amount\n"1'}, None, "line 2: a quoted field does not end"),
    ("csv-to-json", {"csv": "a"}, None, 'no column "amount"'),
    ("csv-to-json", {"csv": "a"}, '{"delimiter": "\\t\\t"}', "is not one character"),
    ("log-summary", {"lines": [1]}, None, "needs lines"),
    ("log-summary", {"lines": []}, '{"top": 101}', "from 0 to 100"),
    ("invoice-totals", {"lines": []}, None, "needs lines"),
    (
        "invoice-totals",
        {"lines": [{"quantity": "1/3", "price": 1, "rate": "standard"}]},
        None,
        'lines[0].quantity is "1/3", which is no decimal number',
    ),
    (
        "invoice-totals",
        {"lines": [{"quantity": 1, "price": 10_000_000, "rate": "standard"}]},
        None,
        "at most 7 digits",
    ),
    ("invoice-totals", None, "{}", "the config needs rates"),
    ("text-report", None, None, "the event has no data"),
    ("text-report", {"title": "x"}, "{{.Data.titel}}", 'no entry for key "titel"'),
    ("text-report", {}, "{{", "unclosed action"),
    ("text-report", {}, "", "the config is empty"),
    ("release-notes", {"version": "1"}, None, "needs a version and changes"),
    ("release-notes", {}, '{"sections": [{"match": "("}]}', "missing closing )"),
    ("release-notes", {}, "{}", "needs sections"),
]


@pytest.mark.parametrize(("name", "data", "config", "word"), BAD)
def test_bad_input_ends_with_one_line_that_helps(
    lab: Lab, name: str, data: Any, config: str | None, word: str
) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that says what is wrong."""
    outcome = run(lab, name, event(data), config=config)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.FAILED, 2)
    assert outcome.result == b""
    (line,) = outcome.log.decode().splitlines()
    assert line.startswith(f"{name}: ")
    assert word in line


@pytest.mark.parametrize("name", NAMES)
def test_half_an_event_is_refused(lab: Lab, name: str) -> None:
    """An event cut short is never taken for a whole one."""
    outcome = run(lab, name, event(packed(name).data)[:-2])
    assert (outcome.kind, outcome.exit_code, outcome.result) == (OutcomeKind.FAILED, 2, b"")
    assert outcome.log.startswith(f"{name}: the event".encode())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_module_built_here_does_what_the_packed_one_does(
    lab: Lab, name: str, tmp_path: Path
) -> None:
    """The sources are those of the packed module, whatever version of the compiler is here."""
    script = EXAMPLES / "src" / "build.py"
    command = [sys.executable, str(script), name, "--no-pack", "--modules", str(tmp_path)]
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
    )
    if built.returncode == MISSING:
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stderr
    wasm = (tmp_path / f"{name}.wasm").read_bytes()
    for given in (event(packed(name).data), event(None), b"{"):
        here, there = run(lab, name, given, wasm=wasm), run(lab, name, given)
        assert (here.kind, here.exit_code) == (there.kind, there.exit_code)
        assert (here.result, here.log) == (there.result, there.log)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_an_example_are_its_module(name: str) -> None:
    """Put together in the order of the Workflow they inflate to its digest and size."""
    module = packed(name).spec["module"]
    assert (module["digest"], module["size"]) == (
        f"sha256:{sha256(packed(name).wasm)}",
        len(packed(name).wasm),
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_packed_file_holds_the_config_and_data_of_the_sources(name: str) -> None:
    """Nobody changes a config or the data beside a source and forgets to pack again."""
    source = EXAMPLES / "src" / name
    flags = json.loads((source / "pack.json").read_text())
    config, data = (source / flags[flags.index(flag) + 1] for flag in ("--config", "--data"))
    assert packed(name).spec["config"] == config.read_text()
    assert packed(name).data == json.loads(data.read_text())


def annotation_bytes(document: dict[str, Any]) -> int:
    """Return the bytes of the annotation in which kubectl keeps what was applied."""
    key = "kubectl.kubernetes.io/last-applied-configuration"
    applied = json.dumps(document, separators=(",", ":"), sort_keys=True) + "\n"
    return len(key) + len(applied.encode())


def test_a_plain_kubectl_apply_takes_every_document() -> None:
    """Client-side apply repeats each object in an annotation, which has its limit."""
    sizes = [annotation_bytes(d) for name in NAMES for d in packed(name).documents]
    assert max(sizes) <= ANNOTATION_BYTES_MAX
    # Full parts come close, so that the measure above would notice larger ones.
    assert max(sizes) > ANNOTATION_BYTES_MAX - 10_000


def test_kubectl_apply_of_the_folder_applies_the_examples_and_nothing_else() -> None:
    """At the top of examples/ lies one packed file for each source, and no other manifest."""
    suffixes = {".yaml", ".yml", ".json"}
    manifests = sorted(p.name for p in EXAMPLES.iterdir() if p.suffix in suffixes)
    assert manifests == [f"{name}.yaml" for name in NAMES]
    assert sum((EXAMPLES / name).stat().st_size for name in manifests) <= TOTAL_BYTES_MAX
    kinds = {d["kind"] for name in NAMES for d in packed(name).documents}
    assert kinds == {"ConfigMap", "Workflow"}


TRIGGERS = sorted((EXAMPLES / "triggers").glob("*.yaml"))


def test_there_is_an_example_for_each_kind_of_trigger() -> None:
    """Whoever looks for a kind finds the file that is named for it."""
    kinds = [field.name for field in msgspec.structs.fields(TriggerSpec) if field.name != "name"]
    assert [path.stem for path in TRIGGERS] == sorted(kinds)
    for path in TRIGGERS:
        body = yaml.safe_load(path.read_text())
        assert any(path.stem in trigger for trigger in body["spec"]["triggers"])


@pytest.mark.parametrize("path", TRIGGERS, ids=lambda path: path.stem)
def test_an_example_of_a_trigger_has_the_module_of_the_one_it_names(path: Path) -> None:
    """It starts from ConfigMaps that ``kubectl apply -f examples/`` brings."""
    text = path.read_text()
    found = re.search(r"The module of \.\./(\S+)\.yaml,", text)
    assert found, f"{path} does not say whose module it has"
    assert yaml.safe_load(text)["spec"]["module"] == packed(found[1]).spec["module"]


def test_an_example_of_a_trigger_follows_when_its_module_is_packed_anew(tmp_path: Path) -> None:
    """build.py keeps the two the same, and touches no other file and no other line."""
    build = runpy.run_path(str(EXAMPLES / "src" / "build.py"))
    followers = tmp_path / "triggers"
    shutil.copytree(EXAMPLES / "triggers", followers)
    new = tmp_path / "json-transform.yaml"
    old = (EXAMPLES / new.name).read_text()
    size = f"size: {packed('json-transform').spec['module']['size']}"
    new.write_text(old.replace(size, "size: 12345"))
    build["repoint"](new, followers)
    for path in TRIGGERS:
        here, there = path.read_text(), (followers / path.name).read_text()
        changed = path.stem in {"http", "kubernetes"}
        assert there == (here.replace(size, "size: 12345") if changed else here)
        assert (there != here) is changed


def test_one_example_is_over_a_mebibyte_compressed() -> None:
    """The path of many parts is walked by a real module, not only by made-up bytes."""
    big = packed("release-notes")
    assert len(big.encoded) > 1 << 20
    assert len(big.spec["module"]["configMaps"]) > 5


def test_no_two_examples_share_a_part() -> None:
    """Each ConfigMap belongs to one Workflow, so that deleting one example leaves the others."""
    names = [d["metadata"]["name"] for name in NAMES for d in packed(name).documents[:-1]]
    assert len(names) == len(set(names))
