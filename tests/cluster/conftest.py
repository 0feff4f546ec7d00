"""A real API server with our API, one for each worker, and a namespace for each test."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

from ground.controlplane import ControlPlane
from ground.operator import Operator, grant
from ground.processes import GroundError
from ground.scene import Scene

_CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    with ExitStack() as held:
        try:
            plane = held.enter_context(ControlPlane())
        except GroundError as error:
            _do_without(f"no test ground: {error}")
        plane.kubectl("apply", "--server-side", "-f", str(_CRDS))
        # A kubectl that meets it before its first condition gives up at once: wait for that first.
        plane.kubectl("wait", "--for=jsonpath={.status.conditions}", "-f", str(_CRDS))
        plane.kubectl("wait", "--for=condition=Established", "-f", str(_CRDS))
        grant(plane)
        yield plane


@pytest.fixture
def namespace(plane: ControlPlane) -> Iterator[str]:
    name = plane.create_namespace()
    yield name
    plane.delete_namespace(name)


def _do_without(why: str) -> NoReturn:
    """Skip only on a machine that has no means at all; anywhere else it is a failure."""
    means = shutil.which("go") or os.environ.get("KUBEBUILDER_ASSETS") or os.environ.get("CI")
    if means:
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


StartOperator = Callable[..., Operator]


@pytest.fixture
def scene(plane: ControlPlane, namespace: str) -> Scene:
    return Scene(plane, namespace)


@pytest.fixture
def start_operator(plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[StartOperator]:
    """Start an operator for this test's namespace: ``start_operator(*flags, kubeconfig=…)``."""
    with ExitStack() as held:

        def start(*flags: str, kubeconfig: Path | None = None) -> Operator:
            config = kubeconfig or plane.kubeconfig("operator")
            operator = Operator(config, tmp_path, (namespace,), *flags)
            held.callback(operator.stop)
            operator.start()
            return operator

        yield start
