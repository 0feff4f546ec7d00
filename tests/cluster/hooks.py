"""Workflows with http triggers, and those who send to them."""

import json
import shutil
import subprocess
from typing import Any

from ground.manifests import Writing, write
from ground.operator import ROLE, Operator
from ground.scene import Scene
from ground.waiting import wait_until
from guests.build import guest

SECRETS_ROLE = ROLE.with_name("clusterrole-secrets.yaml")
_CURL = shutil.which("curl") or "curl"
TOKEN = "correct-horse-battery"
BEARER = {"bearer": {"secretKeyRef": {"name": "hook"}}}


class Hooks:
    """Workflows with http triggers in one namespace, and senders to them."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.operator: Operator

    def allow(self) -> None:
        """Do what an admin does who lets the operator read the Secrets of this namespace."""
        self.scene.plane.kubectl("apply", "--server-side", "-f", str(SECRETS_ROLE))
        self.scene.kubectl("create", "rolebinding", "hooks", "--user=sluice-operator",
                           "--clusterrole=sluice-operator-secrets")  # fmt: skip

    def secret(self, value: str = TOKEN, key: str = "token", name: str = "hook") -> None:
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                "stringData": {key: value}}  # fmt: skip
        self.scene.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def apply(self, name: str, auth: dict[str, Any], *args: str, **http: Any) -> None:
        triggers = [{"name": "hook", "http": {"auth": auth} | http}]
        module = guest("acts" if args else "echo")
        self.scene.apply(
            write(module, Writing(name=name, spec={"triggers": triggers, "args": list(args)}))
        )

    def suspend(self, name: str, *, suspend: bool) -> None:
        patch = json.dumps({"spec": {"suspend": suspend}})
        self.scene.kubectl("patch", "slw", name, "--type=merge", "-p", patch)

    def path(self, name: str) -> str:
        return f"/v1/namespaces/{self.scene.namespace}/workflows/{name}"

    def curl(self, name: str, *options: str, rest: str = "") -> tuple[int, dict[str, Any]]:
        """Send with curl what an author would type; return the code and the answer."""
        url = self.operator.hooks + self.path(name) + rest
        done = subprocess.run(
            [_CURL, "--silent", "--show-error", "--noproxy", "*", "--max-time", "60",
             "--write-out", "\n%{http_code}", *options, url],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        body, _, code = done.stdout.rpartition("\n")
        return int(code), json.loads(body)

    def send(self, name: str, *options: str, rest: str = "") -> tuple[int, dict[str, Any]]:
        """POST with the token of the Secret."""
        token = ("-X", "POST", "-H", f"Authorization: Bearer {TOKEN}")
        return self.curl(name, *token, *options, rest=rest)

    def ended(self, name: str, id_: str) -> dict[str, Any]:
        """Return an execution once it is over, as its trigger's callers see it."""

        def told() -> dict[str, Any] | None:
            code, told = self.curl(name, "-H", f"Authorization: Bearer {TOKEN}",
                                   rest=f"/executions/{id_}")  # fmt: skip
            return told if code == 200 and told["state"] == "Finished" else None

        return wait_until(told, 60, f"{id_} is over") or {}
