"""What the cluster serves: a kind of an API's version -> where its objects are."""

import asyncio
import http
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from sluice.adapters.kubernetes.api import Api, ApiError
from sluice.errors import SourceUnavailable, WorkflowInvalid
from sluice.reasons import Reason
from sluice.spec import KubernetesSpec

# Long enough for a restart that arms hundreds of triggers, short enough for a CRD that comes.
_AGE_S_MAX = 10.0
_VERSIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind, as the API server names it."""

    api_version: str
    plural: str
    namespaced: bool

    @property
    def full_name(self) -> str:
        """As kubectl and its ``--resource`` take it."""
        group, slash, _ = self.api_version.rpartition("/")
        return f"{self.plural}.{group}" if slash else self.plural

    def path(self, namespace: str | None) -> str:
        within = f"namespaces/{namespace}/" if namespace else ""
        return f"{_root(self.api_version)}/{within}{self.plural}"


class Resources:
    """Asks the API server what it serves, and not again at once."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: OrderedDict[str, tuple[float, list[dict[str, Any]]]] = OrderedDict()

    async def find(self, trigger: str, spec: KubernetesSpec) -> Resource:
        """Return where the objects of a trigger are.

        Raises:
            WorkflowInvalid: they cannot be watched at all.
            SourceUnavailable: there is no such kind, yet: a CRD may come after its workflows.

        """
        for found in await self._served(trigger, spec.api_version):
            if found["kind"] == spec.kind and "/" not in found["name"]:
                if not {"list", "watch"} <= set(found["verbs"]):
                    raise WorkflowInvalid(
                        Reason.INVALID_SPEC,
                        f"trigger {trigger}: {spec.kind} of {spec.api_version} cannot be watched",
                    )
                return Resource(spec.api_version, found["name"], found["namespaced"])
        raise _unknown(trigger, f"{spec.kind} of {spec.api_version}")

    async def _served(self, trigger: str, api_version: str) -> list[dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        known = self._known.get(api_version)
        if known and now < known[0] + _AGE_S_MAX:
            return known[1]
        try:
            answer = await self._api.ask("GET", _root(api_version))
        except ApiError as e:
            if e.status == http.HTTPStatus.NOT_FOUND:
                raise _unknown(trigger, api_version) from None
            raise e.unavailable(f"trigger {trigger}: {api_version}") from None
        self._known[api_version] = now, answer["resources"]
        self._known.move_to_end(api_version)
        while len(self._known) > _VERSIONS_MAX:
            self._known.popitem(last=False)
        return self._known[api_version][1]


def _root(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _unknown(trigger: str, what: str) -> SourceUnavailable:
    return SourceUnavailable(
        Reason.INVALID_SPEC,
        f"trigger {trigger}: the cluster does not know {what}; kubectl api-resources lists what it "
        "knows. If its CRD is still to come, this goes on by itself then",
    )
