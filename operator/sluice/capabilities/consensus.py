"""``consensus@1.0.0-alpha`` where one node is all there is: it agrees with itself.

What is left of an aggregation is what it asks of a value and what it makes of it: a median is of
what can be ordered, a common prefix or suffix is of a list, and a frequency list of one value is
that value, seen once. A value that does not fit is no agreement; then the default holds.
"""

from google.protobuf.any_pb2 import Any as Packed

from sluice.capabilities import Budget, CallContext, pack, unknown_method, unpack
from sluice.capabilities.report import Reports
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.sdk_pb2 import (
    AGGREGATION_TYPE_COMMON_PREFIX,
    AGGREGATION_TYPE_COMMON_SUFFIX,
    AGGREGATION_TYPE_FREQUENCY_LIST,
    AGGREGATION_TYPE_IDENTICAL,
    AGGREGATION_TYPE_MEDIAN,
    AggregationType,
    ConsensusDescriptor,
    ReportRequest,
    SimpleConsensusInputs,
)
from sluice.cre.proto.values_pb2 import List, Map, Value
from sluice.settings import Settings

_ORDERED = frozenset(
    {
        "int64_value", "uint64_value", "float64_value", "bigint_value", "decimal_value",
        "time_value",
    }
)  # fmt: skip
_OF_LISTS = frozenset({AGGREGATION_TYPE_COMMON_PREFIX, AGGREGATION_TYPE_COMMON_SUFFIX})


class Consensus:
    id = "consensus@1.0.0-alpha"

    def __init__(self, reports: Reports, settings: Settings) -> None:
        self.budget = Budget("Consensus", settings.cre_consensus_calls_max)
        self._reports, self._settings = reports, settings

    async def call(self, method: str, payload: Packed, context: CallContext) -> Packed:
        most = self._settings.cre_consensus_bytes_max
        if len(payload.value) > most:
            raise CapabilityError(
                Code.LIMIT_EXCEEDED,
                f"the observation has {len(payload.value):,} bytes, but at most {most:,} are taken",
            )
        if method == "Simple":
            return pack(simple(unpack(payload, SimpleConsensusInputs)))
        if method == "Report":
            return pack(await self._reports.sign(unpack(payload, ReportRequest), context))
        raise unknown_method(method, ["Simple", "Report"])


def simple(inputs: SimpleConsensusInputs) -> Value:
    """Return what is agreed on; raises CapabilityError where nothing is."""
    try:
        return _agreed(inputs)
    except CapabilityError:
        if inputs.default.WhichOneof("value") is None:
            raise
        return inputs.default


def _agreed(inputs: SimpleConsensusInputs) -> Value:
    match inputs.WhichOneof("observation"):
        case "error":
            raise CapabilityError(Code.CONSENSUS_FAILED, inputs.error)
        case "value":
            return _aggregate("observation", inputs.value, inputs.descriptors)
    raise CapabilityError(Code.INSUFFICIENT_OBSERVATIONS, "there is neither a value nor an error")


def _aggregate(where: str, value: Value, by: ConsensusDescriptor) -> Value:
    match by.WhichOneof("descriptor"):
        case "aggregation":
            return _one(where, value, by.aggregation)
        case "fields_map":
            return _fields(where, value, by)
    raise CapabilityError(Code.INVALID_ARGUMENT, f"{where}: no aggregation is given for it")


def _fields(where: str, value: Value, by: ConsensusDescriptor) -> Value:
    """Aggregate each field that is described. Others are not agreed on, so they are left out."""
    if value.WhichOneof("value") != "map_value":
        raise _unfit(where, value, "a map")
    given = value.map_value.fields
    fields = {
        name: _aggregate(f"{where}.{name}", given[name], descriptor)
        for name, descriptor in by.fields_map.fields.items()
        if name in given
    }
    return Value(map_value=Map(fields=fields))


def _one(where: str, value: Value, aggregation: AggregationType) -> Value:
    kind = value.WhichOneof("value")
    if kind is None:
        raise CapabilityError(Code.INSUFFICIENT_OBSERVATIONS, f"{where}: is empty")
    if aggregation == AGGREGATION_TYPE_MEDIAN and kind not in _ORDERED:
        raise _unfit(where, value, "a number or a time, for a median")
    if aggregation in _OF_LISTS and kind != "list_value":
        raise _unfit(where, value, "a list, for a common prefix or suffix")
    if aggregation == AGGREGATION_TYPE_FREQUENCY_LIST:
        seen = Map(fields={"value": value, "count": Value(int64_value=1)})
        return Value(list_value=List(fields=[Value(map_value=seen)]))
    if aggregation in {AGGREGATION_TYPE_MEDIAN, AGGREGATION_TYPE_IDENTICAL} | _OF_LISTS:
        return value
    raise CapabilityError(Code.INVALID_ARGUMENT, f"{where}: unknown aggregation {aggregation}")


def _unfit(where: str, value: Value, wanted: str) -> CapabilityError:
    given = (value.WhichOneof("value") or "nothing").removesuffix("_value")
    return CapabilityError(Code.CONSENSUS_FAILED, f"{where[:200]}: is {given}; it must be {wanted}")
