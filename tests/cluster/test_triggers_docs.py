"""docs/triggers.md as its reader types it: every command, in order, and what it says.

A real API server, the operator's process beside it, and bash, kubectl, curl and openssl as they
are. In what a command is said to print, … stands for whatever is there.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from ground.controlplane import ControlPlane
from ground.operator import Operator
from ground.scene import Scene

StartOperator = Callable[..., Operator]
_ROOT = Path(__file__).parents[2]
_BASH = shutil.which("bash") or "bash"
_DOC = _ROOT / "docs" / "triggers.md"
_COMMAND_S_MAX = 130  # the longest `kubectl wait` in it, and a little


class Command(NamedTuple):
    line: int
    typed: str
    printed: str


def _commands(text: str) -> list[list[Command]]:
    """Return the commands of each console block; they share variables within it."""
    blocks = []
    for block in re.finditer(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        commands: list[Command] = []
        first = text[: block.start()].count("\n") + 2
        for number, line in enumerate(block[1].splitlines(), first):
            if line.startswith("$ "):
                commands.append(Command(number, line[2:], ""))
            else:
                assert commands, f"line {number}: a block begins with a command"
                last = commands[-1]
                commands[-1] = last._replace(printed=f"{last.printed}{line}\n")
        blocks.append(commands)
    return blocks


def _is_as_told(printed: str, told: str) -> bool:
    pattern = ".*".join(re.escape(piece) for piece in told.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


class Reader:
    """Somebody with a shell, in the folder of the checkout."""

    def __init__(self, plane: ControlPlane, scene: Scene, operator: Operator, own: Path) -> None:
        config = yaml.safe_load(plane.kubeconfig("admin").read_text())
        for context in config["contexts"]:
            context["context"]["namespace"] = scene.namespace
        kubeconfig = own / "reader.kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        binaries = [str(plane.directory / "bin"), str(Path(sys.executable).parent)]
        self._environment = {
            "PATH": os.pathsep.join([*binaries, os.environ["PATH"]]),
            "HOME": str(own), "KUBECONFIG": str(kubeconfig), "NO_PROXY": "*", "LC_ALL": "C.UTF-8",
            "NS": scene.namespace, "HOOKS": operator.hooks, "SLUICE_URL": operator.url,
            "OPERATOR": "sluice-operator", "COLUMNS": "200",
        }  # fmt: skip

    def types(self, commands: list[Command]) -> list[str]:
        """Run the commands of one block in one shell, and return what each printed."""
        script = "".join(f"{command.typed}\nprintf '\\036'\n" for command in commands)
        done = subprocess.run(
            [_BASH, "-e", "-o", "pipefail", "-c", script], cwd=_ROOT, env=self._environment,
            capture_output=True, text=True, check=False, timeout=_COMMAND_S_MAX * len(commands),
        )  # fmt: skip
        *printed, rest = done.stdout.split("\x1e")
        if done.returncode:
            failed = commands[len(printed)]
            pytest.fail(
                f"{_DOC.name}:{failed.line}: {failed.typed}\nended with {done.returncode}: {rest}"
                f"{done.stderr}",
                pytrace=False,
            )
        return printed


def _apply_modules(scene: Scene) -> None:
    """Apply the ConfigMaps that the workflows of examples/triggers take their modules from."""
    for path in (_ROOT / "examples" / "triggers").glob("*.yaml"):
        found = re.search(r"The module of \.\./(\S+\.yaml)", path.read_text())
        assert found, f"{path} does not say whose module it has"
        scene.kubectl("apply", "-f", str(_ROOT / "examples" / found[1]))


@pytest.mark.slow
def test_every_command_of_the_docs_does_what_they_say(
    plane: ControlPlane, scene: Scene, start_operator: StartOperator, tmp_path: Path
) -> None:
    """Who follows docs/triggers.md from top to bottom sees what stands there."""
    assert shutil.which("curl")
    assert shutil.which("openssl")
    _apply_modules(scene)
    reader = Reader(plane, scene, start_operator(), tmp_path)
    blocks = _commands(_DOC.read_text())
    assert sum(map(len, blocks)) > 30
    for commands in blocks:
        for command, printed in zip(commands, reader.types(commands), strict=True):
            assert _is_as_told(printed, command.printed), (
                f"{_DOC.name}:{command.line}: {command.typed}\nprints\n{printed}"
            )


def test_a_wrong_output_in_the_docs_is_noticed() -> None:
    """… stands for anything, and nothing else does."""
    assert _is_as_told('{"id": "a1", "b": 2}\n', '{"id": "…", "b": 2}\n')
    assert not _is_as_told('{"id": "a1", "b": 3}\n', '{"id": "…", "b": 2}\n')
    assert not _is_as_told("a\nb\n", "a\n")
    assert _is_as_told("", "")
    assert not _is_as_told("a\n", "")
