"""consensus@1.0.0-alpha with one node: what is agreed on, what is not, and the default."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.asked import asking
from capabilities.test_cre_values import VALUES
from sluice.capabilities.consensus import simple
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto import sdk_pb2 as sdk
from sluice.cre.proto.sdk_pb2 import (
    AggregationType,
    ConsensusDescriptor,
    FieldsMap,
    SimpleConsensusInputs,
)
from sluice.cre.proto.values_pb2 import Value
from sluice.cre.values import Time, unwrap, wrap

_ID = "consensus@1.0.0-alpha"
_MEDIAN, _IDENTICAL, _PREFIX, _SUFFIX, _FREQUENCY = (
    sdk.AGGREGATION_TYPE_MEDIAN, sdk.AGGREGATION_TYPE_IDENTICAL,
    sdk.AGGREGATION_TYPE_COMMON_PREFIX, sdk.AGGREGATION_TYPE_COMMON_SUFFIX,
    sdk.AGGREGATION_TYPE_FREQUENCY_LIST,
)  # fmt: skip


def _by(shape: Any) -> ConsensusDescriptor:
    """Return the descriptor of an aggregation, or of a dict of them."""
    if isinstance(shape, dict):
        fields = {name: _by(inner) for name, inner in shape.items()}
        return ConsensusDescriptor(fields_map=FieldsMap(fields=fields))
    return ConsensusDescriptor(aggregation=shape)


def _inputs(value: Any, shape: Any, default: Any = None) -> SimpleConsensusInputs:
    return SimpleConsensusInputs(
        value=wrap(value), descriptors=_by(shape), default=wrap(default)
    )  # fmt: skip


def _agreed(value: Any, shape: Any, default: Any = None) -> Any:
    return unwrap(simple(_inputs(value, shape, default)))


def _code(inputs: SimpleConsensusInputs) -> Code:
    with pytest.raises(CapabilityError) as told:
        simple(inputs)
    return told.value.code


_REAL = VALUES.filter(lambda value: value is not None)
_ORDERED = st.one_of(
    st.integers(), st.integers(-(2**300), 2**300), st.floats(allow_nan=False), st.decimals(
        allow_nan=False, allow_infinity=False), st.integers(0, 10**18).map(Time),
)  # fmt: skip
_SHAPES = st.recursive(
    st.just(_IDENTICAL),
    lambda inner: st.dictionaries(st.sampled_from("abcdef"), inner, min_size=1),
    max_leaves=8,
)


@given(_REAL)
def test_one_node_agrees_with_itself(value: Any) -> None:
    """Identical to itself is any value; seen once is any value, in a list of what was seen."""
    assert _agreed(value, _IDENTICAL) == value
    assert _agreed(value, _FREQUENCY) == [{"value": value, "count": 1}]


@given(_ORDERED)
def test_the_median_of_one_is_itself(value: Any) -> None:
    """Numbers of each kind, and moments; nothing is rounded on the way."""
    inputs = _inputs(value, _MEDIAN)
    assert simple(inputs) == inputs.value


def test_an_unsigned_number_stays_unsigned() -> None:
    """A guest gets back the type that it observed."""
    observed = Value(uint64_value=2**64 - 1)
    inputs = SimpleConsensusInputs(value=observed, descriptors=_by(_MEDIAN))
    assert simple(inputs) == observed


@given(st.lists(VALUES, max_size=5))
def test_a_list_is_its_own_prefix_and_suffix(value: list[Any]) -> None:
    """The empty one too."""
    assert _agreed(value, _PREFIX) == _agreed(value, _SUFFIX) == value


def _full(shape: Any) -> Any:
    """Return a value that has every field of a shape."""
    return {n: _full(s) for n, s in shape.items()} if isinstance(shape, dict) else 1


@given(_SHAPES, st.dictionaries(st.text("xyz", min_size=1), st.integers()))
def test_fields_are_agreed_on_one_by_one(shape: Any, more: dict[str, int]) -> None:
    """At any depth; what is described comes back, and what is not described is left out."""
    value = _full(shape)
    assert _agreed(value, shape) == value
    if isinstance(shape, dict):
        assert _agreed(value | more, shape) == value
        [first, *_] = shape
        assert _agreed({n: v for n, v in value.items() if n != first}, shape) == {
            n: v for n, v in value.items() if n != first
        }


def test_each_field_by_its_own_aggregation() -> None:
    """A price feed's answer: price by median, symbol identical, sources by how often."""
    value = {"price": Decimal("97.10"), "symbol": "ETH", "in": {"from": "a", "path": [1, 2]}}
    shape = {
        "price": _MEDIAN, "symbol": _IDENTICAL, "in": {"from": _FREQUENCY, "path": _PREFIX},
    }  # fmt: skip
    agreed = _agreed(value, shape)
    assert agreed == value | {"in": {"from": [{"value": "a", "count": 1}], "path": [1, 2]}}


@pytest.mark.parametrize(
    ("value", "shape", "code", "what"),
    [
        ("x", _MEDIAN, Code.CONSENSUS_FAILED, "observation: is string; it must be a number"),
        (True, _MEDIAN, Code.CONSENSUS_FAILED, "is bool"),
        ([1], _MEDIAN, Code.CONSENSUS_FAILED, "is list"),
        ("ab", _PREFIX, Code.CONSENSUS_FAILED, "is string; it must be a list"),
        ({"a": 1}, _SUFFIX, Code.CONSENSUS_FAILED, "is map; it must be a list"),
        (None, _IDENTICAL, Code.INSUFFICIENT_OBSERVATIONS, "is empty"),
        (1, {"a": _MEDIAN}, Code.CONSENSUS_FAILED, "is int64; it must be a map"),
        ({"a": {"b": "x"}}, {"a": {"b": _MEDIAN}}, Code.CONSENSUS_FAILED, "observation.a.b: "),
        (1, 0, Code.INVALID_ARGUMENT, "unknown aggregation 0"),
        (1, 77, Code.INVALID_ARGUMENT, "unknown aggregation 77"),
    ],
)
def test_what_does_not_fit_is_told_by_its_field(
    value: Any, shape: Any, code: Code, what: str
) -> None:
    """And where there is a default, it holds in its place."""
    with pytest.raises(CapabilityError) as told:
        _agreed(value, shape)
    assert (told.value.code, what in told.value.message) == (code, True), told.value.message
    assert _agreed(value, shape, default="instead") == "instead"


def test_an_observation_that_failed() -> None:
    """Its error is the guest's answer, unless there is a default."""
    inputs = SimpleConsensusInputs(error="the API is down", descriptors=_by(_MEDIAN))
    with pytest.raises(CapabilityError) as told:
        simple(inputs)
    assert told.value.text == "Public:User:ConsensusFailed:the API is down"
    inputs.default.int64_value = 0
    assert simple(inputs) == Value(int64_value=0)


def test_nothing_observed_and_nothing_described() -> None:
    """Each is a mistake of its own."""
    assert _code(SimpleConsensusInputs()) is Code.INSUFFICIENT_OBSERVATIONS
    assert _code(SimpleConsensusInputs(value=wrap(1))) is Code.INVALID_ARGUMENT


@given(_REAL, _REAL)
def test_a_default_does_not_replace_what_is_agreed_on(value: Any, default: Any) -> None:
    """It is for failures alone."""
    assert _agreed(value, _IDENTICAL, default) == value


def test_every_aggregation_of_the_interface_is_known() -> None:
    """The five, by their numbers."""
    known = {n: v for n, v in AggregationType.items() if v}
    assert sorted(known.values()) == [_MEDIAN, _IDENTICAL, _PREFIX, _SUFFIX, _FREQUENCY]
    for aggregation in known.values():
        value: Any = [1] if aggregation in {_PREFIX, _SUFFIX} else 1
        assert _agreed(value, aggregation) is not None


@pytest.mark.parametrize("more", [0, 1])
async def test_an_observation_has_a_bound(more: int) -> None:
    """100 KiB with all that belongs to it are taken; one byte more is told."""
    inputs = _inputs("", _IDENTICAL)
    overhead = len(_inputs("x" * (100 << 10), _IDENTICAL).SerializeToString()) - (100 << 10)
    inputs.value.string_value = "x" * ((100 << 10) - overhead + more)
    async with asking() as operator:
        execution = operator.execution()
        if more:
            with pytest.raises(CapabilityError, match="at most 102,400 are taken") as told:
                await execution.ask(_ID, "Simple", inputs, Value)
            assert told.value.code is Code.LIMIT_EXCEEDED
        else:
            assert await execution.ask(_ID, "Simple", inputs, Value) == inputs.value
