"""What failed is tried again by the spec's rules, and not for ever."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.held import A, Ground
from fakes import until
from sluice.executions.acceptance import Pending
from sluice.executions.retries import Policy, next_attempt
from sluice.outcome import Outcome, OutcomeKind

Make = Callable[..., Ground]
_POLICY = Policy(limit=3, on=frozenset({"Failed"}), backoff_s=10, backoff_s_max=60)
_FAILED = OutcomeKind.FAILED
_AT_ONCE = {"limit": 2, "backoff": "1ms", "backoffMax": "1ms"}


class TestWhen:
    def test_only_what_the_spec_names_and_so_often(self) -> None:
        """After the limit, or for another outcome, the end is the end."""
        assert next_attempt(_POLICY, _FAILED, 3, 0, 0, 0.5) is not None
        assert next_attempt(_POLICY, _FAILED, 4, 0, 0, 0.5) is None
        assert next_attempt(_POLICY, OutcomeKind.TRAPPED, 1, 0, 0, 0.5) is None
        assert next_attempt(_POLICY, OutcomeKind.CANCELLED, 1, 0, 0, 0.5) is None
        assert next_attempt(Policy(), _FAILED, 1, 0, 0, 0.5) is None

    def test_pauses_double_up_to_the_most(self) -> None:
        """The backoff is exponential, and bounded."""
        ends = [next_attempt(_POLICY, _FAILED, n, 0, 100, 1.0) for n in (1, 2, 3)]
        assert ends == [110, 120, 140]
        often = Policy(limit=10, on=frozenset({"Failed"}), backoff_s=10, backoff_s_max=60)
        assert next_attempt(often, _FAILED, 10, 0, 100, 1.0) == 160

    @given(chance=st.floats(0, 1, exclude_max=True), failures=st.integers(1, 10))
    def test_what_failed_together_is_not_tried_together(self, chance: float, failures: int) -> None:
        """Full jitter: any moment of the pause is as good as another, and none is before now."""
        often = Policy(limit=10, on=frozenset({"Failed"}), backoff_s=10, backoff_s_max=60)
        at = next_attempt(often, _FAILED, failures, 0, 100, chance)
        longest = min(10 * 2 ** (failures - 1), 60)
        assert at == pytest.approx(100 + chance * longest)

    def test_no_attempt_begins_past_the_deadline(self) -> None:
        """ActiveDeadlineSeconds counts from the acceptance, over all attempts."""
        hurried = Policy(3, frozenset({"Failed"}), 10, 60, deadline_s=30)
        assert next_attempt(hurried, _FAILED, 1, 0, 22, 0.5) == 27
        assert next_attempt(hurried, _FAILED, 1, 0, 25, 0.5) is None
        assert next_attempt(hurried, _FAILED, 1, 0, 31, 0.0) is None


class TestAttempts:
    async def test_a_failure_is_tried_again_until_it_completes(self, make: Make) -> None:
        """One execution, one id, one end; the guest can tell which attempt it is."""
        ground = make()
        engine = ground.serve(A, retries=_AT_ONCE)
        engine.outcomes = [Outcome(_FAILED, "exit code 1"), Outcome(OutcomeKind.TRAPPED)]
        run = await ground.run(A, id="7")
        assert (run.outcome.kind, run.attempts) == (OutcomeKind.COMPLETED, 3)
        assert json.loads(run.outcome.result)["sluiceattempt"] == 3
        assert ground.told == [(A, run)]
        assert ground.sample("sluice_retries_total") == 2
        assert ground.sample("sluice_executions_total", outcome="Completed") == 1

    async def test_the_last_failure_is_the_end(self, make: Make) -> None:
        """After limit more attempts it is told as it went the last time."""
        ground = make()
        engine = ground.serve(A, retries=_AT_ONCE)
        engine.outcomes = [Outcome(_FAILED, f"exit code {n}") for n in range(1, 5)]
        run = await ground.run(A)
        assert (run.outcome.message, run.attempts) == ("exit code 3", 3)
        assert len(engine.begun) == 3

    async def test_without_the_field_nothing_is_tried_again(self, make: Make) -> None:
        """A guest that is not safe to repeat is not repeated unless its author says so."""
        ground = make()
        engine = ground.serve(A)
        engine.outcomes = [Outcome(_FAILED)]
        assert (await ground.run(A)).outcome.kind is _FAILED
        assert len(engine.begun) == 1

    async def test_between_attempts_others_run(self, make: Make) -> None:
        """Who waits for its next attempt holds no thread, but its place in the queue."""
        ground = make(workers=1, queue_max=1)
        engine = ground.serve(A, retries={"limit": 1, "backoff": "1h", "backoffMax": "1h"})
        engine.outcomes = [Outcome(_FAILED)]
        await ground.accept(A, id="later")
        await until(lambda: ground.sample("sluice_retries_total"))
        later = await ground.executions.find(A, "later")
        assert isinstance(later, Pending)
        assert (later.running, later.attempt) == (False, 2)
        assert ground.sample("sluice_executions_waiting") == 1
        assert ground.executions.idle_s(A) == 0

    async def test_a_deletion_ends_what_waits_for_its_next_attempt(self, make: Make) -> None:
        """No timer of a deleted workflow fires."""
        ground = make()
        engine = ground.serve(A, retries={"limit": 1, "backoff": "1h", "backoffMax": "1h"})
        engine.outcomes = [Outcome(_FAILED)]
        [end] = await ground.submit(A)
        await until(lambda: ground.sample("sluice_retries_total"))
        ground.executions.detach(A)
        assert (await end).outcome.kind is OutcomeKind.CANCELLED


class TestDeadline:
    async def test_what_runs_at_the_deadline_is_ended(self, make: Make) -> None:
        """ActiveDeadlineSeconds is kept by a guest that would go on for ever."""
        ground = make()
        ground.serve(A, hold=True, activeDeadlineSeconds=1, retries=_AT_ONCE)
        run = await ground.run(A)
        assert run.outcome.kind is OutcomeKind.TIMED_OUT
        assert "spec.activeDeadlineSeconds" in run.outcome.message
        assert run.attempts == 1

    async def test_what_is_due_after_the_deadline_does_not_begin(
        self, make: Make, disk: Path
    ) -> None:
        """An event that waited through its deadline has an end without an attempt."""
        first = make(disk, workers=1)
        first.executions.open(_of_deadline())
        await first.accept(A, id="7")
        await first.journal.do(
            lambda tables: tables._db.execute("UPDATE accepted SET at = at - 100")
        )
        ground = make(await first.dies())
        engine = ground.serve(A, activeDeadlineSeconds=60)
        await until(lambda: ground.told)
        assert ground.kinds() == [OutcomeKind.TIMED_OUT]
        assert engine.begun == []


def _of_deadline() -> Any:
    from executions.held import of

    return of(A, activeDeadlineSeconds=60)


async def test_a_stopped_attempt_is_not_a_failed_one(make: Make) -> None:
    """What SIGTERM cut off has used up none of its attempts."""
    ground = make(drain_s=0.01)
    engine = ground.serve(A, hold=True, retries=_AT_ONCE)
    await ground.submit(A)
    await until(lambda: engine.running)
    assert await ground.executions.drain() is False
    await asyncio.sleep(0)
    assert ground.sample("sluice_retries_total") == 0
