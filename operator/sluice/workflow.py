"""One Workflow object as the API server holds it -> frozen values, or a reason.

The schema and the CEL rules in crds/ refuse most mistakes at ``kubectl apply``. What is checked
here again is what a manifest on disk has not been through, and what neither can know.
"""

from typing import Any, NamedTuple, Self

import msgspec

from sluice.checks import check, check_config_size
from sluice.errors import WorkflowInvalid
from sluice.quantities import quantity
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import CronSpec, Encoding, Limits, PartRef, WorkflowSpec

# The spec's names are in spec.py; those that callers need beside a Workflow are here too.
__all__ = [
    "API_VERSION",
    "GROUP",
    "KIND",
    "PLURAL",
    "RUN_AT",
    "RUN_DATA",
    "VERSION",
    "CronSpec",
    "Encoding",
    "Limits",
    "PartRef",
    "Workflow",
    "WorkflowKey",
    "WorkflowSpec",
    "check_config_size",
    "quantity",
]

GROUP, VERSION, PLURAL, KIND = "sluice.dev", "v1alpha1", "workflows", "Workflow"
API_VERSION = f"{GROUP}/{VERSION}"
RUN_AT = f"{GROUP}/run-at"
RUN_DATA = f"{GROUP}/run-data"


class WorkflowKey(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed object: what the fleet wants alive, and the run that was asked for, if any."""

    key: WorkflowKey
    uid: str
    generation: int
    spec: WorkflowSpec

    @property
    def digest(self) -> str:
        """The sha256 of the raw wasm in hex, without its ``sha256:``."""
        return self.spec.module.digest.removeprefix("sha256:")

    @classmethod
    def parse(cls, body: dict[str, Any], settings: Settings) -> Self:
        """Return the workflow of an object's body.

        Raises:
            WorkflowInvalid: what is wrong, by its path in the object.

        """
        metadata = body["metadata"]
        try:
            spec = msgspec.convert(_without_nulls(body.get("spec", {})), WorkflowSpec)
        except msgspec.ValidationError as e:
            raise WorkflowInvalid(Reason.INVALID_SPEC, _with_path(e)) from None
        check(spec, settings)
        return cls(
            key=WorkflowKey(metadata.get("namespace", "default"), metadata["name"]),
            uid=metadata.get("uid", ""),
            generation=metadata.get("generation", 1),
            spec=spec,
        )


def _without_nulls(spec: Any) -> Any:
    """Leave out what is null, as the API server does: there it means that a field is not given.

    The data of a trigger is the user's own: a null in it is one.
    """
    if isinstance(spec, list):
        return [_without_nulls(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    return {
        name: value if name == "data" else _without_nulls(value)
        for name, value in spec.items()
        if value is not None
    }


def _with_path(error: msgspec.ValidationError) -> str:
    """Put the path first: ``Expected `int`, got `str` - at `$.module.size` `` reads backwards."""
    what, _, path = str(error).partition(" - at `$")
    what = what.replace("`", "")
    where = "spec" + path.rstrip("`")
    return f"{where}: {what[0].lower()}{what[1:]}"
