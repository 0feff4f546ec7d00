"""Specs of what starts executions and what becomes of them, good and bad in pairs, by field.

Beside test_crd_agreement.py, which asks the API server and the operator about each.
"""

from typing import Any

Spec = dict[str, Any]

_HEAD, _FOOT = "-----BEGIN PUBLIC KEY-----\n", "-----END PUBLIC KEY-----\n"
_POINT = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFzT147xz0NT9lao+hzM5K5V1wm8F\n"
    "TRsOeayj+UDiQFvtSUEcaaTZFfK1yVA7eRa4LRhgyQmGWZAht6oA6UeJzQ==\n"
)
PEM = _HEAD + _POINT + _FOOT
_PEM_OF_P384 = _HEAD + (
    "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE5G2gSswvSsRBgxHOspsErIhXyxv7DwXz\n"
    "xd8B6C0DRyzaSsZ8fuI1zq/F12t5dn/B3dvD3TqSFBAEX1rDwi85G0hOnQ7f6TIs\n"
    "PE6nryurn1X96GN7r2O7a17aC1ms49/J\n"
) + _FOOT  # fmt: skip
_SECRET_REFS_BAD = [
    {}, {"key": "a"}, {"name": "A"}, {"name": "a", "key": ""}, {"name": "a", "key": "a b"},
    {"name": "a", "namespace": "b"}, {"name": "a\n"},
]  # fmt: skip
_NEEDED: dict[str, Spec] = {
    "cron": {"schedule": "* * * * *"},
    "http": {"auth": {"anonymous": {}}},
    "kubernetes": {"apiVersion": "v1", "kind": "ConfigMap"},
}

# kind, field: values that are taken, values that are not. None is null: as if it were not given.
_TRIGGERS: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {
    ("startup", "data"): ([[None], None], []),
    ("startup", "schedule"): ([], ["* * * * *"]),
    ("cron", "concurrencyPolicy"): (["Allow", "Forbid", "Replace", None], ["", "allow", 1]),
    ("cron", "startingDeadlineSeconds"): ([0, 86400, None], [-1, 86401, "60", 1.5]),
    ("cron", "jitter"): (
        ["0s", "1h", "59m60s", "0.5s", None], ["", "1h0.001ms", "0", "-1s", 60, "1d"],
    ),
    ("http", "body"): (["128Ki", 1, "0.5", "100k", None], ["0", 0, "17Mi", "", "64kb", True]),
    ("http", "rate"): (
        [None, {}, {"perMinute": 60000, "burst": 1}, {"perMinute": 1, "burst": 1000}],
        [{"perMinute": 0}, {"perMinute": 60001}, {"burst": 0}, {"burst": 1001}, {"burst": "1"}],
    ),
    ("http", "auth"): (
        [{"anonymous": {}, "jwt": None}],
        [{}, None, {"anonymous": {"a": 1}}, {"anonymous": {}, "jwt": {"keys": [{"pem": PEM}]}},
         {"basic": {}}],
    ),
    ("bearer", "secretKeyRef"): ([{"name": "a.b-c", "key": "..A_-"}], _SECRET_REFS_BAD),
    ("hmac", "secretKeyRef"): ([{"name": "a.b-c", "key": "..A_-"}], _SECRET_REFS_BAD),
    ("hmac", "header"): (["X-a-1", "a" * 64, None], ["", "a b", "a:", "a" * 65]),
    ("jwt", "keys"): (
        [[{"pem": p}] for p in (PEM, PEM.replace("\n", "\r\n"), PEM.strip(),
                                _HEAD + _POINT.replace("\n", "") + _FOOT)]
        + [[{"pem": PEM, "id": "a" * 128}] * 8],
        [[{"pem": p}] for p in ("", _POINT, _PEM_OF_P384, PEM + PEM, PEM.replace("PUBLIC", "EC"),
                                PEM.replace("zQ==", "zQ="), PEM.replace("\n", "\t"), "a" * 1025)]
        + [[], None, [{"id": "a"}], [{"pem": PEM}] * 9]
        + [[{"pem": PEM, "id": i}] for i in ("", "a" * 129)],
    ),
    ("jwt", "issuer"): (["i", "i" * 256, None], ["", "i" * 257]),
    ("jwt", "audience"): (["a", "a" * 256, None], ["", "a" * 257]),
    ("kubernetes", "apiVersion"): (
        ["v1", "apps/v1", "a.b-c.d/v1beta1"],
        [None, "", "V1", "/v1", "apps/", "a/b/v1", "Apps/v1", "v1\n", "1", "a" * 318],
    ),
    ("kubernetes", "kind"): (
        ["A", "Cron-Tab", "K" * 63], [None, "", "pods", "A.b", "K" * 64, "Secret"],
    ),
    ("kubernetes", "namespace"): (["a", "0-a", "a" * 63, None], ["", "*", "A", "a.b", "a" * 64]),
    ("kubernetes", "labelSelector"): (
        ["a", "!a", "a=b", "a==b", "a != b", "x.org/a-b_c=1", " a in (b, c) ,d notin (e),!f",
         "a=", "a>1,b<2", "a," * 511 + "b", None],
        ["", "=a", "a in b", "a in (b", "a=b=c", ",", "a,", "a b", "!", "a=é", "a\n", "a" * 1025],
    ),
    ("kubernetes", "fieldSelector"): (
        ["metadata.name=a", "status.phase!=Running,spec.x==y", "a=", r"a=\,\=\\", None],
        ["", "a", "=a", "a=b,", "a=b=c", "a b=c", "a=\\", r"a=\b", "a" * 1025],
    ),
    ("kubernetes", "on"): (
        [["Added"], ["Deleted", "Modified"], None],
        [[], ["Created"], ["Added", "Added"], ["Added"] * 4, "Added", [None]],
    ),
}  # fmt: skip
_FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "triggers": (
        [],
        [[{"name": "a"}], [{"name": "a", "startup": {}, "manual": {}}],
         [{"name": "a", "http": {"auth": {"anonymous": {}}}, "startup": {}}]],
    ),
    "retries": (
        [None, {}, {"limit": 10}, {"on": ["Refused", "OutOfMemory"]},
         {"backoff": "1h", "backoffMax": "1h"}, {"backoff": "1ms", "backoffMax": "24h"}],
        [{"limit": -1}, {"limit": 11}, {"limit": 1.5}, {"on": []}, {"on": ["Completed"]},
         {"on": ["Failed", "Failed"]}, {"on": ["Cancelled"]}, {"backoff": "0s"}, {"backoff": ""},
         {"backoff": "1h1ms", "backoffMax": "24h"}, {"backoffMax": "24h1ms"},
         {"backoffMax": "9s"}, {"backoff": "5m1ms"}, {"times": 3}],
    ),
    "activeDeadlineSeconds": ([1, 86400, None], [0, 86401, "60", 1.5]),
    "sink": (
        [{"http": {"url": u}} for u in (
            "http://a", "https://example.org/a/b?c=d&e=%20", "http://10.0.0.1:65535/",
            "http://[::1]:1", "http://a.b:80?c", "http://a.ns.svc.cluster.local/@x:y;z",
            "http://a/" + "b" * 2039)]
        + [{"configMap": {"name": "a.b"}, "http": None}, None],
        [{"http": {"url": u}} for u in (
            "", "a", "//a", "ftp://a", "http://", "http://a b", "http://a#b", "http://a:0/",
            "HTTP://a", "http://a:65536", "http://me@a", "http://me:pw@a/", "http://a/\n",
            "http://é", "http://a\\b", "http://a/" + "b" * 2040)]
        + [{}, {"http": {}}, {"configMap": {}}, {"configMap": {"name": "A"}}, {"secret": {}},
           {"http": {"url": "http://a"}, "configMap": {"name": "a"}},
           {"configMap": {"name": "a", "key": ""}}],
    ),
    "abi": (["cre", None], ["", "wasip2"]),
    "cre": (
        [None, {}, {"http": {}, "secrets": [], "metrics": True}, {"http": {"allowHosts": None}}]
        + [{"http": {"allowHosts": [h]}} for h in (
            "a", "a.b-c_d.e", ".example.com", "10.0.0.1", "[::1]", "a" * 253)]
        + [{"http": {"allowHosts": ["a"] * 100}}]
        + [{"secrets": [{"id": i, "namespace": n, "secretKeyRef": {"name": "a.b", "key": "..A_-"}}
                        for i in ("A_b.c-1", "a" * 128) for n in ("main", "a" * 64)]}],
        [{"http": {"allowHosts": h}} for h in (
            [], [""], ["A"], ["a/b"], ["a:80"], ["http://a"], ["*.a"], ["a."], ["::1"], ["a\n"],
            ["a" * 254], ["a"] * 101, "a", [None])]
        + [{"secrets": [{"id": "a", "secretKeyRef": {"name": "a", "key": "b"}} | s]} for s in (
            {"id": ""}, {"id": "a b"}, {"id": "a" * 129}, {"namespace": ""},
            {"namespace": "a" * 65}, {"namespace": "a\n"}, {"id": None}, {"secretKeyRef": None},
            {"secretKeyRef": {"name": "a"}}, {"secretKeyRef": {"name": "A", "key": "b"}},
            {"secretKeyRef": {"name": "a", "key": ""}}, {"value": "hunter2"})]
        + [{"secrets": [{"id": "a", "secretKeyRef": {"name": "a", "key": "b"}}] * 2},
           {"secrets": [{"id": "a", "namespace": n, "secretKeyRef": {"name": "a", "key": "b"}}
                        for n in ("main", None)]},
           {"secrets": [{"id": f"a{i}", "secretKeyRef": {"name": "a", "key": "b"}}
                        for i in range(101)]},
           {"metrics": "true"}, {"evm": {}}],
    ),
    "limits": (
        [{"cpu": t} for t in ("1ms", "24h", None)],
        [{"cpu": t} for t in ("", "0s", "24h1s", 1)],
    ),
}  # fmt: skip


def trigger(kind: str, /, **given: Any) -> Spec:
    """Return a spec with one trigger of a kind, or of http by a way of authentication."""
    if kind in {"bearer", "hmac"}:
        return trigger("http", auth={kind: {"secretKeyRef": {"name": "a"}} | given})
    if kind == "jwt":
        return trigger("http", auth={kind: {"keys": [{"pem": PEM}]} | given})
    return {"triggers": [{"name": "a", kind: _NEEDED.get(kind, {}) | given}]}


def _all(which: int) -> list[Spec]:
    specs = [{field: value} for field, both in _FIELDS.items() for value in both[which]]
    for (kind, field), both in _TRIGGERS.items():
        specs += [trigger(kind, **{field: value}) for value in both[which]]
    return specs


_MOST_WATCHED = {
    "apiVersion": "a." * 126 + "a/v1", "kind": "K" * 63, "namespace": "n" * 63,
    "labelSelector": "a in (b)," * 113 + "a", "fieldSelector": "a=b," * 255 + "a=b",
}  # fmt: skip
_MOST_KEYS = [{"id": "i" * 128, "pem": PEM.strip().ljust(1024)}] * 8
# All that may be, at once: the API server ends a rule that costs it too much.
_LARGEST = [
    {"triggers": [{"name": f"t{i}", "kubernetes": _MOST_WATCHED} for i in range(32)]},
    {"triggers": [
        {"name": f"t{i}", "http": {"auth": {"jwt": {"keys": _MOST_KEYS}}}} for i in range(32)
    ]},
]  # fmt: skip
GOOD = [
    *_all(0),
    *_LARGEST,
    trigger("kubernetes", apiVersion="example.org/v1", kind="Secret"),
]
BAD = _all(1)
# What a schema cannot know: the operator's own bound, event_bytes_max.
OPERATORS = [
    trigger("http", body=(128 << 10) + 1),
    trigger("http", body="16Mi"),
    trigger("startup", data="x" * (128 << 10)),
]
