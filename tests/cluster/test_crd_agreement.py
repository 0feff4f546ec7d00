"""The schema in crds/ and Workflow.parse say yes and no to the same specs.

kubectl's user meets the first, the user of a folder of manifests meets the second.
"""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import started_specs
from ground.cluster import Answer, Cluster
from sluice.errors import WorkflowInvalid
from sluice.settings import Settings
from sluice.workflow import API_VERSION, KIND, Workflow

_DIGEST = "sha256:" + "4f1c9a02" * 8


def _body(spec: dict[str, Any]) -> dict[str, Any]:
    module = {"digest": _DIGEST, "size": 2527232, "configMaps": [{"name": "hello-4f1c-0"}]}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "hello"},
        "spec": {"module": module} | spec,
    }


def _answer(plane: Cluster, body: object) -> Answer:
    """Ask whether a body would be taken, as strictly as kubectl does; nothing is kept."""
    path = f"/apis/{API_VERSION}/namespaces/default/workflows"
    return plane.api("POST", f"{path}?dryRun=All&fieldValidation=Strict", body)


def _refusal(body: dict[str, Any]) -> str | None:
    try:
        Workflow.parse(body, Settings())
    except WorkflowInvalid as refused:
        return refused.message
    return None


_GOOD: list[dict[str, Any]] = [
    {},
    {"abi": None, "limits": None, "env": None, "config": None, "triggers": None, "suspend": None},
    {"config": ""},
    {"config": "x" * (50 << 10)},
    {"configFrom": {"configMapKeyRef": {"name": "a.b-c.1", "key": "..data_A-"}}},
    {"env": [{"name": n, "value": None} for n in ("A", "a.b", "_", "-", "sluice_", "ASLUICE_")]},
    {"env": [{"name": f"A{i}"} for i in range(100)]},
    {"env": [{"name": "A", "value": "x" * 32768}]},
    {"args": ["", " ", "é\n"]},
    {"args": ["x" * 4096] * 100},
    {"priority": 1000},
    {"priority": -1000},
    *({"limits": {"memory": m}} for m in (1, 4 << 30, "4Gi", "0.0001k", "00064Mi", "1.5G", "9")),
    *({"limits": {"response": r, "log": r}} for r in ("16Mi", "16M", 16 << 20, "16384Ki", "0.5")),
    *({"limits": {"timeout": t}} for t in ("1ms", "24h", "23h60m", "0.001ms", "1.5s", "1s1m1s1m")),
    {"triggers": [{"name": f"t{i}", "manual": {"data": i}} for i in range(32)]},
    {"triggers": [{"name": "a" * 63, "manual": {}}, {"name": "0-a", "manual": {"data": None}}]},
    {"triggers": [{"name": "a", "manual": None, "cron": {"schedule": "* * * * *"}}]},
    {"module": {"digest": _DIGEST, "size": 100 << 20, "configMaps": [{"name": "a"}] * 1000}},
    {
        "module": {
            "digest": _DIGEST,
            "size": 1,
            "encoding": None,
            "configMaps": [{"name": "a" * 253}],
        }
    },
    {
        "module": {
            "digest": _DIGEST,
            "size": 1,
            "configMaps": [{"name": "a" * 253, "key": "a" * 253}] * 1000,
        },
        "env": [{"name": f"A{i}", "value": "x" * 4096} for i in range(100)],
        "args": ["x" * 4096] * 100,
        "triggers": [
            {"name": f"t{i}", "cron": {"schedule": "* * * * " + "1-5/2," * 15 + "0"}}
            for i in range(32)
        ],
    },
]
_BAD: list[dict[str, Any]] = [
    {"unknown": 1},
    {"module": None},
    {"module": {"digest": _DIGEST, "size": 1}},
    {"module": {"digest": _DIGEST, "size": 1, "configMaps": [{"name": "a"}] * 1001}},
    {"module": {"digest": _DIGEST, "size": -1, "configMaps": [{"name": "a"}]}},
    {"module": {"digest": _DIGEST, "size": (1 << 30) + 1, "configMaps": [{"name": "a"}]}},
    {"module": {"digest": _DIGEST, "size": 1, "configMaps": [{"name": "a", "keys": "b"}]}},
    *(
        {"module": {"digest": d, "size": 1, "configMaps": [{"name": "a"}]}}
        for d in ("", _DIGEST + "0", _DIGEST[:-1], _DIGEST + "\n", _DIGEST.replace("sha256", "md5"))
    ),
    *(
        {"module": {"digest": _DIGEST, "size": 1, "configMaps": [{"name": "a"} | part]}}
        for part in (
            {"name": ""}, {"name": "a."}, {"name": "a..b"}, {"name": "-a"}, {"name": "a" * 254},
            {"name": "a\n"}, {"key": ""}, {"key": "ä"}, {"key": "a" * 254}, {"name": None},
        )
    ),
    {"config": "x" * 262145},
    {"configFrom": {}},
    {"configFrom": {"configMapKeyRef": {"key": "a"}}},
    *({"env": [{"name": n}]} for n in ("", "1A", "A=", "A B", "Ä", "A\n", "a" * 254, "SLUICE_")),
    {"env": [{"name": f"A{i}"} for i in range(101)]},
    {"env": [{"name": "A", "value": "x" * 32769}]},
    {"args": ["x"] * 101},
    {"args": ["x" * 4097]},
    {"args": [None]},
    {"suspend": "true"},
    {"priority": -1001},
    {"priority": 1.5},
    {"priority": True},
    *(
        {"limits": {"memory": m}}
        for m in (
            -1, (4 << 30) + 1, "4.000000001Gi", "", "0.0", "-1", "+1", "1e3", ".5Mi", "5.Mi", "1_0",
            "64mi", "64 Mi", "64Mi\n", "inf", "0x10", "1Ti", "٣", True, 1.5, "0" * 20 + "1",
        )
    ),
    *({"limits": {"response": r}} for r in ("0", (16 << 20) + 1, "16777216.5", "17Mi")),
    *(
        {"limits": {"timeout": t}}
        for t in ("", "5", "-5s", "+5s", "1d", "1us", "1.s", ".5s", "1s ", "1s,1s", "100000s",
                  "1m1m1m1m1m", "24h0.001ms", "0h0m0s", 5, "1.2345s")
    ),
    {"triggers": [{"name": f"t{i}", "manual": {}} for i in range(33)]},
    {"triggers": [{"name": "a", "manual": {"date": 1}}]},
    {"triggers": [{"name": "a", "cron": {}}]},
    {"triggers": [{"name": "a", "http": {}}]},
    *({"triggers": [{"name": n, "manual": {}}]} for n in ("", "A", "a-", "a.b", "a\n", "a" * 64)),
    {"triggers": [{"name": "a", "cron": {"schedule": "*" * 101}}]},
    *(
        {"triggers": [{"name": "a", "cron": {"schedule": "* * * * *", "timeZone": z}}]}
        for z in ("", "/UTC", "UTC ", "../etc/passwd", "Z" * 65)
    ),
]  # fmt: skip
# What a schema cannot know: the operator's own bounds, the time zones there are, the calendar.
_OPERATORS: list[dict[str, Any]] = [
    {"config": "x" * (50 << 10) + "x"},
    {"module": {"digest": _DIGEST, "size": (100 << 20) + 1, "configMaps": [{"name": "a"}]}},
    {"triggers": [{"name": "a", "manual": {"data": "x" * (128 << 10)}}]},
    {"triggers": [{"name": "a", "cron": {"schedule": "* * * * *", "timeZone": "Mars/Olympus"}}]},
    {"triggers": [{"name": "a", "cron": {"schedule": "0 0 30 2 *"}}]},
    {"triggers": [{"name": "a", "cron": {"schedule": "0 0 */28 2 MON#2"}}]},
]


def _cases(specs: list[dict[str, Any]], *, there: bool, here: bool) -> list[Any]:
    return [pytest.param(spec, there, here, id=json.dumps(spec)[:60]) for spec in specs]


@pytest.mark.parametrize(
    ("spec", "there", "here"),
    [
        *_cases(_GOOD + started_specs.GOOD, there=True, here=True),
        *_cases(_BAD + started_specs.BAD, there=False, here=False),
        *_cases(_OPERATORS + started_specs.OPERATORS, there=True, here=False),
    ],
)
def test_the_api_server_and_the_operator_take_and_refuse_the_same(
    plane: Cluster, spec: dict[str, Any], there: bool, here: bool
) -> None:
    """`sluice run` on a folder says yes and no to the same manifests as kubectl apply."""
    body = _body(spec)
    answer = _answer(plane, body)
    assert (answer.status == 201) == there, answer.text
    assert (_refusal(body) is None) == here


# Close to schedules: whatever one field holds, the others are good. No day after the 28th: which
# month has it is the calendar's business.
_VALUES = st.sampled_from([
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "00", "07", "12", "23", "24", "28", "59",
    "60", "100", "*", "L", "lw", "5L", "mon", "SUN", "Sat", "jan", "DEC", "FRI#2", "1#6", "MONL",
    "@", "?", "\u017fun", "",
])  # fmt: skip
_TERMS = st.one_of(
    st.just("*"),
    _VALUES,
    st.tuples(_VALUES, _VALUES).map("-".join),
    st.tuples(_VALUES, _VALUES).map("/".join),
    st.tuples(_VALUES, _VALUES, _VALUES).map(lambda t: f"{t[0]}-{t[1]}/{t[2]}"),
)
_FIELDS = st.lists(_TERMS, min_size=1, max_size=3).map(",".join)
_GOOD_FIELDS = st.sampled_from(["*", "1", "1-5", "*/2", "2,4-5/1"])


@st.composite
def _schedules(draw: st.DrawFn) -> str:
    fields = draw(st.lists(_GOOD_FIELDS, min_size=5, max_size=6))
    fields[draw(st.integers(0, len(fields) - 1))] = draw(_FIELDS)
    return draw(st.sampled_from([" ", "  ", "\t"])).join(fields)


_BATCHES = st.lists(_schedules(), min_size=32, max_size=32)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedules=_BATCHES)
def test_a_schedule_is_refused_by_both_or_by_none(plane: Cluster, schedules: list[str]) -> None:
    """The rules in CEL are the very grammar of the library that the operator runs by."""
    triggers = [{"name": f"t{i}", "cron": {"schedule": s}} for i, s in enumerate(schedules)]
    answer = _answer(plane, _body({"triggers": triggers}))
    refused = set(re.findall(r"spec\.triggers\[(\d+)\]\.cron\.schedule", answer.text))
    for i, trigger in enumerate(triggers):
        refusal = _refusal(_body({"triggers": [trigger]})) or ""
        here = bool(refusal) and not refusal.endswith("never falls due")
        assert here == (str(i) in refused), (schedules[i], refusal, answer.text)
