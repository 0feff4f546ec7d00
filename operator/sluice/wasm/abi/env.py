"""Module ``env`` of the CRE interface: its functions' names and types, and how it is known.

Apart from cre.py, which does what they promise: the compile child has to know the types, and
would pay for messages that it never reads.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import wasmtime

MODULE = "env"
# A CRE guest is known by one import of this name, to which its SDK adds its own.
_MARKER_PREFIX = "version_v2"
# Those of the known SDKs are in every linker, so that its guests share it.
KNOWN_MARKERS = frozenset({"version_v2", "version_v2_go", "version_v2_typescript"})


@dataclass(frozen=True, slots=True)
class Signature:
    """Types in letters: i an i32, I one that is unsigned to us, q an i64."""

    params: str
    result: str = ""


MARKER = Signature("")
FUNCTIONS = {
    "send_response": Signature("ii", "i"),
    "call_capability": Signature("ii", "q"),
    "await_capabilities": Signature("iiii", "q"),
    "get_secrets": Signature("iiii", "q"),
    "await_secrets": Signature("iiii", "q"),
    "log": Signature("ii"),
    "emit_metric": Signature("ii", "i"),
    "switch_modes": Signature("i"),
    "random_seed": Signature("i", "q"),
    "now": Signature("i", "i"),
}
# With a buffer of its own for the answer; older SDKs' guests have it written over the request.
CALL_CAPABILITY_V2 = Signature("iiii", "q")


@dataclass(frozen=True, slots=True)
class Form:
    """In what of the interface modules differ, so that one linker cannot do for all of them."""

    call_v2: bool
    markers: frozenset[str]

    @classmethod
    def of(cls, imports: Iterable[wasmtime.ImportType]) -> "Form":
        mine = {i.name or "": i.type for i in imports if i.module == MODULE}
        call = mine.get("call_capability")
        return cls(
            isinstance(call, wasmtime.FuncType) and len(call.params) == 4,
            frozenset(filter(is_marker, mine)) | KNOWN_MARKERS,
        )

    @property
    def shared(self) -> bool:
        """Whether other modules are likely to have it too."""
        return self.markers == KNOWN_MARKERS

    def functions(self) -> dict[str, Signature]:
        """Return all that a module of this form may import."""
        call = {"call_capability": CALL_CAPABILITY_V2} if self.call_v2 else {}
        return FUNCTIONS | call | dict.fromkeys(self.markers, MARKER)


def is_marker(name: str) -> bool:
    return name.startswith(_MARKER_PREFIX)
