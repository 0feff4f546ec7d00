"""From the subscribe run to the end of a triggered one: what a CRE engine does and says."""

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from sluice.cre.proto import sdk_pb2 as sdk
from sluice.errors import EngineRefused, WorkflowInvalid
from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from sluice.wasm.interrupt import Cancel
from wasm.cre_lab import Cre, Helper, firing, needs_go, text
from wasm.lab import Lab

pytestmark = needs_go


@pytest.fixture
def cre(lab: Lab) -> Cre:
    return Cre(lab)


class TestSubscribe:
    def test_it_is_asked_with_its_config(self, any_lab: Lab) -> None:
        """Its subscriptions come in order, with methods and payloads; on both tiers."""
        config = "subscribe cron-trigger@1.0.0:Trigger: http-trigger@1.0.0-alpha:Trigger:p"
        engine = Cre(any_lab).engine(subscribed=False, config=config)
        cron, http = engine.subscribe()
        assert (cron.id, cron.method, cron.pre_hook) == ("cron-trigger@1.0.0", "Trigger", False)
        assert (http.id, http.method, http.pre_hook) == (
            "http-trigger@1.0.0-alpha",
            "Trigger",
            True,
        )
        assert cron.payload.type_url == "type.googleapis.com/test.Config"
        assert engine.subscriptions == (cron, http)

    def test_nothing_outside_is_within_its_reach(self, cre: Cre) -> None:
        """Capabilities and secrets are refused in it, metrics are not taken, logs are heard."""
        heard: list[str] = []
        config = (
            "mode 1\nlog hello\ncall c@1 M 1\nawait 90 1\nsecrets 1 a/b\nreveal 200 1\nmetric 3"
        )
        engine = cre.engine(subscribed=False, config=config)
        (subscription,) = engine.subscribe(heard.append)
        assert heard == ["hello"]
        assert subscription.payload.value.decode().split("\n")[2:] == [
            "",
            "1=error capability calls cannot be made during this execution",
            "",
            "failed to get secrets for call 1: secrets cannot be read during this execution",
            "-1",
        ]

    def test_its_answer_is_the_same_each_time(self, cre: Cre) -> None:
        """It depends on module and config alone, so that it may be remembered."""
        engine = cre.engine(subscribed=False, config="seed 1\nconfig")
        assert engine.subscribe() == engine.subscribe()

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            ("fail the config is wrong", "it answered: the config is wrong"),
            ("send 0a023801\ndone", "it answered with value"),
            ("done", "Failed: could not find response for execution"),
            ("exit 4", "Failed: exit code 4"),
            ("hoard", "OutOfMemory"),
            ("subscribe" + " a@1:T:" * 11, "subscribes to 11 triggers; at most 10 are allowed"),
        ],
    )
    def test_another_answer_is_the_author_s_error(self, cre: Cre, config: str, said: str) -> None:
        """It is permanent, and says what the guest did instead."""
        with pytest.raises(WorkflowInvalid) as caught:
            cre.engine(subscribed=False, config=config).subscribe()
        assert caught.value.reason is Reason.SUBSCRIBE_FAILED
        assert said in caught.value.message

    def test_the_number_of_subscriptions_may_be_reached(self, cre: Cre) -> None:
        """Ten are allowed; eleven are not (above)."""
        config = "subscribe" + " a@1:T:" * 10
        assert len(cre.engine(subscribed=False, config=config).subscribe()) == 10

    def test_its_time_is_bounded(self, tmp_path: Path) -> None:
        """One that does not answer is tried again later, and the limit is named."""
        lab = Lab.at(tmp_path, cre_subscribe_s_max=0.1)
        engine = Cre(lab).engine(subscribed=False, config="loop")
        with pytest.raises(EngineRefused, match=r"within cre_subscribe_s_max 0\.1 s") as caught:
            engine.subscribe()
        assert caught.value.reason is Reason.SUBSCRIBE_FAILED
        lab.runtime.close()

    def test_it_can_be_given_up(self, cre: Cre) -> None:
        """A cancel ends it like any other run."""
        cancel = Cancel()
        engine = cre.engine(subscribed=False, config="loop")
        threading.Timer(0, cancel.cancel, (OutcomeKind.CANCELLED, "a newer one is wanted")).start()
        with pytest.raises(EngineRefused, match="a newer one is wanted"):
            engine.subscribe(cancel=cancel)

    def test_a_trusted_environment_is_a_clear_reason(self, cre: Cre) -> None:
        """What asks for one cannot run here, and is told so before anything is armed."""
        engine = cre.engine(subscribed=False, config="subscribe a@1:T: b@1:T:t")
        with pytest.raises(WorkflowInvalid, match="trigger 1: b@1 asks for a trusted") as caught:
            engine.subscribe()
        assert caught.value.reason is Reason.REQUIREMENTS_UNMET


class TestTrigger:
    def test_it_names_its_subscription(self, cre: Cre) -> None:
        """The guest is told the place of the subscription that fired."""
        engine = cre.engine(config="subscribe a@1:T: b@1:T:", subscribed=False)
        engine.subscribe()
        assert text(engine.run(firing("id", trigger=1))) == "1"

    def test_none_before_the_subscriptions(self, cre: Cre) -> None:
        """A trigger of an engine that was never asked is refused, in CRE's words."""
        outcome = cre.engine(subscribed=False).run(firing("id"))
        assert outcome.kind is OutcomeKind.REFUSED
        assert outcome.message == "cannot trigger before gathering subscriptions"

    def test_none_that_it_does_not_subscribe_to(self, cre: Cre) -> None:
        """A place without a subscription is refused before a guest runs."""
        outcome = cre.engine().run(firing("id", trigger=1))
        assert (outcome.kind, outcome.memory_bytes) == (OutcomeKind.REFUSED, 0)
        assert outcome.message == "cannot trigger 1: it subscribes to 1 triggers"

    def test_none_whose_requirements_are_not_met(self, cre: Cre) -> None:
        """What was remembered is looked at again."""
        engine = cre.engine(subscribed=False)
        tee = sdk.Requirements(tee=sdk.Tee(any_regions=sdk.Regions(regions=["eu"])))
        engine.remember([sdk.TriggerSubscription(id="a@1", requirements=tee)])
        said = "cannot find a runner that can satisfy the requirements for trigger 0"
        assert said in engine.run(firing("id")).message
        tomorrow = sdk.Requirements.FromString(b"\x12\x01x")  # a field that there is not yet
        engine.remember([sdk.TriggerSubscription(id="a@1", requirements=tomorrow)])
        assert f"{said}: a@1 asks for what is unknown here" in engine.run(firing("id")).message
        engine.remember([sdk.TriggerSubscription(id="a@1", requirements=sdk.Requirements())])
        assert engine.run(firing("id")).ok

    def test_limits_hold(self, any_lab: Lab) -> None:
        """Time, CPU and memory are bounded as a WASI command's are; CRE's megabytes are decimal."""
        cre = Cre(any_lab)
        assert cre.run("loop", limits={"timeout": "100ms"}).kind is OutcomeKind.TIMED_OUT
        outcome = cre.run("loop", limits={"cpu": "100ms", "timeout": "1m"})
        assert outcome.message == "used more than limits.cpu 100ms of CPU"
        outcome = cre.run("sleep 1h", limits={"timeout": "100ms"})
        assert outcome.kind is OutcomeKind.TIMED_OUT
        outcome = cre.run("hoard", limits={"memory": "32Mi"})
        assert outcome.kind is OutcomeKind.OUT_OF_MEMORY
        assert outcome.memory_bytes <= 33_000_000

    def test_a_failing_host_is_not_the_guest_s_failure(self, cre: Cre) -> None:
        """An exception in the host ends the guest, and is the operator's to answer for."""

        def broken() -> int:
            raise ZeroDivisionError("made by the test")

        with pytest.raises(EngineRefused, match="made by the test"):
            cre.run("mode 1", "now", helper=Helper(don_ns=broken))


def _restrictions(**given: Any) -> str:
    return sdk.Restrictions(**given).SerializeToString().hex()


def _closed(*methods: tuple[str, int], total: int = -1, **more: Any) -> sdk.CapabilityRestrictions:
    restrictions = [
        sdk.CapabilityRestriction(
            method=sdk.MethodRestriction(id="c@1", method=name, max_calls=most)
        )
        for name, most in methods
    ]
    return sdk.CapabilityRestrictions(restrictions=restrictions, max_total_calls=total, **more)


class TestPreHook:
    """What it allows holds for the run behind it; of a script ``hook`` and ``restrict`` are its."""

    @pytest.fixture
    def hooked(self, cre: Cre) -> "_Hooked":
        engine = cre.engine(subscribed=False, config="the config")
        engine.remember([sdk.TriggerSubscription(id="a@1", method="T", pre_hook=True)])
        return _Hooked(engine)

    def test_it_runs_first_and_without_config(self, hooked: "_Hooked") -> None:
        """Both see the payload; what the pre-hook logs is in the execution's log."""
        outcome = hooked.run("mode 1", "hook log is a hook", "restrict 0a00", "log is a run")
        assert outcome.log == b"is a hook\nis a run\n"

    def test_its_error_is_the_outcome(self, hooked: "_Hooked") -> None:
        """As it is; the run behind it does not happen."""
        outcome = hooked.run("mode 1", "hook fail not today", "log never")
        assert (outcome.kind, outcome.message) == (OutcomeKind.FAILED, "not today")
        assert outcome.log == b""

    def test_one_that_dies_is_the_outcome(self, hooked: "_Hooked") -> None:
        """Its exit code is that of the execution."""
        assert hooked.run("hook exit 5").exit_code == 5

    def test_its_time_is_bounded(self, tmp_path: Path) -> None:
        """By a limit of its own, which is named."""
        lab = Lab.at(tmp_path, cre_pre_hook_s_max=0.1)
        engine = Cre(lab).engine(subscribed=False)
        engine.remember([sdk.TriggerSubscription(id="a@1", pre_hook=True)])
        outcome = engine.run(firing("hook loop"))
        assert outcome.message == "its pre-hook ran longer than cre_pre_hook_s_max 0.1 s"
        lab.runtime.close()

    def test_methods_that_are_not_named_are_denied(self, hooked: "_Hooked") -> None:
        """Named ones are served as often as it says; the capability never sees the others."""
        helper = Helper()
        allowed = _restrictions(capabilities=_closed(("M", 1), ("F", -1)))
        calls = ["call c@1 M 1", "call c@1 M 2", "call c@1 N 3", "call c@1 F 4", "call c@1 F 5"]
        said = hooked.said(f"restrict {allowed}", *calls, "await 900 1 2 3 4 5", helper=helper)
        denied = "Public:User:LimitExceeded:call denied by user pre-hook restrictions: c@1 "
        assert said[-1] == f"1=M() 2=error {denied}M 3=error {denied}N 4=F() 5=F()"
        assert [call.callback_id for call in helper.calls] == [1, 4, 5]

    def test_the_total_is_bounded(self, hooked: "_Hooked") -> None:
        """Open or closed, and 0 denies all."""
        calls = ["call c@1 M 1", "call c@1 N 2", "call c@1 O 3", "await 900 1 2 3"]
        for total, answered in ((0, 0), (2, 2), (-1, 3)):
            restrictions = _closed(total=total, type=sdk.RESTRICTION_TYPE_OPEN)
            said = hooked.said(f"restrict {_restrictions(capabilities=restrictions)}", *calls)
            assert said[-1].count("()") == answered
            assert said[-1].count("denied") == 3 - answered

    def test_of_two_bounds_the_lower_one_counts(self, hooked: "_Hooked") -> None:
        """For a method that is named twice; a negative one is none."""
        allowed = _restrictions(capabilities=_closed(("M", 3), ("M", -1), ("M", 1)))
        calls = ["call c@1 M 1", "call c@1 M 2", "await 900 1 2"]
        assert hooked.said(f"restrict {allowed}", *calls)[-1].count("denied") == 1

    def test_secrets_are_allowed_by_name_or_prefix(self, hooked: "_Hooked") -> None:
        """The others are errors in their places, and are never read."""
        asked: list[str] = []

        def secrets(request: sdk.GetSecretsRequest) -> Future[sdk.SecretResponses]:
            asked.extend(one.id for one in request.requests)
            return Helper().secrets(request)

        allowed = _restrictions(secrets=_secrets())
        said = hooked.said(
            f"restrict {allowed}",
            "secrets 1 other/main exact/main pre-a/main pre-b/main exact/else",
            "reveal 900 1",
            helper=Helper(secrets=secrets),
        )
        denied = 'error secret "{}" in namespace "{}" denied by user pre-hook restrictions'
        assert said[-1] == "1=" + ",".join(
            [
                denied.format("other", "main"),
                "main.exact!",
                "main.pre-a!",
                denied.format("pre-b", "main"),
                denied.format("exact", "else"),
            ]
        )
        assert asked == ["exact", "pre-a"]

    def test_no_secret_at_all_is_read_where_none_is_allowed(self, hooked: "_Hooked") -> None:
        """The bound on all of them denies what a name allows."""
        allowed = _restrictions(secrets=_secrets(max_secrets=0))
        said = hooked.said(f"restrict {allowed}", "secrets 1 exact/main", "reveal 900 1")
        assert said[-1].count("denied") == 1


def _secrets(max_secrets: int = -1) -> sdk.SecretsRestritions:
    exact = sdk.SecretRestriction(exact_secret=sdk.Secret(id="exact", namespace="main"))
    prefixed = sdk.SecretPrefixRestriction(prefix="pre-", namespace="main", max_secrets=1)
    return sdk.SecretsRestritions(
        restrictions=[exact, sdk.SecretRestriction(prefixed_secret=prefixed)],
        max_secrets=max_secrets,
    )


class _Hooked:
    """An engine whose one trigger has a pre-hook: a script's ``hook`` and ``restrict`` are its."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def run(self, *script: str, helper: Helper | None = None) -> Any:
        return self._engine.run(firing(*script, helper=helper))

    def said(self, *script: str, helper: Helper | None = None) -> list[str]:
        outcome = self.run(*script, helper=helper)
        assert outcome.ok, outcome
        return text(outcome).split("\n")
