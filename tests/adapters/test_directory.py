"""Manifests on disk: what is read, what is refused, and what a change of a file does."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from ground.manifests import Writing, Written, config_map, write
from ground.waiting import wait_until
from sluice.adapters.directory import Directory
from sluice.desire import Desire
from sluice.errors import ContentInvalid, WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.workflow import PartRef

SETTINGS = Settings()
START = '(module (memory (export "memory") 1) (func (export "_start")))'
WASM = bytes(wasmtime.wat2wasm(START))


def written(name: str = "guest", **spec: Any) -> Written:
    return write(WASM, Writing(name=name, encoding="none", spec=spec))


def documents(*objects: dict[str, Any]) -> str:
    return "".join(f"---\n{json.dumps(body)}\n" for body in objects)


def scan(path: Path) -> list[Desire]:
    return Directory([path], "default").scan(SETTINGS)


def names(desires: list[Desire]) -> list[str]:
    return [str(desire.key) for desire in desires]


async def payload(directory: Directory, name: str, key: str = "part") -> bytes | str:
    return (await directory.part("default", PartRef(name=name, key=key))).payload


@pytest.mark.parametrize("form", ["plain.yaml", "list.yaml", "list.json", "tabs.json", "crlf.yaml",
                                  "bom.yaml", "bom.json", "comments.yaml"])  # fmt: skip
async def test_each_form_of_a_manifest(tmp_path: Path, form: str) -> None:
    """What kubectl takes is taken: documents, lists, JSON, comments, either line ending, a BOM."""
    objects = written()
    text = documents(*objects.items())
    text = {
        "list.yaml": objects.text(),
        "list.json": objects.text(),
        "tabs.json": json.dumps(json.loads(objects.text()), indent="\t"),
        "crlf.yaml": text.replace("\n", "\r\n"),
        "bom.yaml": "\ufeff" + text,
        "bom.json": "\ufeff" + objects.text(),
        "comments.yaml": "# a\n---\n# b\n" + text.replace("---\n", "--- # c\n") + "---\n---\n",
    }.get(form, text)
    (tmp_path / form).write_text(text, newline="")
    directory = Directory([tmp_path], "default")
    (desire,) = directory.scan(SETTINGS)
    assert desire.workflow is not None
    assert await payload(directory, "guest-0") == WASM


def test_a_namespace_is_given_or_the_default(tmp_path: Path) -> None:
    """Who names no namespace is in the one of the command line; one name may be in two."""
    mine, theirs = written().workflow, written().workflow
    theirs["metadata"]["namespace"] = "theirs"
    (tmp_path / "a.yaml").write_text(documents(mine, theirs))
    desires = Directory([tmp_path], "mine").scan(SETTINGS)
    assert names(desires) == ["mine/guest", "theirs/guest"]


async def test_text_and_bytes(tmp_path: Path) -> None:
    """Both sections of a ConfigMap are read as the API server would have them."""
    body: dict[str, Any] = config_map("c", b"bytes")
    body["data"] = {"text": "aGVsbG8=", "number": 3}
    body["binaryData"]["broken"] = "a!b"
    (tmp_path / "a.yaml").write_text(documents(body))
    directory = Directory([tmp_path], "default")
    directory.scan(SETTINGS)
    assert await payload(directory, "c") == b"bytes"
    assert await payload(directory, "c", "text") == "aGVsbG8="
    for key, says in (("number", "no text"), ("broken", "not base64"), ("none", "it has broken,")):
        with pytest.raises(ContentInvalid, match=says) as refused:
            await payload(directory, "c", key)
        assert refused.value.seen == {"c": await directory.version("default", "c")}
    with pytest.raises(ContentInvalid, match="none of the files") as absent:
        await payload(directory, "d")
    assert absent.value.seen == {"d": None}


def bomb() -> str:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]")
    return "\n".join([*lines, "kind: ConfigMap", "apiVersion: v1", "metadata: {name: b}"])


WORKFLOW = "apiVersion: sluice.dev/v1alpha1\nkind: Workflow\n"


@pytest.mark.parametrize(("text", "says"), [
    ("kind: [", "is no YAML"),
    ("a\0b", "is no YAML"),
    ("\udcff", "is no YAML"),
    ("[" * 100_000, "is no YAML"),
    ("[" * 200 + "]" * 200, "nested more than 100 deep"),
    ("&a {kind: Workflow, spec: *a}", "contains itself"),
    (bomb(), "more than 100,000 values"),
    ("hello", "no Kubernetes object"),
    ("a: 1", "it has no kind"),
    ("{kind: List, items: [3]}", "no Kubernetes object"),
    (WORKFLOW + "metadata: 3", "is no map"),
    (WORKFLOW + "metadata:", "is no map"),
    (WORKFLOW, "has nothing as metadata.name"),
    (WORKFLOW + "metadata: {name: 3}", 'has "3" as metadata.name'),
    (WORKFLOW + "metadata: {name: A}", 'has "A" as metadata.name'),
    (WORKFLOW + "metadata: {name: a, namespace: [1]}", "as metadata.namespace"),
    (WORKFLOW + "metadata: {name: a, annotations: 4}", "map not text to text"),
    (WORKFLOW + "metadata: {name: a, annotations: {sluice.dev/run-at: 4}}", "map not text"),
    (WORKFLOW + "metadata: {name: a}\nspec: {1: 2}", "1 is the key of a map"),
    (WORKFLOW + "metadata: {name: a}\nspec: {a: .nan}", "nan is no value of JSON"),
    (WORKFLOW + "metadata: {name: a}\nspec: {a: !!python/object:os.system {}}", "is no YAML"),
])  # fmt: skip
def test_what_no_cluster_would_take(tmp_path: Path, text: str, says: str) -> None:
    """A file that is wrong is named with what is wrong; it costs neither time nor memory."""
    path = tmp_path / "a.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(WorkflowInvalid, match=says) as refused:
        scan(tmp_path)
    assert refused.value.message.startswith(f"{path}: ")


def test_a_date_without_quotes_is_text(tmp_path: Path) -> None:
    """YAML's dates are what kubectl makes of them: the text that was written."""
    (tmp_path / "a.yaml").write_text(
        documents(written().workflow).rstrip()[:-2] + ', "config": 2001-01-01}}'
    )
    (desire,) = scan(tmp_path)
    assert desire.workflow is not None
    assert desire.workflow.spec.config == "2001-01-01"


@pytest.mark.parametrize("kind", ["workflow", "ConfigMap"])
def test_a_name_stands_once(tmp_path: Path, kind: str) -> None:
    """Of two objects with one name neither wins by chance; the same ConfigMap twice is one."""
    other = written()
    other.config_maps[0]["binaryData"]["part"] = ""
    (tmp_path / "a.yaml").write_text(documents(*written().items()))
    (tmp_path / "b.yaml").write_text(documents(written().config_maps[0]))
    assert names(scan(tmp_path)) == ["default/guest"]
    again = other.workflow if kind == "workflow" else other.config_maps[0]
    (tmp_path / "b.yaml").write_text(documents(again))
    with pytest.raises(WorkflowInvalid, match=f"{kind} default/guest.*(twice|too)"):
        scan(tmp_path)


def test_a_file_is_read_once(tmp_path: Path) -> None:
    """A file that is named, in a named folder, and linked to is one file."""
    path = tmp_path / "a.yaml"
    path.write_text(documents(*written().items()))
    (tmp_path / "b.yaml").symlink_to(path)
    (tmp_path / "c.yaml").symlink_to("nowhere")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "notes.txt").write_text("no manifest")
    directory = Directory([tmp_path, path, tmp_path / "b.yaml"], "default")
    assert names(directory.scan(SETTINGS)) == ["default/guest"]


def test_other_kinds_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is not run is told in one line, and again only when it is something else."""
    argo = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "a"}}
    secrets = [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": n}} for n in "ab"]
    (tmp_path / "a.yaml").write_text(documents(argo, *secrets, *written().items()))
    directory = Directory([tmp_path], "default")
    for _ in range(2):
        assert len(directory.scan(SETTINGS)) == 1
    (line,) = caplog.messages
    assert "2 Secret of v1, 1 Workflow of argoproj.io/v1alpha1;" in line


@pytest.mark.parametrize("change", ["spec", "part", "config"])
def test_a_change_is_a_generation(tmp_path: Path, change: str) -> None:
    """An edit of the spec or of what it names supersedes; a look at the same files does not."""
    config = {"configMapKeyRef": {"name": "settings"}}
    objects = written(configFrom=config)
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
                "data": {"config": "a"}}  # fmt: skip
    path = tmp_path / "a.yaml"
    path.write_text(documents(*objects.items(), settings))
    directory = Directory([tmp_path], "default")
    assert [directory.scan(SETTINGS)[0].generation for _ in range(2)] == [1, 1]
    assert not directory.changed()
    if change == "spec":
        objects.spec["priority"] = 1
    elif change == "part":
        objects.config_maps[0]["binaryData"]["part"] = ""
    else:
        settings["data"] = {"config": "b"}
    path.write_text(documents(*objects.items(), settings))
    assert directory.changed()
    (desire,) = directory.scan(SETTINGS)
    assert desire.generation == 2
    assert desire.workflow is not None
    assert desire.workflow.generation == 2


async def test_a_part_of_a_file_that_has_changed_is_not_read(tmp_path: Path) -> None:
    """Bytes of another version are never handed out as those of the version that was seen."""
    path = tmp_path / "a.yaml"
    path.write_text(documents(config_map("c", b"one")))
    directory = Directory([tmp_path], "default")
    directory.scan(SETTINGS)
    path.write_text(documents(config_map("c", b"two")))
    with pytest.raises(ContentInvalid):
        await payload(directory, "c")
    directory.scan(SETTINGS)
    assert await payload(directory, "c") == b"two"


@pytest.mark.parametrize("what", ["/dev/null", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, what: str) -> None:
    """A pipe cannot be read again when a part is needed, and is not waited for."""
    path = tmp_path / what
    if what == "fifo":
        os.mkfifo(path)
    with pytest.raises(WorkflowInvalid, match="no regular file"):
        scan(path)


@pytest.mark.parametrize("spare", [0, 1])
def test_a_document_has_a_bound(tmp_path: Path, spare: int) -> None:
    """A list up to the bound is read; a larger one is refused before it is in memory."""
    begin = "kind: Secret\nmetadata: {name: a}\n#"
    path = tmp_path / "a.yaml"
    path.write_text(begin + "x" * ((32 << 20) - len(begin) + spare))
    if spare:
        with pytest.raises(WorkflowInvalid, match="more than 33,554,432 bytes"):
            scan(path)
    else:
        assert scan(path) == []


def test_parts_are_not_held(tmp_path: Path) -> None:
    """50 MB of parts in one file cost the process the memory of a few of them."""
    part = base64.b64encode(os.urandom(190_000)).decode()
    with (tmp_path / "a.yaml").open("w") as file:
        for i in range(200):
            body = config_map(f"c-{i}", b"")
            file.write(documents(body | {"binaryData": {"part": part}}))
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from sluice.adapters.directory import Directory; from sluice.settings import Settings\n"
        "directory, peak = Directory([Path(sys.argv[1])], 'default'), "
        "lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); directory.scan(Settings()); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert int(done.stdout) < 10_000  # KiB


class Following:
    """A `sluice run` that follows a folder, and what it has said."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._log = folder.parent / "log"
        environment = os.environ | {"SLUICE_DATA_DIR": str(folder.parent / "data")}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sluice", "run", str(folder), "--drain-s=5", *flags],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def says(self, words: str, times: int = 1) -> str:
        def lines() -> list[str]:
            return [line for line in self._log.read_text().splitlines() if words in line]

        wait_until(lambda: len(lines()) >= times, 30, f"{words!r} in {self._log}")
        return lines()[-1]

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., Following]]:
    begun: list[Following] = []

    def start(*flags: str) -> Following:
        begun.append(Following(tmp_path / "folder", *flags))
        return begun[-1]

    (tmp_path / "folder").mkdir()
    yield start
    for following in begun:
        following.process.kill()
        following.process.wait()


def put(path: Path, text: str) -> None:
    """Replace a file as editors and `git checkout` do: by another one of its name."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def test_files_are_followed_until_the_end(tmp_path: Path, follow: Callable[..., Following]) -> None:
    """What appears serves, what breaks ends nothing, what is deleted is gone; SIGTERM is code 0."""
    folder = tmp_path / "folder"
    following = follow()
    following.says("there is no Workflow of sluice.dev/v1alpha1 in it yet")
    cron = {"name": "often", "cron": {"schedule": "* * * * * *"}}
    put(folder / "a.yaml", documents(*written("a", triggers=[cron]).items()))
    following.says("Completed")
    put(folder / "b.yaml", "kind: [")
    following.says("what runs is left as it was")
    runs = following.log.count("Completed")
    following.says("Completed", runs + 1)
    put(folder / "b.yaml", documents(*written("b").items()))
    assert "workflow=b" in following.says("serving", 2)
    (folder / "a.yaml").unlink()
    put(folder / "b.yaml", documents(*written("b", priority=1).items()))
    following.says("serving", 3)
    following.process.send_signal(signal.SIGTERM)
    assert following.process.wait(20) == 0
    assert "stopping: what runs may end within 5 s" in following.log
    assert "Traceback" not in following.log


def test_a_mended_config_map_heals(tmp_path: Path, follow: Callable[..., Following]) -> None:
    """A part that was missing or wrong is taken as soon as its file is right."""
    objects = written()
    good = documents(*objects.config_maps)
    put(tmp_path / "folder" / "workflow.yaml", documents(objects.workflow))
    following = follow("--source-retry-s-max=1000")
    following.says(Reason.CONFIG_MAP_NOT_FOUND)
    put(tmp_path / "folder" / "parts.yaml", documents(config_map("guest-0", b"another")))
    following.says(Reason.SIZE_MISMATCH)
    put(tmp_path / "folder" / "parts.yaml", good)
    following.says("serving")
    following.process.send_signal(signal.SIGINT)
    assert following.process.wait(20) == 0
