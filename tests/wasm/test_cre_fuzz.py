"""Whatever numbers and bytes a guest gives the host: no crash, no exception, no memory kept."""

import ctypes
import gc
import os
import random
from pathlib import Path

import pytest

from sluice.cre.proto import sdk_pb2 as sdk
from sluice.cre.proto.user_metric_pb2 import WorkflowUserMetric
from sluice.outcome import OutcomeKind
from sluice.wasm.cre_engine import CreEngine
from wasm.cre_lab import Cre, Helper, any_of, firing, needs_go
from wasm.lab import Lab

pytestmark = needs_go
_ROUNDS = 200 if os.environ.get("SLUICE_PROOF") else 12
_CALLS = 250
_PARAMS = {
    "send_response": 2, "call_capability": 2, "await_capabilities": 4, "get_secrets": 4,
    "await_secrets": 4, "log": 2, "emit_metric": 2, "switch_modes": 1, "random_seed": 1, "now": 1,
    "clock_time_get": 3, "poll_oneoff": 4,
}  # fmt: skip
_MESSAGES = [
    sdk.CapabilityRequest(id="c@1", method="M", payload=any_of("x" * 30), callback_id=1),
    sdk.AwaitCapabilitiesRequest(ids=[1, 2, 3]),
    sdk.GetSecretsRequest(requests=[sdk.SecretRequest(id="a", namespace="b")] * 3, callback_id=2),
    sdk.ExecutionResult(error="no"),
    sdk.ExecutionResult(
        trigger_subscriptions=sdk.TriggerSubscriptionRequest(
            subscriptions=[sdk.TriggerSubscription(id="t@1", payload=any_of("y"))]
        )
    ),
    WorkflowUserMetric(name="n", value=2, labels={"a": "b"}),
]
# What may become of a guest that does as it likes.
_ENDS = {OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.TIMED_OUT, OutcomeKind.TRAPPED}


def _number(chance: random.Random) -> str:
    edge = chance.choice([0, 1, 2, 7, 8, 47, 48, 127, 128, 129, 4096, 65535, 65536, 1 << 20])
    return chance.choice(
        [
            f"@{chance.randrange(60_000)}",
            f"@{chance.randrange(0, 2000, 200)}",
            f"{chance.choice([-1, 1]) * edge}",
            f"${chance.choice([-1, 1]) * edge}",
            f"{chance.choice([0x7FFFFFFF, -0x80000000, 0x7FFFFFFF - edge, -0x80000000 + edge])}",
            f"{chance.randrange(-0x80000000, 0x80000000)}",
        ]
    )


def _message(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(_MESSAGES).SerializeToString())
    for _ in range(chance.choice([0, 0, 1, 3])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.choice([len(data), chance.randrange(1, len(data) + 1)])])


def _line(chance: random.Random, name: str) -> list[str]:
    """Return a call by numbers that mean nothing, or of a message that means something."""
    numbers = [_number(chance) for _ in range(_PARAMS[name])]
    if chance.random() < 0.5 or name == "poll_oneoff":
        return [f"raw {name} {' '.join(numbers)}"]
    message = _message(chance)
    place = chance.randrange(0, 2000, 200)
    given = [f"@{place}", str(len(message)), f"@{chance.randrange(60_000)}", "200"]
    return [f"put {place} {message.hex()}", f"raw {name} {' '.join(given[: _PARAMS[name]])}"]


def _script(seed: int, name: str) -> list[str]:
    chance = random.Random(f"{seed} {name}")
    return ["mode 1", *(line for _ in range(_CALLS) for line in _line(chance, name))]


@pytest.fixture
def engine(any_lab: Lab) -> CreEngine:
    return Cre(any_lab).engine(limits={"timeout": "2s"})


@pytest.mark.parametrize("name", _PARAMS)
def test_no_numbers_and_no_bytes_do_harm(engine: CreEngine, name: str) -> None:
    """Each run ends as a guest's run may end: what the host raises would be EngineRefused."""
    for seed in range(_ROUNDS):
        outcome = engine.run(firing(*_script(seed, name)))
        assert outcome.kind in _ENDS, (seed, outcome)
    assert engine.run(firing("call c@1 M 1", "await 90 1")).result == b'"\\n1=M()"'


def test_no_memory_is_kept(lab: Lab) -> None:
    """After as many runs again the process is not larger by more than what pages are worth."""
    engine = Cre(lab).engine(limits={"timeout": "1s"})
    names = [name for name in _PARAMS if name != "poll_oneoff"]

    def rounds(first: int) -> int:
        for seed in range(first, first + _ROUNDS):
            for name in names:
                engine.run(firing(*_script(seed, name), helper=Helper()))
        return _private_bytes()

    rounds(1000)
    before = rounds(2000)
    assert rounds(3000) - before < 3 << 20


def _private_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
