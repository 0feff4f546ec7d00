"""A real kube-apiserver on a real etcd: ready in seconds, gone with whoever started it.

``python -m ground.controlplane`` runs one in the foreground.
"""

import argparse
import base64
import contextlib
import http.client
import ipaddress
import json
import shutil
import signal
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ground import binaries, certificates
from ground.cluster import Cluster, write_credentials
from ground.processes import GroundError, Leashed, Port

_READY_S_MAX = 90
_SERVICES = "10.96.0.0/16"
_FIRST_SERVICE = "10.96.0.1"
_PROGRAMS = ("kube-apiserver", "kubectl", "etcd")


class ControlPlane(Cluster):
    """Owns one etcd and one API server, from ``start`` to ``stop``.

    ``address`` is where the API server listens and says it is: a loopback address reaches no pod.
    ``service_accounts`` is for a ground with a controller manager: without one nobody makes the
    default service account, and with the admission plugin no pod could be created.
    """

    def __init__(self, *, address: str = "127.0.0.1", service_accounts: bool = False) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="sluice-ground-")))
        self._address = address
        self._service_accounts = service_accounts
        self._programs: dict[str, Path] = {}
        self._ports: list[Port] = []
        self._etcd: Leashed | None = None
        self._apiserver: Leashed | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Return once the API server is ready; on failure leave the logs and nothing else."""
        try:
            self._programs = binaries.find(*_PROGRAMS)
            self._ports = [Port(), Port(), Port(self._address)]
            self._write_files()
            self._start_etcd()
            self.start_apiserver()
        except BaseException:
            self._end()
            raise

    def stop(self) -> None:
        """End both and remove their files; harmless when there is nothing to end."""
        self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_apiserver(self) -> None:
        """Return once it is ready, at the same address and with the same etcd as ever."""
        command: list[str | Path] = [self._programs["kube-apiserver"], *self._apiserver_flags()]
        log = self.directory / "kube-apiserver.log"
        self._apiserver = Leashed("kube-apiserver", command, log)
        self._apiserver.wait_until(self._apiserver_ready, _READY_S_MAX)

    def stop_apiserver(self) -> None:
        if self._apiserver is not None:
            self._apiserver.stop()
            self._apiserver = None

    def restart_apiserver(self) -> None:
        self.stop_apiserver()
        self.start_apiserver()

    def compact_etcd(self) -> None:
        """Forget every past version, so that a watch or a list from one is answered 410 Gone.

        The API server is restarted around it: it would go on answering from its own memory.
        """
        self.stop_apiserver()
        anything = base64.b64encode(b"/").decode()
        revision = self._ask_etcd("range", {"key": anything})["header"]["revision"]
        self._ask_etcd("compaction", {"revision": revision, "physical": True})
        self.start_apiserver()

    def check(self) -> None:
        """Raise if a part of it ended by itself."""
        for process in (self._etcd, self._apiserver):
            if process is not None and not process.running():
                raise GroundError(f"{process.name} ended by itself.\n{process.tail()}")

    def _end(self) -> None:
        self.stop_apiserver()  # first: without its etcd it would not listen to a signal for long
        if self._etcd is not None:
            self._etcd.stop()
            self._etcd = None
        for port in self._ports:
            port.release()
        self._ports = []

    def _write_files(self) -> None:
        names = ["localhost", "kubernetes.default.svc", "127.0.0.1", _FIRST_SERVICE, self._address]
        certificates.write(self.directory, sorted(set(names)))
        write_credentials(self.directory, f"https://{self._address}:{self._ports[2].number}")
        programs = self.directory / "bin"
        programs.mkdir(exist_ok=True)
        for name, program in self._programs.items():
            (programs / name).symlink_to(program.resolve())

    def _start_etcd(self) -> None:
        command: list[str | Path] = [self._programs["etcd"], *self._etcd_flags()]
        self._etcd = Leashed("etcd", command, self.directory / "etcd.log", grace_s=5)
        self._etcd.wait_until(self._etcd_ready, _READY_S_MAX)

    def _etcd_flags(self) -> list[str]:
        clients, peers = (f"http://127.0.0.1:{port.number}" for port in self._ports[:2])
        return [
            "--name=ground",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=ground={peers}",
            "--unsafe-no-fsync",  # a power cut costs nothing here, and a sync costs the most
            "--log-level=warn",
        ]

    def _apiserver_flags(self) -> list[str]:
        where = self.directory
        return [
            f"--etcd-servers=http://127.0.0.1:{self._ports[0].number}",
            f"--cert-dir={where}",
            f"--tls-cert-file={where / 'server.crt'}",
            f"--tls-private-key-file={where / 'server.key'}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={self._ports[2].number}",
            f"--endpoint-reconciler-type={self._endpoint_reconciler()}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={where / 'service-accounts.key'}",
            f"--service-account-signing-key-file={where / 'service-accounts.key'}",
            f"--service-cluster-ip-range={_SERVICES}",
            f"--token-auth-file={where / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged",
            "--enable-admission-plugins=NodeRestriction",
            *([] if self._service_accounts else ["--disable-admission-plugins=ServiceAccount"]),
        ]

    def _endpoint_reconciler(self) -> str:
        # An endpoint on loopback is invalid: the API server would try, and log, for ever.
        return "none" if ipaddress.ip_address(self._address).is_loopback else "lease"

    def _etcd_ready(self) -> bool:
        url = f"http://127.0.0.1:{self._ports[0].number}/readyz"
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            _DIRECT.open(url, timeout=5) as answer,
        ):
            return bool(answer.status == http.client.OK)
        return False

    def _apiserver_ready(self) -> bool:
        # The first namespaces are made beside what /readyz waits for, and a test expects them.
        with contextlib.suppress(OSError, http.client.HTTPException):
            paths = ("/readyz", "/api/v1/namespaces/default")
            return all(self.api("GET", path).status == http.client.OK for path in paths)
        return False

    def _ask_etcd(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._ports[0].number}/v3/kv/{what}"
        with _DIRECT.open(url, data=json.dumps(body).encode(), timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


# A proxy in the environment is for the world outside, not for a port of this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> None:
    """Run one in the foreground until Ctrl-C."""
    argparse.ArgumentParser(
        prog="python -m ground.controlplane",
        description="Run a kube-apiserver and an etcd of its own until Ctrl-C.",
    ).parse_args()
    with ControlPlane() as plane:
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        print(f"export KUBECONFIG={plane.kubeconfig('admin')}")
        print(f"export PATH={plane.directory / 'bin'}:$PATH", flush=True)
        print("ready; Ctrl-C ends it", file=sys.stderr)
        while not ended.wait(1):
            plane.check()


if __name__ == "__main__":
    try:
        main()
    except GroundError as error:
        sys.exit(f"ground: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
