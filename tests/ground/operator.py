"""The operator as a process beside a control plane, with the rights of the Role that ships."""

import os
import re
import signal
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ground.cluster import Cluster
from ground.processes import GroundError, Leashed
from ground.waiting import wait_until

ROLE = Path(__file__).parents[2] / "charts" / "sluice" / "templates" / "clusterrole.yaml"
_READY_S_MAX = 60
_GRACE_S = 30


def grant(plane: Cluster) -> None:
    """Give the operator's user what the shipped Role gives, and nothing else."""
    plane.kubectl("apply", "--server-side", "-f", str(ROLE))
    binding = ("clusterrolebinding", "sluice-operator", "--clusterrole=sluice-operator")
    plane.kubectl("delete", *binding[:2], "--ignore-not-found")
    plane.kubectl("create", *binding, "--user=sluice-operator")


class Operator:
    """One ``sluice operator`` that serves ``namespaces``; ``start`` again continues its data."""

    def __init__(
        self,
        kubeconfig: Path,
        directory: Path,
        namespaces: tuple[str, ...],
        *flags: str,
        within: Callable[[Sequence[str | Path]], list[str]] = lambda command: [*map(str, command)],
    ) -> None:
        self._kubeconfig, self._directory, self._within = kubeconfig, directory, within
        self._flags = [*flags, *(f"--namespace={name}" for name in namespaces)]
        self._process: Leashed | None = None
        self._logs = 0

    @property
    def data(self) -> Path:
        return self._directory / "data"

    @property
    def log(self) -> str:
        """What this run of it has said so far."""
        return self._log.read_text(errors="replace")

    def start(self, *, ready: bool = True) -> None:
        """Return once it has listed the workflows, or at once."""
        self._logs += 1
        self._log = self._directory / f"operator-{self._logs}.log"
        self._log.touch()
        command = [sys.executable, "-m", "sluice", "operator"]
        own = [f"--data-dir={self.data}"]
        for port in ("http", "trigger"):
            own += [f"--{port}-address=127.0.0.1", f"--{port}-port=0"]
        self._process = Leashed(
            "operator",
            self._within([*command, *own, *self._flags]),
            self._log,
            env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
            grace_s=_GRACE_S,
        )
        if ready:
            self._process.wait_until(self._ready, _READY_S_MAX)

    def stop(self) -> int | None:
        """Ask it to end as the kubelet does, and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.stop()
        return process.wait(0)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as the kernel does: at once, with no word."""
        process, self._process = self._process, None
        assert process is not None
        os.kill(_child(process), signal.SIGKILL)
        process.wait(_GRACE_S)

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit code once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return _child(self._process)

    def children(self) -> list[int]:
        """Return the processes it has started: compile children."""
        return children(self.pid)

    def metrics(self) -> dict[str, float]:
        """Return each sample by its name, labels in braces: ``sluice_workflows{state=ready}``."""
        text = self._get("/metrics")
        if text is None:
            raise GroundError(f"the operator answers no metrics.\n{self.log[-2000:]}")
        return {
            sample.name + _braced(sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    @property
    def url(self) -> str:
        """Where probes, metrics and the admin's API are answered."""
        return self._url("answered")

    @property
    def hooks(self) -> str:
        """Where http triggers are called."""
        return self._url("called")

    def live(self) -> bool:
        """Whether it answers the liveness probe."""
        return self._get("/healthz") is not None

    def compiles(self) -> float:
        """Return how many compiles have succeeded, in both tiers."""
        done = "sluice_compiles_total{result=compiled,"
        return sum(value for name, value in self.metrics().items() if name.startswith(done))

    def _ready(self) -> bool:
        return self._get("/readyz") is not None

    def _get(self, path: str) -> str | None:
        if "answered on port" not in self.log:
            return None
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(self.url + path, timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            return None

    def _url(self, served: str) -> str:
        found = re.search(rf"{served} on port (\d+)", self.log)
        assert found, f"nothing is {served}"
        return f"http://127.0.0.1:{found[1]}"

    def until_log(self, text: str, timeout_s: float = 30) -> None:
        """Return once it has said ``text``."""
        wait_until(lambda: text in self.log, timeout_s, f"the operator says {text!r}")


def _child(process: Leashed) -> int:
    """Return the pid of what the leash holds."""
    return wait_until(lambda: children(process.pid), 5, "the leash has a child")[0]


def children(pid: int) -> list[int]:
    """Return the processes that any thread of a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted({child for task in tasks for child in _words(task)})


def _braced(labels: dict[str, str]) -> str:
    inner = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return f"{{{inner}}}" if inner else ""


def _words(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_text().split()]
    except OSError:
        return []
