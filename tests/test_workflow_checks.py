"""What a manifest that no API server has seen is told about what starts its executions.

That both say yes and no to the same is in cluster/test_crd_agreement.py; here are the words.
"""

from typing import Any

import pytest

from cluster.started_specs import BAD, GOOD, OPERATORS, PEM, Spec, trigger
from sluice.errors import WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import Limits, WorkflowSpec
from sluice.workflow import Workflow


def parse(spec: Spec) -> WorkflowSpec:
    module = {"digest": "sha256:" + "4f1c9a02" * 8, "size": 1, "configMaps": [{"name": "a"}]}
    body = {"metadata": {"name": "hello"}, "spec": {"module": module} | spec}
    return Workflow.parse(body, Settings()).spec


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_a_good_spec_is_taken(spec: Spec) -> None:
    """At each bound, on its right side."""
    assert parse(spec).module.size == 1


@pytest.mark.parametrize("spec", BAD + OPERATORS, ids=str)
def test_a_bad_spec_is_refused_by_the_path_of_its_mistake(spec: Spec) -> None:
    """Beyond each bound: the message begins with the field, as it is written in the manifest."""
    with pytest.raises(WorkflowInvalid) as caught:
        parse(spec)
    assert caught.value.reason in {Reason.INVALID_SPEC, Reason.INVALID_SCHEDULE}
    [field] = spec
    assert caught.value.message.startswith(f"spec.{field}"), caught.value.message


def sink(**given: Any) -> Spec:
    return {"sink": given}


_T = "spec.triggers[0]"


@pytest.mark.parametrize(("spec", "message"), [
    ({"triggers": [{"name": "a"}]},
     f"{_T}: gives none; write exactly one of cron, manual, startup, http, kubernetes (manual: "
     "{} is enough)"),
    ({"triggers": [{"name": "a", "startup": {}, "cron": {"schedule": "* * * * *"}}]},
     f"{_T}: gives cron, startup; write exactly one of cron, manual, startup, http, kubernetes "
     "(manual: {} is enough)"),
    (trigger("cron", jitter="61m"), f'{_T}.cron.jitter: "61m" must be at most 1h'),
    (trigger("cron", jitter="1 hour"),
     f'{_T}.cron.jitter: "1 hour" is no duration; write for example 30s or 1m30s'),
    (trigger("http", auth={}),
     f"{_T}.http.auth: gives none; write exactly one of bearer, hmac, jwt, anonymous (anonymous: "
     "{} lets everybody in)"),
    (trigger("http", body="17Mi"), f"{_T}.http.body: must be more than 0 and at most 16Mi"),
    (trigger("http", body="1Mi"),
     f"{_T}.http.body: 1,048,576 bytes, but this operator takes events of at most 131,072 "
     "(event_bytes_max)"),
    (trigger("bearer", secretKeyRef={"name": "My_Secret"}),
     f'{_T}.http.auth.bearer.secretKeyRef.name: "My_Secret" is no name of a Secret; write '
     "lower-case letters, digits, - and ."),
    (trigger("hmac", header="X:"),
     f'{_T}.http.auth.hmac.header: "X:" is no name of a header; write letters, digits and -'),
    (trigger("jwt", keys=[{"pem": PEM}, {"pem": "x"}]),
     f"{_T}.http.auth.jwt.keys[1].pem: is no PEM public key of P-256; write what `openssl ec "
     "-pubout` prints for a key of prime256v1"),
    (trigger("kubernetes", kind="pods"),
     f'{_T}.kubernetes.kind: "pods" is no kind of object; write for example ConfigMap'),
    (trigger("kubernetes", kind="Secret"),
     f"{_T}.kubernetes.kind: Secrets are not watched, because events are kept and shown; watch "
     "another kind"),
    (trigger("kubernetes", labelSelector="a in b"),
     f'{_T}.kubernetes.labelSelector: "a in b" is no selector of labels; write for example '
     "app=web,tier in (a, b),!old"),
    (trigger("kubernetes", on=["Added", "Added"]),
     f'{_T}.kubernetes.on[1]: "Added" stands twice; write it once'),
    ({"retries": {"backoff": "10m"}},
     'spec.retries.backoff: "10m" is longer than backoffMax, "5m"; write a shorter backoff or a '
     "longer backoffMax"),
    ({"retries": {"on": []}}, "spec.retries.on: is empty; list at least one, or leave it out"),
    ({"limits": {"cpu": "0s"}}, 'spec.limits.cpu: "0s" must be more than 0 and at most 24h'),
    (sink(),
     "spec.sink: gives none; write exactly one of http, configMap (leave sink out for none)"),
    (sink(configMap={"name": "A"}),
     'spec.sink.configMap.name: "A" is no name of a ConfigMap; write lower-case letters, digits, - '
     "and ."),
], ids=str)  # fmt: skip
def test_a_refusal_repeats_what_is_wrong_and_says_what_to_write(spec: Spec, message: str) -> None:
    """Who reads the condition needs no manual to repair the manifest."""
    with pytest.raises(WorkflowInvalid) as caught:
        parse(spec)
    assert caught.value.message == message


def test_a_password_in_a_url_is_not_repeated() -> None:
    """A message stands in events and logs that more people read than the object."""
    with pytest.raises(WorkflowInvalid) as caught:
        parse(sink(http={"url": "https://me:hunter2@example.org/"}))
    assert "hunter2" not in caught.value.message
    assert "https://example.org/results" in caught.value.message


def test_notations_become_numbers() -> None:
    """Each quantity and duration is read once, in the unit that its name says."""
    spec = parse(
        trigger("http", body="1.5Ki") | {"retries": {"backoff": "1m30s", "backoffMax": "1h"}}
    )
    http = spec.triggers[0].http
    assert http
    assert http.body_bytes == 1536
    assert http.auth.secret_key_ref is None
    assert (spec.retries.backoff_s, spec.retries.backoff_max_s) == (90.0, 3600.0)
    assert (Limits().cpu_s, Limits(cpu="1500ms").cpu_s) == (None, 1.5)
    cron = parse(trigger("cron", jitter="1m")).triggers[0].cron
    assert cron
    assert cron.jitter_s == 60.0
