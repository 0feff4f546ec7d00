"""Calls to capabilities and for secrets begin at once, go on beside the guest, and are awaited."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from ground.waiting import wait_until
from sluice.cre.proto import sdk_pb2 as sdk
from sluice.outcome import OutcomeKind
from sluice.settings import Settings
from sluice.wasm.interrupt import Cancel
from wasm.cre_lab import Cre, Held, Helper, any_of, done, firing, needs_go, text
from wasm.lab import Lab

pytestmark = needs_go
_SETTINGS = Settings()
# Long enough for any error's text to fit over the request.
_PAYLOAD = "x" * 80


@pytest.fixture
def cre(lab: Lab) -> Cre:
    return Cre(lab)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    before = threading.stack_size(8 << 20)
    with ThreadPoolExecutor(4) as threads:
        yield threads
    threading.stack_size(before)


def test_calls_go_on_beside_the_guest(cre: Cre, pool: ThreadPoolExecutor) -> None:
    """A call begins before it is awaited, and the answers come in whatever order they like."""
    held = Held()
    script = ("call c@1 M 1", "call c@1 M 2", "await 200 1 2")
    running = pool.submit(cre.run, *script, helper=Helper(call=held))
    held.answer(2, "second")
    held.answer(1, "first")
    assert text(running.result()) == "\n\n1=first 2=second"


def test_a_capability_is_given_the_call_as_it_was_made(cre: Cre) -> None:
    """Id, method, payload and callback id arrive, negative ids too."""
    helper = Helper()
    assert cre.said("call evm:ChainSelector:5@1.0.0 Read -3 pay", "await 90 -3", helper=helper) == [
        "",
        "-3=Read(pay)",
    ]
    (call,) = helper.calls
    assert (call.id, call.method, call.callback_id) == ("evm:ChainSelector:5@1.0.0", "Read", -3)
    assert call.payload == any_of("pay")


def test_a_capability_s_failure_is_an_answer(cre: Cre) -> None:
    """It arrives as the response's error, and the guest goes on."""
    error = "Public:User:NotFound:no such thing"
    helper = Helper(call=lambda _: done(sdk.CapabilityResponse(error=error)))
    assert cre.said("call c@1 M 1", "await 200 1", "id", helper=helper)[1:] == [
        f"1=error {error}",
        "0",
    ]


def test_a_capability_that_breaks_its_promise_is_kept_from_the_guest(
    cre: Cre, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in its place is logged here, and the guest is told nothing of it."""
    broken: Future[sdk.CapabilityResponse] = Future()
    broken.set_exception(RuntimeError("a secret of the operator"))
    with caplog.at_level(logging.ERROR):
        said = cre.said("call c@1 M 1", "await 200 1", helper=Helper(call=lambda _: broken))
    assert said[1] == "1=error Private:System:Internal:the call failed"
    assert "a secret of the operator" in caplog.text


class TestIds:
    def test_one_that_is_used_again_is_refused(self, cre: Cre) -> None:
        """Whether its call is under way or was awaited long ago; the first call stays as it was."""
        again = "error calling callCapAsync: duplicate callback id not allowed"
        script = [f"call c@1 M 1 {_PAYLOAD}"] * 2 + ["await 200 1", f"call c@1 M 1 {_PAYLOAD}"]
        assert cre.said(*script) == ["", again, f"1=M({_PAYLOAD})", again]

    def test_those_of_secrets_are_others(self, cre: Cre) -> None:
        """Capabilities and secrets count for themselves, and refuse for themselves."""
        script = [
            "call c@1 M 1",
            "secrets 1 a/main",
            "secrets 1 a/main",
            "await 90 1",
            "reveal 90 1",
        ]
        assert cre.said(*script) == [
            "",
            "",
            "error calling getSecretsAsync: duplicate callback id not allowed",
            "1=M()",
            "1=main.a!",
        ]

    @pytest.mark.parametrize("await_", ["await", "reveal"])
    def test_one_that_is_not_known_is_told(self, cre: Cre, await_: str) -> None:
        """As is one that was awaited already."""
        assert cre.said(f"{await_} 90 7") == ["failed to get call from store : 7"]

    def test_they_are_awaited_in_the_order_that_is_asked(self, cre: Cre) -> None:
        """An unknown one fails the wait at its place: those before it are spent, others are not."""
        calls = [f"call c@1 M {n}" for n in (1, 2, 3)]
        said = cre.said(*calls, "await 200 1 9 2", "await 200 1", "await 200 3 2")
        assert said[3:] == [
            "failed to get call from store : 9",
            "failed to get call from store : 1",
            "2=M() 3=M()",
        ]

    def test_the_number_of_calls_is_bounded(self, own_lab: Lab) -> None:
        """cre_calls_max of each kind are made in one execution, and not one more."""
        most = own_lab.settings.cre_calls_max
        calls = [f"call c@1 M {n} {_PAYLOAD}" for n in range(most + 1)]
        said = Cre(own_lab).said(*calls, "secrets 1 a/b")
        assert set(said[:most]) == {""}
        assert said[most:] == [
            f"error calling callCapAsync: more than {most} calls in one execution",
            "",
        ]


class TestSecrets:
    def test_they_come_in_the_order_they_were_asked_for(self, cre: Cre) -> None:
        """One that is refused is an error in its own place."""
        said = cre.said("secrets 4 a/main no/main b/other", "reveal 0 4")
        assert said == ["", "4=main.a!,error there is none,other.b!"]

    def test_a_call_that_fails_as_a_whole_is_told(self, cre: Cre) -> None:
        """In CRE's words, with the cause behind."""
        broken: Future[sdk.SecretResponses] = Future()
        broken.set_exception(RuntimeError("the vault is shut"))
        said = cre.said("secrets 4 a/b", "reveal 200 4", helper=Helper(secrets=lambda _: broken))
        assert said[1] == "failed to get secrets for call 4: the vault is shut"


class TestSlots:
    """At most cre_pending_calls_max calls of one workflow are under way; more of them wait."""

    most = _SETTINGS.cre_pending_calls_max

    def test_the_guest_waits_for_a_free_one(self, cre: Cre, pool: ThreadPoolExecutor) -> None:
        """The call over the limit begins when another is over, whether that was awaited or not."""
        held = Held()
        script = [f"call c@1 M {n}" for n in range(self.most + 1)] + [f"await 200 {self.most}"]
        running = pool.submit(cre.run, *script, helper=Helper(call=held))
        held.future(self.most - 1)
        assert held.count == self.most
        held.answer(5)
        held.answer(self.most, "the last")
        assert text(running.result()).endswith(f"{self.most}=the last")

    def test_secrets_take_them_too(self, cre: Cre, pool: ThreadPoolExecutor) -> None:
        """A workflow whose slots are taken by calls waits with a request for secrets."""
        held, asked = Held(), threading.Event()

        def secrets(_: sdk.GetSecretsRequest) -> Future[sdk.SecretResponses]:
            asked.set()
            return done(sdk.SecretResponses())

        script = [f"call c@1 M {n}" for n in range(self.most)] + ["secrets 1 a/b", "reveal 90 1"]
        running = pool.submit(cre.run, *script, helper=Helper(call=held, secrets=secrets))
        held.future(self.most - 1)
        assert not asked.is_set()
        held.answer(0)
        assert running.result().ok
        assert asked.is_set()

    def test_executions_of_one_workflow_share_them(
        self, cre: Cre, pool: ThreadPoolExecutor
    ) -> None:
        """What one holds another waits for; an execution that is over holds none any more."""
        engine, held, other = cre.engine(), Held(), Held()
        calls = [f"call c@1 M {n}" for n in range(self.most)]
        first = pool.submit(engine.run, firing(*calls, "await 90 0", helper=Helper(call=held)))
        held.future(self.most - 1)
        second = pool.submit(engine.run, firing("call c@1 M 1", helper=Helper(call=other)))
        wait_until(lambda: engine._slots._waiting, 30, "the second waits")
        assert other.count == 0
        held.answer(0)
        assert first.result().ok
        assert second.result().ok
        assert engine._slots._free == self.most

    def test_a_refused_call_holds_none(self, cre: Cre) -> None:
        """Any number of duplicates is refused without a wait, and the slots are free afterwards."""
        engine = cre.engine()
        script = [f"call c@1 M 1 {_PAYLOAD}"] * (3 * self.most)
        said = text(engine.run(firing(*script))).split("\n")
        assert len(set(said[1:])) == 1
        assert engine._slots._free == self.most

    def test_who_waits_for_one_ends_at_the_time_limit(self, cre: Cre) -> None:
        """The wait is part of the execution's time."""
        script = [f"call c@1 M {n}" for n in range(self.most + 1)]
        outcome = cre.run(*script, helper=Helper(call=Held()), limits={"timeout": "100ms"})
        assert outcome.kind is OutcomeKind.TIMED_OUT
        assert outcome.message == "ran longer than limits.timeout 100ms"


class TestEnd:
    """A guest that waits for an answer ends like any other."""

    def test_at_its_time_limit(self, cre: Cre) -> None:
        """And the call that it waited for is given up."""
        held = Held()
        outcome = cre.run(
            "call c@1 M 1", "await 90 1", helper=Helper(call=held), limits={"timeout": "100ms"}
        )
        assert outcome.kind is OutcomeKind.TIMED_OUT
        assert held.future(1).cancelled()

    def test_at_a_cancel(self, cre: Cre, pool: ThreadPoolExecutor) -> None:
        """Without waiting for the time limit."""
        held, cancel = Held(), Cancel()
        script = ("call c@1 M 1", "await 90 1")
        running = pool.submit(cre.run, *script, helper=Helper(call=held), cancel=cancel)
        held.future(1)
        cancel.cancel(OutcomeKind.CANCELLED, "the test wants it")
        outcome = running.result(10)
        assert (outcome.kind, outcome.message) == (OutcomeKind.CANCELLED, "the test wants it")
        assert held.future(1).cancelled()

    def test_calls_that_nobody_awaits_are_given_up(self, cre: Cre) -> None:
        """An execution that is over leaves nothing behind, and its slots are free."""
        engine, held = cre.engine(), Held()
        assert engine.run(firing("call c@1 M 1", "call c@1 M 2", helper=Helper(call=held))).ok
        assert held.future(1).cancelled()
        assert held.future(2).cancelled()
        assert engine._slots._free == _SETTINGS.cre_pending_calls_max
