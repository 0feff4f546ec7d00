"""Calls of one execution: budgets, lines, time limits, and that a failure is an answer."""

import asyncio
import threading

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.wrappers_pb2 import StringValue

from capabilities.asked import Asking, Execution, MemoryVault, asking, asking_workflow
from fakes import until
from sluice.capabilities import Budget, CallContext, pack, unpack
from sluice.cre.errors import CapabilityError, Code
from sluice.cre.proto.sdk_pb2 import (
    AGGREGATION_TYPE_IDENTICAL,
    CapabilityRequest,
    GetSecretsRequest,
    SimpleConsensusInputs,
)
from sluice.cre.proto.user_metric_pb2 import (
    USER_METRIC_TYPE_COUNTER,
    USER_METRIC_TYPE_GAUGE,
    USER_METRIC_TYPE_UNSPECIFIED,
    UserMetricType,
    WorkflowUserMetric,
)
from sluice.cre.proto.values_pb2 import Value


class Echo:
    """A capability that answers what it is asked, once it is let; with the real interface."""

    def __init__(self, id_: str = "echo@1.0.0", budget: Budget | None = None) -> None:
        self.id = id_
        self.budget = budget or Budget("HTTPAction", 1000)
        self.gate = asyncio.Event()
        self.gate.set()
        self.contexts: list[CallContext] = []
        self.running = self.cancelled = 0
        self.fault: Exception | None = None

    async def call(self, method: str, payload: Packed, context: CallContext) -> Packed:
        self.contexts.append(context)
        self.running += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        if self.fault:
            raise self.fault
        return pack(StringValue(value=method + unpack(payload, StringValue).value))


async def _ask(execution: Execution, id_: str = "echo@1.0.0") -> str:
    answer = await execution.ask(id_, "a", StringValue(value="b"), StringValue)
    return answer.value


async def _code(execution: Execution, id_: str = "echo@1.0.0") -> Code:
    with pytest.raises(CapabilityError) as told:
        await _ask(execution, id_)
    return told.value.code


def _request(id_: str = "echo@1.0.0") -> CapabilityRequest:
    return CapabilityRequest(id=id_, method="a", payload=pack(StringValue(value="b")))


async def test_a_call_is_answered_on_behalf_of_its_execution() -> None:
    """The capability knows who asks, for which execution, and until when."""
    echo = Echo()
    async with asking(capabilities=[echo]) as operator:
        assert await _ask(operator.execution(asking_workflow("price"), "run-7")) == "ab"
    [context] = echo.contexts
    assert (context.key.name, context.execution_id, context.digest) == ("price", "run-7", "0" * 64)
    assert context.deadline > asyncio.get_running_loop().time()
    assert _counted(operator, "HTTPAction", "answered") == 1


def _counted(operator: Asking, capability: str, result: str) -> float:
    labels = {"capability": capability, "result": result}
    return operator.metrics.registry.get_sample_value("sluice_cre_calls_total", labels) or 0.0


async def test_a_capability_that_is_not_there_is_named() -> None:
    """With those that are, so that a misspelled version is found."""
    async with asking(capabilities=[Echo()]) as operator:
        response = await operator.execution().raw(_request("echo@2.0.0"))
    assert response.error == (
        'Public:User:NotFound:there is no capability "echo@2.0.0"; there are echo@1.0.0'
    )
    assert _counted(operator, "Unknown", "failed") == 1


@pytest.mark.parametrize(
    "id_",
    ["http-actions@1.0.0-alpha", "confidential-http@1.0.0-alpha", "consensus@1.0.0-alpha"],
)
async def test_an_unknown_method_and_a_wrong_payload(id_: str) -> None:
    """Each is told as what it is; neither reaches anything."""
    async with asking() as operator:
        execution = operator.execution()
        with pytest.raises(CapabilityError, match="there is no method") as told:
            await execution.ask(id_, "Nothing", StringValue(), StringValue)
        assert told.value.code is Code.UNIMPLEMENTED
        method = "Simple" if "consensus" in id_ else "SendRequest"
        with pytest.raises(CapabilityError, match="takes a") as told:
            await execution.ask(id_, method, StringValue(), StringValue)
        assert told.value.code is Code.INVALID_ARGUMENT


async def test_a_payload_that_cannot_be_read() -> None:
    """Bytes that are no message are the guest's own mistake."""
    payload = pack(SimpleConsensusInputs())
    payload.value = b"\xff\xff"
    request = CapabilityRequest(id="consensus@1.0.0-alpha", method="Simple", payload=payload)
    async with asking() as operator:
        response = await operator.execution().raw(request)
    assert response.error.startswith("Public:User:InvalidArgument:the payload cannot be read")


async def test_a_budget_is_obeyed_to_the_last_call_and_no_further() -> None:
    """What is beyond it is refused and not made; another execution has its own."""
    echo = Echo(budget=Budget("ChainRead", 2))
    async with asking(capabilities=[echo]) as operator:
        execution = operator.execution()
        assert [await _ask(execution) for _ in range(2)] == ["ab", "ab"]
        assert await _code(execution) is Code.LIMIT_EXCEEDED
        assert len(echo.contexts) == 2
        assert await _ask(operator.execution(id_="another")) == "ab"


async def test_capabilities_may_share_a_budget() -> None:
    """Reads of two chains count together."""
    chains = [Echo(f"evm:ChainSelector:{n}@1.0.0", Budget("ChainRead", 2)) for n in (1, 2)]
    async with asking(capabilities=chains) as operator:
        execution = operator.execution()
        for chain in chains:
            await _ask(execution, chain.id)
        assert await _code(execution, chains[0].id) is Code.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    ("name", "id_", "most"),
    [
        ("HTTPAction", "http-actions@1.0.0-alpha", 5),
        ("ConfidentialHTTP", "confidential-http@1.0.0-alpha", 5),
        ("Consensus", "consensus@1.0.0-alpha", 20),
    ],
)
async def test_the_budgets_are_those_of_the_home_host(name: str, id_: str, most: int) -> None:
    """As many calls as there, and not one more. A call that fails is a call."""
    async with asking() as operator:
        execution = operator.execution()
        told = [(await execution.raw(_request(id_))).error for _ in range(most + 1)]
    assert all(":LimitExceeded:" not in text for text in told[:most])
    assert told[most].startswith(
        f"Public:User:LimitExceeded:an execution has {most} calls of {name}"
    )


async def test_only_so_many_of_a_workflows_calls_are_answered_at_once() -> None:
    """Over all of its executions; the others wait, and another workflow's do not."""
    echo = Echo()
    echo.gate.clear()
    async with asking(capabilities=[echo], cre_calls_running_max=3) as operator:
        busy, other = asking_workflow("busy"), asking_workflow("other")
        executions = [operator.execution(busy, str(n)) for n in range(4)]
        calls = [asyncio.ensure_future(_ask(execution)) for execution in executions]
        await until(lambda: echo.running == 3)
        calls.append(asyncio.ensure_future(_ask(operator.execution(other))))
        await until(lambda: echo.running == 4)
        echo.gate.set()
        assert await asyncio.gather(*calls) == ["ab"] * 5
    assert echo.contexts[3].key.name == "other"


async def test_a_call_that_takes_too_long_is_told_so() -> None:
    """It is given up, in the line too."""
    echo = Echo()
    echo.gate.clear()
    async with asking(
        capabilities=[echo], cre_call_s_max=0.02, cre_calls_running_max=1
    ) as operator:
        execution = operator.execution()
        codes = await asyncio.gather(_code(execution), _code(execution))
    assert set(codes) == {Code.DEADLINE_EXCEEDED}
    assert echo.cancelled == len(echo.contexts) == 1


async def test_an_execution_that_is_over_gives_up_its_calls() -> None:
    """A future that is cancelled on any thread ends the work behind it."""
    echo = Echo()
    echo.gate.clear()
    async with asking(capabilities=[echo]) as operator:
        future = operator.execution().helper.call_capability(_request())
        await until(lambda: echo.running == 1)
        await asyncio.to_thread(future.cancel)
        await until(lambda: echo.cancelled == 1)


async def test_a_mistake_of_ours_is_an_answer_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The guest learns that it was us and nothing else; the log has all of it."""
    echo = Echo()
    echo.fault = ZeroDivisionError("an address of ours")
    async with asking(capabilities=[echo]) as operator:
        response = await operator.execution().raw(_request())
    assert response.error == "Private:System:Internal:the operator failed; its log tells why"
    assert "ZeroDivisionError" in caplog.text
    assert _counted(operator, "HTTPAction", "failed") == 1


async def test_a_guest_calls_from_a_thread_of_its_own() -> None:
    """The calls begin at once and in order; the answers come from the loop."""
    async with asking(capabilities=[Echo()]) as operator:
        helper = operator.execution().helper
        answers: list[str] = []

        def guest() -> None:
            futures = [helper.call_capability(_request()) for _ in range(20)]
            answers.extend(f.result(20).payload.type_url for f in futures)

        thread = threading.Thread(target=guest)
        thread.start()
        await until(lambda: len(answers) == 20)
        thread.join()
    assert set(answers) == {"type.googleapis.com/google.protobuf.StringValue"}


async def test_a_loop_that_is_gone_is_an_answer_too() -> None:
    """A guest that calls while the operator goes down is told so, and no exception is let out."""
    loop = asyncio.new_event_loop()
    loop.close()
    async with asking(capabilities=[Echo()]) as operator:
        helper = operator.capabilities.bind(asking_workflow(), "1", loop)
        answer = helper.call_capability(_request())
        assert answer.result(0).error == "Public:System:Unavailable:the operator is stopping"
        with pytest.raises(CapabilityError, match="is stopping"):
            helper.get_secrets(GetSecretsRequest()).result(0)


async def test_what_a_guest_logs_is_heard() -> None:
    """By whom the execution was bound for, if by anybody."""
    heard: list[str] = []
    async with asking() as operator:
        loop = asyncio.get_running_loop()
        helper = operator.capabilities.bind(asking_workflow(), "1", loop, heard.append)
        helper.user_log("said")
        operator.execution().helper.user_log("unheard")
        assert heard == ["said"]
        assert abs(helper.don_time_ns() - helper.node_time_ns()) < 60 * 10**9


def _metric(
    name: str, value: float, kind: UserMetricType = USER_METRIC_TYPE_COUNTER, **labels: str
) -> WorkflowUserMetric:
    return WorkflowUserMetric(name=name, value=value, type=kind, labels=labels)


def _shown(operator: Asking, kind: str, name: str, labels: str = "{}") -> float | None:
    told = {"namespace": "team", "workflow": "hello", "name": name, "labels": labels}
    return operator.metrics.registry.get_sample_value(f"sluice_user_{kind}", told)


async def test_a_guests_metrics_are_shown_where_its_spec_wants_them() -> None:
    """Counters add up, gauges are what was said last; each under a name that is ours."""
    async with asking() as operator:
        helper = operator.execution(metrics=True).helper
        for value in (1, 2.5):
            assert helper.user_metric(_metric("calls", value, path="/a"))
            assert helper.user_metric(_metric("price", value, USER_METRIC_TYPE_GAUGE))
        assert _shown(operator, "counter_total", "calls", '{"path": "/a"}') == 3.5
        assert _shown(operator, "gauge", "price") == 2.5


@pytest.mark.parametrize(
    "metric",
    [
        _metric("a", -1),
        _metric("a", float("nan"), USER_METRIC_TYPE_GAUGE),
        _metric("a", float("inf")),
        _metric("a", 1, USER_METRIC_TYPE_UNSPECIFIED),
    ],
    ids=["less", "nan", "infinite", "no kind"],
)
async def test_what_is_no_metric_is_refused(metric: WorkflowUserMetric) -> None:
    """A counter goes up by a number; a gauge is one."""
    async with asking() as operator:
        assert not operator.execution(metrics=True).helper.user_metric(metric)


async def test_without_its_specs_word_nothing_is_counted() -> None:
    """By default a guest is told that its metrics are not wanted."""
    async with asking() as operator:
        assert not operator.execution().helper.user_metric(_metric("calls", 1))
        assert _shown(operator, "counter_total", "calls") is None


async def test_no_guest_can_fill_the_metrics() -> None:
    """Beyond a workflow's own bound its oldest go, and never another's; beyond all, the oldest."""
    async with asking(cre_workflow_metric_series_max=3, cre_metric_series_max=5) as operator:
        first = operator.execution(asking_workflow("a", metrics=True)).helper
        second = operator.execution(asking_workflow("hello", metrics=True)).helper
        assert first.user_metric(_metric("kept", 1))
        for n in range(10):
            assert second.user_metric(_metric(f"m{n}", 1))
        shown = [n for n in range(10) if _shown(operator, "counter_total", f"m{n}")]
        assert shown == [7, 8, 9]
        told = {"namespace": "team", "workflow": "a", "name": "kept", "labels": "{}"}
        sample = operator.metrics.registry.get_sample_value
        assert sample("sluice_user_counter_total", told) == 1
        for n in range(2):
            assert first.user_metric(_metric(f"more{n}", 1))
        assert sample("sluice_user_counter_total", told | {"name": "more1"}) == 1
        assert sample("sluice_user_counter_total", told) is None


async def test_secrets_have_a_line_of_their_own() -> None:
    """Of one workflow only so many calls for secrets are answered at once."""
    vault = MemoryVault(api={"token": b"hunter2"})
    vault.gate.clear()
    secrets = [{"id": "A", "secretKeyRef": {"name": "api", "key": "token"}}]
    async with asking(vault, cre_secrets_running_max=2) as operator:
        of = asking_workflow(secrets=secrets)
        executions = [operator.execution(of, str(n)) for n in range(3)]
        calls = [asyncio.ensure_future(e.secrets(("A", ""))) for e in executions]
        await until(lambda: vault.waiting == 2)
        inputs = SimpleConsensusInputs(value=Value(int64_value=1))
        inputs.descriptors.aggregation = AGGREGATION_TYPE_IDENTICAL
        await executions[0].ask("consensus@1.0.0-alpha", "Simple", inputs, Value)
        assert vault.waiting == 2
        vault.gate.set()
        assert all(found[0].secret.value == "hunter2" for found in await asyncio.gather(*calls))
