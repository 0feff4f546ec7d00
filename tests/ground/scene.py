"""One namespace of a control plane, as an author sees it."""

import json
from typing import Any
from urllib.parse import quote

from ground.cluster import Cluster
from ground.manifests import Written
from ground.waiting import wait_until
from sluice.workflow import API_VERSION, RUN_AT, RUN_DATA

_WAIT_S = 60


class Scene:
    """Applies objects with kubectl, and reads what became of them."""

    def __init__(self, plane: Cluster, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("-n", self.namespace, *arguments, stdin=stdin).stdout

    def apply(self, *written: Written) -> None:
        """Apply as an author does: client-side where it fits the annotation, in order."""
        items = [item for one in written for item in one.items()]
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self.kubectl("apply", "-f", "-", stdin=text)

    def apply_object(self, body: dict[str, Any]) -> None:
        """Apply one object of any size."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-",
                     stdin=json.dumps(body))  # fmt: skip

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        self.kubectl("patch", "slw", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def delete(self, kind: str, name: str) -> None:
        self.kubectl("delete", kind, name, "--wait=true", "--timeout=10s")

    def delete_all(self, *names: str) -> None:
        """Delete these workflows."""
        self.kubectl("delete", "slw", *names, "--wait=true", "--timeout=10s")

    def get(self, name: str) -> dict[str, Any]:
        path = f"/apis/{API_VERSION}/namespaces/{self.namespace}/workflows/{name}"
        body: dict[str, Any] = self.plane.api("GET", path).json()
        return body

    def status(self, name: str) -> dict[str, Any]:
        return self.get(name).get("status") or {}

    def condition(self, name: str, kind: str = "Ready") -> dict[str, Any]:
        """Return a condition of the present generation, or an empty one."""
        body = self.get(name)
        found = (c for c in body.get("status", {}).get("conditions", ()) if c["type"] == kind)
        condition: dict[str, Any] = next(found, {})
        current = condition.get("observedGeneration") == body["metadata"]["generation"]
        return condition if current else {}

    def until_ready(self, *names: str, timeout_s: float = _WAIT_S) -> None:
        """Return once each is Ready in its present generation."""
        for name in names:
            wait_until(
                lambda name=name: self.condition(name).get("status") == "True",  # type: ignore[misc]
                timeout_s,
                f"{name} is Ready; it says {self.condition(name)}",
            )

    def until_reason(self, name: str, reason: str, kind: str = "Ready") -> dict[str, Any]:
        """Return the condition once it has that reason in the present generation."""
        wait_until(
            lambda: self.condition(name, kind).get("reason") == reason,
            _WAIT_S,
            f"{kind} of {name} has reason {reason}; it says {self.condition(name, kind)}",
        )
        return self.condition(name, kind)

    def run(self, name: str, token: str, data: object = None) -> dict[str, Any]:
        """Ask for one run by annotation, and return the execution once it is over."""
        annotations = {RUN_AT: token}
        if data is not None:
            annotations[RUN_DATA] = json.dumps(data)
        text = json.dumps({"metadata": {"annotations": annotations}})
        self.kubectl("patch", "slw", name, "--type=merge", "-p", text)
        return wait_until(
            lambda: next(
                (run for run in self.status(name).get("executions", ()) if run["id"] == token), {}
            ),
            _WAIT_S,
            f"run {token} of {name} is over; its status is {self.status(name)}",
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events about a workflow, the oldest first."""
        selector = quote(f"regarding.kind=Workflow,regarding.name={name}")
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        items = self.plane.api("GET", f"{path}?fieldSelector={selector}").json()["items"]
        return sorted(items, key=lambda event: event["eventTime"])

    def reasons(self, name: str) -> list[str]:
        return [event["reason"] for event in self.events(name)]
