from hypothesis import given
from hypothesis import strategies as st

from sluice.rollout.gate import Hold, Start, decide

COUNT = st.integers(0, 50)


@given(COUNT, COUNT, st.integers(1, 50))
def test_a_batch_takes_all_that_wait_and_no_more_than_the_permits(
    waiting: int, in_flight: int, starts_max: int
) -> None:
    """Nobody waits while a permit is free, and starts_max is never passed."""
    decision = decide(waiting, in_flight, starts_max)
    if isinstance(decision, Start):
        assert 0 < decision.count <= waiting
        assert in_flight + decision.count <= starts_max
        assert decision.count == waiting or in_flight + decision.count == starts_max
    else:
        assert waiting == 0 or in_flight >= starts_max


def test_who_waits_is_told_how_many_are_before_it() -> None:
    """A hold explains itself in numbers."""
    assert decide(7, 12, 12) == Hold("12 of 12 starts are under way; 7 wait")
