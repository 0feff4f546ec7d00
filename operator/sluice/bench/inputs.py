"""The workflows of a run: read from manifests, made distinct, and laid out as ConfigMaps would be.

Each part is a file of hex text, so that every strategy is given the very same bytes in the very
form a ConfigMap's ``data`` has.
"""

import asyncio
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import brotli

from sluice.adapters.directory import Directory
from sluice.binary import Assembly, Part
from sluice.desire import Desire
from sluice.errors import ContentInvalid, WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import MIB, Settings
from sluice.wasm.inflate import inflate
from sluice.workflow import API_VERSION, KIND, Encoding, PartRef, Workflow

# Smaller ones are all start and no compile.
_MODULE_BYTES_MIN = 700_000
_PART_BYTES = 190_000  # as `sluice pack` cuts them
# Copies are compressed quickly and not well: at the quality that modules are packed with, it would
# take longer than the run. Inflating costs the same.
_BROTLI_QUALITY = 5
_LIST = "workflows.json"

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Input:
    """One workflow, and the files that hold the parts of its module."""

    namespace: str
    name: str
    digest: str
    size: int
    encoding: Encoding
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Binary:
    """A module as somebody packed it."""

    workflow: Workflow
    data: bytes

    @property
    def size(self) -> int:
        return self.workflow.spec.module.size


class Inputs:
    """Inputs on disk: a ``supply.Source`` for the fleet, texts for everybody else."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        listed = json.loads((directory / _LIST).read_text())
        self.all = [Input(**item | {"parts": tuple(item["parts"])}) for item in listed]

    def texts(self, one: Input) -> list[str]:
        return [(self._directory / part).read_text() for part in one.parts]

    def desires(self, settings: Settings) -> Iterator[Desire]:
        for one in self.all:
            yield Desire.of(_body(one), settings)

    async def part(self, namespace: str, ref: PartRef) -> Part:  # noqa: ARG002 - its interface
        """Return one part as ``supply.Source`` does."""
        return Part(await asyncio.to_thread((self._directory / ref.name).read_text), "1")

    async def version(self, namespace: str, name: str) -> str | None:  # noqa: ARG002
        """Return a version that never changes."""
        return "1"


def gather(
    source: Path, workflows: int | None, directory: Path, *, real_only: bool, told: Told
) -> Inputs:
    """Write the inputs into ``directory``.

    ``workflows`` None takes those of the source as they are; a number takes as many, the first
    ones or copies that differ in a custom section.

    Raises:
        WorkflowInvalid: the source holds none, or one that is wrong.

    """
    binaries = _read(source, directory)
    if real_only:
        binaries = [binary for binary in binaries if binary.size >= _MODULE_BYTES_MIN]
    if not binaries:
        what = f"of at least {_MODULE_BYTES_MIN:,} bytes " if real_only else ""
        raise WorkflowInvalid(
            Reason.INVALID_SPEC, f"{source}: there is no {KIND} {what}of {API_VERSION} in it"
        )
    if workflows is not None:  # of those that share a module one is enough to be copied
        binaries = list({binary.workflow.digest: binary for binary in binaries}.values())
    count = workflows or len(binaries)
    listed = []
    for i in range(count):
        round_, which = divmod(i, len(binaries))
        listed.append(_write(binaries[which], round_, directory, f"part-{i}"))
        told(i + 1, count)
    (directory / _LIST).write_text(json.dumps([asdict(one) for one in listed]))
    return Inputs(directory)


def _read(source: Path, directory: Path) -> list[_Binary]:
    settings = Settings()
    found = Directory([source], "default")
    binaries = []
    for desire in found.scan(settings):
        if desire.workflow is None:
            assert desire.problem is not None
            raise WorkflowInvalid(desire.problem.reason, f"{desire.key}: {desire.problem.message}")
        data = asyncio.run(_encoded(found, desire.workflow, directory, settings))
        binaries.append(_Binary(desire.workflow, data))
    return binaries


async def _encoded(
    found: Directory, workflow: Workflow, directory: Path, settings: Settings
) -> bytes:
    try:
        with Assembly(workflow, directory, settings.encoded_bytes_max) as assembly:
            for ref in workflow.spec.module.config_maps:
                assembly.feed(ref, await found.part(workflow.key.namespace, ref))
            assembly.finish()
            return assembly.path.read_bytes()
    except ContentInvalid as e:
        raise WorkflowInvalid(e.reason, f"{workflow.key}: {e.message}") from None


def _write(binary: _Binary, copy: int, directory: Path, parts: str) -> Input:
    key, module = binary.workflow.key, binary.workflow.spec.module
    if copy == 0:
        names = _lay_out(binary.data, directory, parts)
        digest, size = binary.workflow.digest, module.size
        return Input(key.namespace, key.name, digest, size, module.encoding, names)
    try:
        raw = b"".join(inflate(io.BytesIO(binary.data), module.encoding)) + _section(copy)
    except ContentInvalid as e:
        raise WorkflowInvalid(e.reason, f"{key}: the parts {e.message}") from None
    names = _lay_out(brotli.compress(raw, quality=_BROTLI_QUALITY), directory, parts)
    digest = hashlib.sha256(raw).hexdigest()
    return Input(key.namespace, f"{key.name}-{copy}", digest, len(raw), "brotli", names)


def _section(copy: int) -> bytes:
    """Return a custom section: no code, but another digest."""
    name = b"sluice-bench"
    body = bytes([len(name)]) + name + copy.to_bytes(8, "little")
    return b"\0" + bytes([len(body)]) + body


def _lay_out(data: bytes, directory: Path, prefix: str) -> tuple[str, ...]:
    parts = []
    for i, begin in enumerate(range(0, len(data), _PART_BYTES)):
        parts.append(f"{prefix}-{i}")
        (directory / parts[-1]).write_text(data[begin : begin + _PART_BYTES].hex())
    return tuple(parts)


def _body(one: Input) -> dict[str, object]:
    """Return what an API server would: what the workflow does when it runs is left out."""
    module = {
        "digest": f"sha256:{one.digest}",
        "size": one.size,
        "encoding": one.encoding,
        "text": "hex",
        "configMaps": [{"name": part} for part in one.parts],
    }
    metadata = {"namespace": one.namespace, "name": one.name, "uid": "bench", "generation": 1}
    return {"metadata": metadata, "spec": {"module": module}}


def words(inputs: Sequence[Input]) -> str:
    """Return how many there are and how large they are."""
    sizes = sorted(one.size / MIB for one in inputs)
    return (
        f"{len(sizes)} workflows, modules of {sizes[0]:.1f} to {sizes[-1]:.1f} MiB "
        f"({sum(sizes):.0f} MiB in all)"
    )
