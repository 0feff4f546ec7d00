"""The API as the API server has it: what it takes, what it refuses in which words, what it shows.

The words are kept in tests/golden/crd. After a change of the rules write them anew with
``SLUICE_GOLDEN=write pytest tests/cluster/test_crd.py`` and read the difference.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ground.cluster import Answer, Cluster
from ground.waiting import WaitUntil
from sluice.outcome import OutcomeKind
from sluice.settings import Settings
from sluice.workflow import API_VERSION, KIND, Workflow, WorkflowSpec

_ROOT = Path(__file__).parents[2]
_GOLDEN = _ROOT / "tests" / "golden" / "crd"
_CRD = yaml.safe_load((_ROOT / "crds" / "workflows.sluice.dev.yaml").read_text())
_SCHEMA: dict[str, Any] = _CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
_DIGEST = "sha256:" + "4f1c9a02" * 8
_PEM = """-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFzT147xz0NT9lao+hzM5K5V1wm8F
TRsOeayj+UDiQFvtSUEcaaTZFfK1yVA7eRa4LRhgyQmGWZAht6oA6UeJzQ==
-----END PUBLIC KEY-----
"""


def _http(name: str, **auth: Any) -> dict[str, Any]:
    rate = {"perMinute": 60000, "burst": 1000}
    return {"name": name, "http": {"auth": auth, "body": "16Mi", "rate": rate}}


def _body(**spec: Any) -> dict[str, Any]:
    module = {"digest": _DIGEST, "size": 2527232, "configMaps": [{"name": "hello-4f1c-0"}]}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "hello"},
        "spec": {"module": module} | spec,
    }


def _path(namespace: str, rest: str = "") -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/workflows{rest}"


def _create(plane: Cluster, namespace: str, body: object) -> dict[str, Any]:
    answer = plane.api("POST", _path(namespace, "?fieldValidation=Strict"), body)
    assert answer.status == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def _patch(plane: Cluster, namespace: str, rest: str, patch: object) -> dict[str, Any]:
    kind = "application/merge-patch+json"
    answer = plane.api("PATCH", _path(namespace, rest), patch, content_type=kind)
    assert answer.status == 200, answer.text
    patched: dict[str, Any] = answer.json()
    return patched


def _try(plane: Cluster, body: object) -> Answer:
    """Ask whether a body would be taken; nothing is kept."""
    return plane.api("POST", _path("default", "?dryRun=All&fieldValidation=Strict"), body)


def test_an_object_of_required_fields_alone_is_taken_and_shows_its_defaults(
    plane: Cluster, namespace: str
) -> None:
    """What an author left out can be read off the object, in the values the description states."""
    body = _body(
        triggers=[
            {"name": "often", "cron": {"schedule": "*/5 * * * *"}},
            {"name": "hook", "http": {"auth": {"hmac": {"secretKeyRef": {"name": "github"}}}}},
            {"name": "other", "http": {"auth": {"bearer": {"secretKeyRef": {"name": "hook"}}}}},
            {"name": "change", "kubernetes": {"apiVersion": "v1", "kind": "ConfigMap"}},
        ],
        sink={"configMap": {"name": "price"}},
    )
    spec = _create(plane, namespace, body)["spec"]
    assert spec["module"]["encoding"] == "brotli"
    assert spec["module"]["text"] == "base64"
    assert spec["module"]["configMaps"] == [{"name": "hello-4f1c-0", "key": "part"}]
    assert spec["limits"] == {
        "memory": "100Mi", "timeout": "5m", "response": "100Ki", "log": "64Ki",
    }  # fmt: skip
    assert spec["triggers"][0]["cron"] == {
        "schedule": "*/5 * * * *", "timeZone": "UTC", "concurrencyPolicy": "Allow", "jitter": "0s",
    }  # fmt: skip
    assert spec["triggers"][1]["http"] == {
        "auth": {"hmac": {
            "secretKeyRef": {"name": "github", "key": "secret"}, "header": "X-Hub-Signature-256"}},
        "body": "64Ki", "rate": {"perMinute": 60, "burst": 10},
    }  # fmt: skip
    bearer = spec["triggers"][2]["http"]["auth"]["bearer"]
    assert bearer == {"secretKeyRef": {"name": "hook", "key": "token"}}
    assert spec["triggers"][3]["kubernetes"]["on"] == ["Added", "Modified", "Deleted"]
    assert spec["retries"] == {
        "limit": 0, "on": ["Failed", "Trapped", "TimedOut"], "backoff": "10s", "backoffMax": "5m",
    }  # fmt: skip
    assert spec["sink"] == {"configMap": {"name": "price", "key": "result"}}
    assert (spec["suspend"], spec["priority"]) == (False, 0)
    absent = {"abi", "config", "configFrom", "env", "args", "activeDeadlineSeconds"}
    assert not absent & set(spec)


def test_the_api_server_and_the_operator_know_the_same_defaults(plane: Cluster) -> None:
    """A manifest from a folder means the same as the object that kubectl would make of it."""
    body = _body(
        configFrom={"configMapKeyRef": {"name": "settings"}}, env=[{"name": "EMPTY"}], triggers=[
            {"name": "a", "cron": {"schedule": "*/5 * * * *"}},
            {"name": "b", "http": {"auth": {"hmac": {"secretKeyRef": {"name": "github"}}}}},
            {"name": "c", "http": {"auth": {"bearer": {"secretKeyRef": {"name": "hook"}}}}},
            {"name": "d", "kubernetes": {"apiVersion": "v1", "kind": "ConfigMap"}},
            {"name": "e", "http": {"auth": {"jwt": {"keys": [{"pem": _PEM}]}}, "rate": {}}},
            {"name": "f", "startup": {}},
        ], sink={"configMap": {"name": "price"}}, retries={"limit": 1},
    )  # fmt: skip
    defaulted = _try(plane, body).json()
    assert defaulted["spec"] != body["spec"]
    here, there = (Workflow.parse(b, Settings()) for b in (body, defaulted))
    assert here.spec == there.spec


def test_an_object_with_every_field_is_kept_as_it_was_written(
    plane: Cluster, namespace: str
) -> None:
    """Nothing is pruned or changed, whatever JSON the data of a trigger is."""
    data: dict[str, Any] = {
        "list": [1, None, {"deep": None}],
        "text": "é",
        "empty": {},
        "null": None,
    }
    body = _body(
        abi="wasi", config="{}", env=[{"name": "A.b-C", "value": "=x="}], args=["", "--v"],
        suspend=True, priority=-1000, limits={
            "memory": 4 << 30, "timeout": "24h", "cpu": "1.5s", "response": "16Mi", "log": "0.5Ki",
        }, triggers=[
            {"name": "a", "cron": {
                "schedule": "0 0 8 * JAN-MAR MON#1", "timeZone": "Europe/Zurich", "data": data,
                "concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 86400, "jitter": "1h"}},
            {"name": "b", "manual": {"data": [data]}},
            {"name": "c", "manual": {"data": "text"}},
            {"name": "d", "startup": {"data": data}},
            _http("e", bearer={"secretKeyRef": {"name": "a", "key": "K"}}),
            _http("f", hmac={"secretKeyRef": {"name": "a", "key": "K"}, "header": "X-Signed"}),
            _http("g", jwt={"keys": [{"id": "1", "pem": _PEM}], "issuer": "i", "audience": "a"}),
            _http("h", anonymous={}),
            {"name": "i", "kubernetes": {
                "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "web", "on": ["Added"],
                "labelSelector": "a in (b,c),!d", "fieldSelector": "metadata.name=e"}},
        ], retries={"limit": 10, "on": ["Refused"], "backoff": "1s", "backoffMax": "24h"},
        activeDeadlineSeconds=86400, sink={"http": {"url": "https://example.org:8443/a?b=c"}},
    )  # fmt: skip
    body["spec"]["module"] |= {
        "encoding": "zstd", "text": "hex", "configMaps": [{"name": "a.b", "key": "K_.-"}],
    }  # fmt: skip
    assert _create(plane, namespace, body)["spec"] == body["spec"]


_CASES = sorted(_GOLDEN.glob("*.yaml"))


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.stem)
def test_a_mistake_is_refused_by_kubectl_apply_with_its_own_words(
    plane: Cluster, case: Path
) -> None:
    """The path points at the field, and the message says what to do: exactly as in the golden."""
    done = plane.kubectl("apply", "-f", "-", stdin=case.read_text(), check=False)
    golden = case.with_suffix(".error.txt")
    if os.environ.get("SLUICE_GOLDEN") == "write":
        golden.write_text(done.stderr)
    assert done.returncode == 1
    assert done.stderr == golden.read_text()


def test_each_rule_of_the_schema_has_a_golden_case() -> None:
    """No rule is without proof that it bites and reads well; no golden is without its manifest."""
    goldens = sorted(_GOLDEN.glob("*.error.txt"))
    assert [g.name for g in goldens] == [f"{case.stem}.error.txt" for case in _CASES]
    texts = "".join(g.read_text() for g in goldens)
    rules = [r for _, node in _nodes(_SCHEMA) for r in node.get("x-kubernetes-validations", [])]
    assert len(rules) > 20
    for rule in rules:
        assert _words(rule) in texts


def _words(rule: dict[str, Any]) -> str:
    """Return the longest literal piece of a rule's message."""
    if "message" in rule:
        return str(rule["message"])
    literals = re.findall(r"'((?:[^'\\]|\\.)*)'", rule["messageExpression"])
    pieces = [p for text in literals for p in re.split(r"%[sd]", text.replace("\\'", "'"))]
    return max(pieces, key=len)


def _nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from _nodes(schema["items"], f"{path}[]")


_GIVEN = [(path, node) for path, node in _nodes(_SCHEMA) if path != ".metadata"]


def test_every_field_is_described_and_its_default_named() -> None:
    """Kubectl explain leaves no question open at any depth; metadata is Kubernetes' own."""
    assert [path for path, node in _GIVEN if not node.get("description")] == []
    scalars = [(p, n) for p, n in _GIVEN if not isinstance(n.get("default", []), (list, dict))]
    assert len(scalars) > 10
    for path, node in scalars:
        default = yaml.safe_dump(node["default"]).splitlines()[0]
        stated = "empty" if default == "''" else default
        assert f"Default: {stated}" in " ".join(node["description"].split()), path


def test_whatever_can_grow_has_a_bound() -> None:
    """No list and no text of an object is unbounded, but for the user's own data."""
    bounds = {"string": {"maxLength", "enum"}, "array": {"maxItems"}}
    for path, node in _GIVEN:
        if path in {".apiVersion", ".kind"} or node.get("format") == "date-time":
            continue
        wanted = bounds.get(node.get("type", ""), set(node))
        assert wanted & set(node), path


def test_kubectl_explain_teaches_a_newcomer(plane: Cluster, wait_until: WaitUntil) -> None:
    """The short name leads to what each field is, its default and an example."""

    def explained() -> str:
        # It is published a moment after the API is established.
        return plane.kubectl("explain", "slw.spec.module", check=False).stdout

    text = " ".join(wait_until(explained, 30, "kubectl explain slw.spec.module").split())
    for words in ("sha256sum module.wasm", "Default: brotli", "Example: 2527232", "-required-"):
        assert words in text
    assert "<no description>" not in plane.kubectl("explain", "slw.spec.triggers.cron").stdout


def test_the_schema_and_the_operator_name_the_same_fields() -> None:
    """A field, its being required and its choices are never added on one side alone."""
    definitions = msgspec.json.schema(WorkflowSpec)["$defs"]
    ours = _outline(definitions["WorkflowSpec"], definitions)
    assert ours == _outline(_SCHEMA["properties"]["spec"], {})


def _outline(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    for choice in schema.get("anyOf", []):
        if choice.get("type") != "null":
            return _outline(schema | choice | {"anyOf": []}, definitions)
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "items" in schema:
        return [_outline(schema["items"], definitions)]
    if not schema.get("properties"):
        return sorted(choice for choice in schema.get("enum", []) if choice is not None)
    children = {n: _outline(s, definitions) for n, s in schema["properties"].items()}
    return {"required": sorted(schema.get("required", [])), "properties": children}


def test_the_status_can_hold_every_outcome() -> None:
    """An execution's end never makes a status that the API server refuses."""
    execution = _SCHEMA["properties"]["status"]["properties"]["executions"]["items"]
    assert execution["properties"]["outcome"]["enum"] == [kind.value for kind in OutcomeKind]


_STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready", "status": "True", "reason": "Serving", "message": "serves since noon",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z",
        },
        {
            "type": "Succeeding", "status": "False", "reason": "RunsFailing", "message": "5 failed",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z",
        },
    ],
    "serving": {"digest": _DIGEST, "generation": 1, "abi": "wasi", "size": 2527232},
    "lastHandledRunAt": "1767323045", "lastRun": "TimedOut",
    "executions": [
        {
            "id": "0194-a1", "trigger": "manual", "started": "2026-01-02T03:04:05Z",
            "duration": "41ms", "outcome": "TimedOut", "exitCode": 1, "message": "m",
            "result": "{}",
        }
    ],
}  # fmt: skip


def test_kubectl_get_shows_what_a_user_asks_first(plane: Cluster, namespace: str) -> None:
    """By short name and by category; -o wide adds what serves and the reason in words."""
    _create(plane, namespace, _body())
    _patch(plane, namespace, "/hello/status", {"status": _STATUS})
    head, row = plane.kubectl("get", "slw", "-n", namespace).stdout.splitlines()
    assert re.split(r"\s{2,}", head.strip()) == ["NAME", "READY", "REASON", "LAST RUN", "AGE"]
    assert row.split()[:4] == ["hello", "True", "Serving", "TimedOut"]
    head, row = plane.kubectl("get", "sluice", "-n", namespace, "-o", "wide").stdout.splitlines()
    assert head.split()[-4:] == ["DIGEST", "SIZE", "ABI", "MESSAGE"]
    assert row.endswith("serves since noon")
    assert row.split()[5:8] == [_DIGEST, "2527232", "wasi"]


def test_status_and_spec_are_written_by_different_doors(plane: Cluster, namespace: str) -> None:
    """An author cannot claim to be Ready, the operator cannot change what is wanted."""
    _create(plane, namespace, _body() | {"status": _STATUS})
    after = _patch(plane, namespace, "/hello", {"spec": {"suspend": True}, "status": _STATUS})
    assert "status" not in after
    assert after["metadata"]["generation"] == 2
    both = {"spec": {"suspend": False}, "status": _STATUS}
    after = _patch(plane, namespace, "/hello/status", both)
    assert (after["status"], after["spec"]["suspend"]) == (_STATUS, True)
    assert after["metadata"]["generation"] == 2


def test_a_status_of_too_many_executions_is_refused_and_the_most_is_taken(
    plane: Cluster, namespace: str
) -> None:
    """A status stays small however often a workflow runs."""
    _create(plane, namespace, _body())
    most = {"executions": _STATUS["executions"] * 20}
    _patch(plane, namespace, "/hello/status", {"status": most})
    more = {"status": {"executions": _STATUS["executions"] * 21}}
    kind = "application/merge-patch+json"
    answer = plane.api("PATCH", _path(namespace, "/hello/status"), more, content_type=kind)
    assert answer.status == 422
    assert "status.executions: Too many: 21" in answer.json()["message"]


def test_everything_in_a_spec_can_be_edited_in_place(plane: Cluster, namespace: str) -> None:
    """Nobody has to delete an object, and with it what serves, in order to change it."""
    _create(plane, namespace, _body(abi="wasi", config="a", triggers=[{"name": "a", "manual": {}}]))
    changed = _body(
        configFrom={"configMapKeyRef": {"name": "a", "key": "k"}},
        triggers=[{"name": "a", "startup": {"data": 1}}],
        sink={"http": {"url": "http://example.org"}},
    )["spec"]
    changed["module"] |= {"digest": "sha256:" + "0" * 64, "size": 1, "encoding": "none"}
    after = _patch(plane, namespace, "/hello", {"spec": changed | {"abi": None, "config": None}})
    assert not {"abi", "config"} & set(after["spec"])
    assert after["spec"]["triggers"] == changed["triggers"]
