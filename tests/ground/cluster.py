"""A control plane as its users see it: who may come in, kubectl, and the bare API."""

import base64
import http.client
import json
import os
import secrets
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from ground.processes import GroundError

User = Literal["admin", "operator", "author"]

# What RBAC sees of each user: its name, and its groups beside system:authenticated. Only the
# admin has any, so a right that the others have is one that a test gave them.
IDENTITIES: dict[User, tuple[str, str]] = {
    "admin": ("admin", "system:masters"),
    "operator": ("sluice-operator", ""),
    "author": ("author", ""),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said: an HTTP status and a body."""

    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Cluster:
    """Speaks to a control plane that somebody runs, whose files are in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._connection("admin")["cluster"]["server"])

    def kubeconfig(self, user: User) -> Path:
        return self.directory / f"{user}.kubeconfig"

    def kubectl(
        self,
        *arguments: str,
        stdin: str | None = None,
        user: User = "admin",
        check: bool = True,
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run the kubectl of the cluster's own version; ``check`` raises with what it said."""
        done = subprocess.run(
            [self.directory / "bin" / "kubectl", *arguments],
            input=stdin if stdin is not None else "",
            env=self._environment(user),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            command = " ".join(["kubectl", *arguments])
            raise GroundError(
                f"{command}\nas {user} ended with {done.returncode}:\n{done.stderr}{done.stdout}"
            )
        return done

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: User = "admin",
        content_type: str = "application/json",
        timeout_s: float = 30,
    ) -> Answer:
        """Send one request and return the answer whatever its status is."""
        reached = self._connection(user)
        address = urlsplit(reached["cluster"]["server"])
        trusted = base64.b64decode(reached["cluster"]["certificate-authority-data"]).decode()
        connection = http.client.HTTPSConnection(
            str(address.hostname),
            address.port,
            context=ssl.create_default_context(cadata=trusted),
            timeout=timeout_s,
        )
        headers = {"Authorization": f"Bearer {reached['user']['token']}"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            connection.request(
                method, path, json.dumps(body) if body is not None else None, headers
            )
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode())
        finally:
            connection.close()

    def create_namespace(self, prefix: str = "test") -> str:
        """Create a namespace that no other test has, and return its name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        answer = self.api("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        if answer.status != http.client.CREATED:
            raise GroundError(f"namespace {name}: {answer.status} {answer.text}")
        return name

    def delete_namespace(self, name: str) -> None:
        """Ask for its end, which never comes: a controller manager would have to empty it."""
        self.api("DELETE", f"/api/v1/namespaces/{name}")

    def _connection(self, user: User) -> dict[str, Any]:
        config = json.loads(self.kubeconfig(user).read_text())
        return {"cluster": config["clusters"][0]["cluster"], "user": config["users"][0]["user"]}

    def _environment(self, user: User) -> dict[str, str]:
        # HOME: its cache and nobody's preferences. No proxy is passed on: all is on this machine.
        return {
            "HOME": str(self.directory),
            "KUBECONFIG": str(self.kubeconfig(user)),
            "PATH": os.environ.get("PATH", ""),
        }


def write_credentials(directory: Path, server: str) -> None:
    """Write tokens.csv for the API server and a kubeconfig for each user."""
    authority = base64.b64encode((directory / "ca.crt").read_bytes()).decode()
    lines = []
    for user in get_args(User):
        name, groups = IDENTITIES[user]
        token = secrets.token_hex(16)
        lines.append(f'{token},{name},{name},"{groups}"\n')
        config = _kubeconfig(server, authority, name, token)
        (directory / f"{user}.kubeconfig").write_text(json.dumps(config, indent=2))
    (directory / "tokens.csv").write_text("".join(lines))


def _kubeconfig(server: str, authority: str, user: str, token: str) -> dict[str, Any]:
    # JSON is YAML, and needs no library to be written right.
    cluster = {"server": server, "certificate-authority-data": authority}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "ground", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": user, "context": {"cluster": "ground", "user": user}}],
        "current-context": user,
    }
