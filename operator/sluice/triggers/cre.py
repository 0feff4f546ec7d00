"""What a CRE workflow subscribes to -> triggers of ours, and an event -> what its guest is told.

Pure. The guest numbers its subscriptions; the number is the end of each trigger's name, and stays
in the journal with what fired.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, pairwise, takewhile
from typing import Any

import msgspec
from cronsim import CronSim
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import DecodeError, Message

from sluice.checks.triggers import check_trigger
from sluice.cre.proto import cron_trigger_pb2, http_trigger_pb2
from sluice.cre.proto.sdk_pb2 import Trigger, TriggerSubscription
from sluice.errors import EngineRefused, WorkflowInvalid
from sluice.event import JSON_TYPE, Event
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import CronSpec, HttpSpec, RateSpec, TriggerSpec
from sluice.triggers.signers import EvmAuth
from sluice.workflow import Workflow

_CRON, _HTTP = "cron-trigger@1.0.0", "http-trigger@1.0.0-alpha"
_EVM = re.compile(r"evm:ChainSelector:[0-9]+@1\.0\.0")
_NICKNAMES = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_ZONE = re.compile(r"(?:CRON_)?TZ=(\S+)\s+(.*)", re.DOTALL)
_ADDRESS = re.compile("0x[0-9a-fA-F]{40}")
_KEYS_MAX = 64
# Two that are nearer than the fastest schedule are in one minute or in two that meet, and every
# way in which minutes, hours and days meet comes up within so many.
_DUES_SEEN = 300
# The same years at any time, so that what is refused is refused at any time.
_LOOKED_FROM = datetime(2026, 1, 1, tzinfo=UTC)
_LOOKED_UNTIL = datetime(2028, 4, 1, tzinfo=UTC)  # beyond it lies nothing but the same again


@dataclass(frozen=True, slots=True)
class _Kind:
    """A trigger that a guest may ask for, by one of its methods."""

    name: str  # of ours
    spec: Callable[["_Asked"], TriggerSpec]
    fired: Callable[[Event], Message]
    given: Callable[[Any], Message]  # for an event that somebody writes by hand


@dataclass(frozen=True, slots=True)
class _Asked:
    """One subscription on its way to a trigger; ``where`` names it in errors."""

    where: str
    name: str
    payload: Packed
    settings: Settings

    def config(self, message: Message) -> None:
        """Read what the guest asks for into ``message``."""
        try:
            message.ParseFromString(self.payload.value)
        except DecodeError:
            raise _unsupported(f"{self.where}: its configuration cannot be read") from None


def served(
    workflow: Workflow, subscriptions: Sequence[TriggerSubscription], settings: Settings
) -> Workflow:
    """Return the workflow with the triggers that its guest subscribes to, beside a manual one.

    Raises:
        WorkflowInvalid: a trigger that we do not have, or one that would fire too often.

    """
    if len(subscriptions) > settings.cre_subscriptions_max:
        raise _unsupported(
            f"the module subscribes to {len(subscriptions)} triggers, but a workflow has at most "
            f"{settings.cre_subscriptions_max} (cre_subscriptions_max)"
        )
    own = workflow.spec.triggers
    if other := next((t for t in own if t.manual is None), None):
        raise WorkflowInvalid(
            Reason.INVALID_SPEC,
            f"spec.triggers: {other.name}: a CRE workflow brings its own triggers; leave out all "
            "but a manual one",
        )
    found = tuple(_trigger(index, one, settings) for index, one in enumerate(subscriptions))
    if taken := {t.name for t in own} & {t.name for t in found}:
        raise WorkflowInvalid(
            Reason.INVALID_SPEC,
            f"spec.triggers: {taken.pop()} is the name of one of the module's own triggers; rename "
            "it",
        )
    spec = msgspec.structs.replace(workflow.spec, triggers=(*found, *own))
    return msgspec.structs.replace(workflow, spec=spec)


def told(event: Event, subscriptions: Sequence[TriggerSubscription]) -> Trigger:
    """Return what the guest is told of an event of one of its triggers, or of a manual one.

    Raises:
        EngineRefused: it is of a trigger that the revision which serves does not have.

    """
    if event.kind == "manual":
        index, data = _by_hand(event.data)
        return given(index, data, subscriptions)
    kind, _, number = event.trigger.rpartition("-")
    index = int(number) if number.isdigit() else -1
    if kind != event.kind or not 0 <= index < len(subscriptions):
        raise _refused(f"the revision that serves has no trigger {event.trigger}")
    found = _kind(subscriptions[index], f"subscription {index}")
    if found.name != kind:
        raise _refused(f"the revision that serves has no {kind} trigger {index}")
    return _packed(index, found.fired(event))


def given(index: int, event: Any, subscriptions: Sequence[TriggerSubscription]) -> Trigger:
    """Return what the guest is told of an event that somebody wrote as JSON.

    Raises:
        EngineRefused: there is no such subscription, or it has no such event.

    """
    if not 0 <= index < len(subscriptions):
        raise _refused(
            f"there is no trigger {index}; the module has {len(subscriptions)}, the first one is 0"
        )
    found = _kind(subscriptions[index], f"subscription {index}")
    try:
        return _packed(index, found.given(event))
    except (json_format.ParseError, ValueError, TypeError) as e:
        raise _refused(f"the event is none of trigger {index}, {found.name}: {e}") from None


def _by_hand(data: Any) -> tuple[int, Any]:
    """Read {"trigger": 0, "event": …}, all of which may be left out."""
    said = {} if data is None else data
    good = isinstance(said, dict) and not said.keys() - {"trigger", "event"}
    index = said.get("trigger", 0) if good else None
    if isinstance(index, bool) or not isinstance(index, int):
        raise _refused('the data of a manual run of a CRE workflow is {"trigger": 0, "event": …}')
    return index, said.get("event")


def _packed(index: int, message: Message) -> Trigger:
    trigger = Trigger(id=index)
    trigger.payload.Pack(message)
    return trigger


def _trigger(index: int, one: TriggerSubscription, settings: Settings) -> TriggerSpec:
    where = f"subscription {index} of the module, {one.id}"
    kind = _kind(one, where)
    spec = kind.spec(_Asked(where, f"{kind.name}-{index}", one.payload, settings))
    if spec.cron:
        check_trigger(where, spec, settings)
        _check_pace(where, spec.cron, settings.cre_cron_s_min)
    return spec


def _kind(one: TriggerSubscription, where: str) -> _Kind:
    if _EVM.fullmatch(one.id):
        raise _unsupported(f"{where}: triggers of logs on a chain are not supported yet")
    methods = _KINDS.get(one.id)
    if methods is None:
        raise _unsupported(
            f'{where}: this operator has no trigger "{one.id[:100]}"; it has '
            + " and ".join(sorted(_KINDS))
        )
    if one.method not in methods:
        raise _unsupported(
            f'{where}: {one.id} has no method "{one.method[:100]}"; it has '
            + " and ".join(sorted(methods))
        )
    return methods[one.method]


# cron


def _cron_spec(asked: _Asked) -> TriggerSpec:
    config = cron_trigger_pb2.Config()
    asked.config(config)
    text, zone = config.schedule.strip(), "UTC"
    if prefix := _ZONE.fullmatch(text):
        zone, text = prefix[1], prefix[2].strip()
    schedule = _NICKNAMES.get(text.lower(), text).replace("?", "*")
    return TriggerSpec(name=asked.name, cron=CronSpec(schedule=schedule, time_zone=zone))


def _check_pace(where: str, cron: CronSpec, fastest_s: float) -> None:
    near = takewhile(lambda due: due < _LOOKED_UNTIL, CronSim(cron.schedule, _LOOKED_FROM))
    dues = islice(near, _DUES_SEEN)
    gap = min(((b - a).total_seconds() for a, b in pairwise(dues)), default=fastest_s)
    if gap < fastest_s:
        raise WorkflowInvalid(
            Reason.INVALID_SCHEDULE,
            f'{where}: "{cron.schedule}" falls due every {gap:g} s, but the fastest schedule is '
            f"every {fastest_s:g} s (cre_cron_s_min)",
        )


def _cron_fired(event: Event) -> Message:
    payload = cron_trigger_pb2.Payload()
    payload.scheduled_execution_time.FromDatetime(event.time)
    return payload


def _cron_given(event: Any) -> Message:
    if event is None:
        payload = cron_trigger_pb2.Payload()
        payload.scheduled_execution_time.GetCurrentTime()
        return payload
    return json_format.ParseDict(event, cron_trigger_pb2.Payload())


def _legacy(payload: Message) -> Message:
    assert isinstance(payload, cron_trigger_pb2.Payload)
    text = payload.scheduled_execution_time.ToJsonString()
    return cron_trigger_pb2.LegacyPayload(scheduled_execution_time=text)


# http


def _http_spec(asked: _Asked) -> TriggerSpec:
    config = http_trigger_pb2.Config()
    asked.config(config)
    keys, settings = config.authorized_keys, asked.settings
    if not 0 < len(keys) <= _KEYS_MAX:
        raise _unsupported(
            f"{asked.where}: has {len(keys)} authorized keys; give 1 to {_KEYS_MAX}, or nobody "
            "could call it"
        )
    for key in keys:
        evm = key.type == http_trigger_pb2.KEY_TYPE_ECDSA_EVM
        if not evm or not _ADDRESS.fullmatch(key.public_key):
            raise _unsupported(
                f'{asked.where}: the authorized key "{key.public_key[:100]}" is no address of '
                "KEY_TYPE_ECDSA_EVM; write 0x and 40 hex digits"
            )
    rate = RateSpec(
        per_minute=settings.cre_http_trigger_per_minute, burst=settings.cre_http_trigger_burst
    )
    auth = EvmAuth(addresses=tuple(key.public_key for key in keys))
    http = HttpSpec(auth=auth, body=settings.event_bytes_max, rate=rate)
    return TriggerSpec(name=asked.name, http=http)


def _http_fired(event: Event) -> Message:
    payload = http_trigger_pb2.Payload(input=_input(event))
    if event.subject:
        payload.key.type = http_trigger_pb2.KEY_TYPE_ECDSA_EVM
        payload.key.public_key = event.subject
    return payload


def _input(event: Event) -> bytes:
    if event.data_base64 is not None:
        return msgspec.convert(event.data_base64, bytes)
    if isinstance(event.data, str) and event.content_type != JSON_TYPE:
        return event.data.encode()
    return _json(event.data)


def _http_given(event: Any) -> Message:
    return http_trigger_pb2.Payload(input=_json({} if event is None else event))


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(errors="backslashreplace")


_CRON_KIND = _Kind("cron", _cron_spec, _cron_fired, _cron_given)
_LEGACY_KIND = _Kind(
    "cron",
    _cron_spec,
    lambda event: _legacy(_cron_fired(event)),
    lambda event: _legacy(_cron_given(event)),
)
_KINDS = {
    _CRON: {"Trigger": _CRON_KIND, "LegacyTrigger": _LEGACY_KIND},
    _HTTP: {"Trigger": _Kind("http", _http_spec, _http_fired, _http_given)},
}


def _unsupported(message: str) -> WorkflowInvalid:
    return WorkflowInvalid(Reason.TRIGGER_UNSUPPORTED, message)


def _refused(message: str) -> EngineRefused:
    return EngineRefused(Reason.RUN_REFUSED, message)
