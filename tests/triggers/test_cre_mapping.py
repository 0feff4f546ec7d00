"""What a CRE workflow subscribes to becomes triggers of ours, and their events become its own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from fakes import workflow
from sluice.cre.proto import cron_trigger_pb2, http_trigger_pb2
from sluice.cre.proto.sdk_pb2 import Trigger, TriggerSubscription
from sluice.errors import EngineRefused, WorkflowInvalid
from sluice.event import Event
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import CronSpec, TriggerSpec
from sluice.triggers import cre
from sluice.triggers.signers import EvmAuth

SETTINGS = Settings()
ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
DUE = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def asked(id_: str, config: Message, method: str = "Trigger") -> TriggerSubscription:
    subscription = TriggerSubscription(id=id_, method=method)
    subscription.payload.Pack(config)
    return subscription


def cron(schedule: str, method: str = "Trigger") -> TriggerSubscription:
    return asked("cron-trigger@1.0.0", cron_trigger_pb2.Config(schedule=schedule), method)


def http(*keys: str, kind: int = 1) -> TriggerSubscription:
    config = http_trigger_pb2.Config()
    for key in keys:
        config.authorized_keys.add(type=kind, public_key=key)
    return asked("http-trigger@1.0.0-alpha", config)


def triggers(*subscriptions: TriggerSubscription) -> tuple[TriggerSpec, ...]:
    return cre.served(workflow(b""), subscriptions, SETTINGS).spec.triggers


def refusal(*subscriptions: TriggerSubscription) -> WorkflowInvalid:
    with pytest.raises(WorkflowInvalid) as caught:
        triggers(*subscriptions)
    return caught.value


def unpacked(trigger: Trigger, message: Any) -> Any:
    assert trigger.payload.Unpack(message)
    return message


def event(kind: str, trigger: str, **more: Any) -> Event:
    return Event(kind=kind, trigger=trigger, time=DUE, **more)


def test_each_subscription_is_a_trigger_named_by_its_number() -> None:
    """The number that a guest knows its trigger by is the end of the name that people see."""
    found = triggers(cron("*/5 * * * *"), http(ADDRESS), cron("0 0 12 * * *", "LegacyTrigger"))
    assert [t.name for t in found] == ["cron-0", "http-1", "cron-2", "manual"]
    assert found[1].http
    assert found[1].http.auth == EvmAuth(addresses=(ADDRESS,))
    assert (found[1].http.rate.per_minute, found[1].http.rate.burst) == (2, 3)


@pytest.mark.parametrize(
    ("said", "schedule", "zone"),
    [
        ("*/30 * * * * *", "*/30 * * * * *", "UTC"),
        ("TZ=Europe/Zurich 0 9 * * MON", "0 9 * * MON", "Europe/Zurich"),
        ("CRON_TZ=Asia/Tokyo 0 0 9 * * ?", "0 0 9 * * *", "Asia/Tokyo"),
        ("@hourly", "0 * * * *", "UTC"),
    ],
)
def test_schedules_read_as_the_home_host_reads_them(said: str, schedule: str, zone: str) -> None:
    """A time zone before the fields, a ? and a nickname mean what they mean at home."""
    assert triggers(cron(said))[0].cron == CronSpec(schedule=schedule, time_zone=zone)


@pytest.mark.parametrize("fine", ["*/30 * * * * *", "0,30 * * * * *", "15 0 0 1 1 *", "* * * * *"])
def test_every_thirty_seconds_is_not_too_fast(fine: str) -> None:
    """A schedule may fall due every 30 s."""
    assert triggers(cron(fine))[0].cron


@pytest.mark.parametrize(
    "fast", ["*/29 * * * * *", "* * * * * *", "10,50 * * * * *", "10,50 0,59 0,23 1,31 * *"]
)
def test_faster_than_thirty_seconds_is_refused(fast: str) -> None:
    """A schedule that ever falls due in less than 30 s is refused, though it seldom does."""
    error = refusal(cron(fast))
    assert error.reason is Reason.INVALID_SCHEDULE
    assert "fastest schedule is every 30 s (cre_cron_s_min)" in error.message


@pytest.mark.parametrize(
    "bad", ["", "* * * *", "@every 30s", "61 * * * *", "TZ=Moon/Far * * * * *"]
)
def test_what_is_no_schedule_is_refused_with_its_subscription(bad: str) -> None:
    """The author is told which subscription has which schedule that cannot be."""
    error = refusal(cron("* * * * *"), cron(bad))
    assert error.reason is Reason.INVALID_SCHEDULE
    assert "subscription 1 of the module, cron-trigger@1.0.0" in error.message


def test_ten_triggers_are_taken_and_eleven_are_not() -> None:
    """A workflow has at most ten triggers."""
    assert len(triggers(*[cron("* * * * *")] * 10)) == 11
    error = refusal(*[cron("* * * * *")] * 11)
    assert error.reason is Reason.TRIGGER_UNSUPPORTED
    assert "subscribes to 11 triggers" in error.message


@pytest.mark.parametrize(
    ("subscription", "words"),
    [
        (asked("kafka-trigger@2.0.0", cron_trigger_pb2.Config()), "kafka-trigger@2.0.0"),
        (cron("* * * * *", "Poke"), 'no method "Poke"'),
        (asked("evm:ChainSelector:1@1.0.0", cron_trigger_pb2.Config(), "LogTrigger"), "of logs"),
        (http(), "0 authorized keys"),
        (http("0x12"), '"0x12" is no address'),
        (http(ADDRESS, kind=0), "is no address of KEY_TYPE_ECDSA_EVM"),
    ],
)
def test_a_trigger_that_we_do_not_have_is_named(
    subscription: TriggerSubscription, words: str
) -> None:
    """An unknown trigger, method or key is a permanent error that names it."""
    error = refusal(subscription)
    assert error.reason is Reason.TRIGGER_UNSUPPORTED
    assert words in error.message


def test_a_config_that_is_none_is_refused() -> None:
    """Bytes that are no message of the trigger's are told of as such."""
    broken = TriggerSubscription(id="cron-trigger@1.0.0", method="Trigger")
    broken.payload.value = b"\xff\xff"
    assert "its configuration cannot be read" in refusal(broken).message


def test_a_cre_workflow_brings_its_own_triggers() -> None:
    """Triggers in the spec beside the module's own are refused, but for a manual one."""
    own = workflow(b"", triggers=[{"name": "tick", "cron": {"schedule": "* * * * *"}}])
    with pytest.raises(WorkflowInvalid, match="brings its own triggers"):
        cre.served(own, [cron("* * * * *")], SETTINGS)
    taken = workflow(b"", triggers=[{"name": "cron-0", "manual": {}}])
    with pytest.raises(WorkflowInvalid, match="rename it"):
        cre.served(taken, [cron("* * * * *")], SETTINGS)


def test_a_cron_event_tells_when_it_was_due() -> None:
    """The guest is told the time that fell due, as its method says it, under its own number."""
    both = [cron("* * * * *"), cron("* * * * *", "LegacyTrigger")]
    told = cre.told(event("cron", "cron-0"), both)
    assert told.id == 0
    payload = unpacked(told, cron_trigger_pb2.Payload())
    assert payload.scheduled_execution_time.ToDatetime(UTC) == DUE
    legacy = cre.told(event("cron", "cron-1"), both)
    assert legacy.id == 1
    said = unpacked(legacy, cron_trigger_pb2.LegacyPayload()).scheduled_execution_time
    assert said == "2026-03-01T12:00:00Z"


def test_an_http_event_tells_what_was_sent_and_who_signed() -> None:
    """The guest gets the JSON, and the authorized key that signed it."""
    sent = event("http", "http-0", data={"a": [1, "ä"]}, subject=ADDRESS)
    payload = unpacked(cre.told(sent, [http(ADDRESS)]), http_trigger_pb2.Payload())
    assert payload.input == '{"a":[1,"ä"]}'.encode()
    assert (payload.key.type, payload.key.public_key) == (1, ADDRESS)


def test_bytes_that_are_no_text_reach_the_guest_as_they_were() -> None:
    """A body that is no JSON is not changed on its way."""
    sent = event("http", "http-0", data_base64="AP8=", content_type="application/octet-stream")
    payload = unpacked(cre.told(sent, [http(ADDRESS)]), http_trigger_pb2.Payload())
    assert payload.input == b"\x00\xff"
    text = event("http", "http-0", data="hello", content_type="text/plain")
    assert unpacked(cre.told(text, [http(ADDRESS)]), http_trigger_pb2.Payload()).input == b"hello"


@pytest.mark.parametrize("trigger", ["cron-1", "cron-9", "cron-x", "http-0", "cron"])
def test_an_event_of_a_trigger_that_is_gone_is_refused(trigger: str) -> None:
    """What fired for another revision is not handed to a trigger that only has its number."""
    kind = trigger.partition("-")[0]
    with pytest.raises(EngineRefused, match="the revision that serves has no"):
        cre.told(event(kind, trigger), [cron("* * * * *"), http(ADDRESS)])


def test_a_manual_run_fires_any_trigger() -> None:
    """Who asks for a run names the trigger and its event; the first one at this moment if not."""
    both = [cron("* * * * *"), http(ADDRESS)]
    now = unpacked(cre.told(event("manual", "manual"), both), cron_trigger_pb2.Payload())
    late = datetime.now(UTC) - now.scheduled_execution_time.ToDatetime(UTC)
    assert timedelta() <= late < timedelta(minutes=5)
    at = {"trigger": 0, "event": {"scheduledExecutionTime": "2026-03-01T12:00:00Z"}}
    told = unpacked(cre.told(event("manual", "manual", data=at), both), cron_trigger_pb2.Payload())
    assert told.scheduled_execution_time.ToDatetime(UTC) == DUE
    sent = cre.told(event("manual", "manual", data={"trigger": 1, "event": {"b": 2}}), both)
    assert sent.id == 1
    assert unpacked(sent, http_trigger_pb2.Payload()).input == b'{"b":2}'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"trigger": 2}, "there is no trigger 2; the module has 2"),
        ({"trigger": -1}, "there is no trigger -1"),
        ({"trigger": True}, "is {"),
        ({"event": {"nonsense": 1}}, "the event is none of trigger 0, cron"),
        ({"event": 7}, "the event is none of trigger 0, cron"),
        ({"price": 1}, 'is {"trigger": 0, "event"'),
        ("text", 'is {"trigger": 0, "event"'),
    ],
)
def test_a_manual_run_that_cannot_be_says_why(data: Any, words: str) -> None:
    """A mistake in what is written by hand is told in a sentence."""
    with pytest.raises(EngineRefused) as caught:
        cre.told(event("manual", "manual", data=data), [cron("* * * * *"), http(ADDRESS)])
    assert words in caught.value.message
