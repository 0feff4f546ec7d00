import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.rollout.costs import Cost, Costs
from sluice.settings import MIB

CAP = 512 * MIB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "costs"


def costs(path: Path, entries_max: int = 4096) -> Costs:
    return Costs(path, CAP, entries_max)


def need(of: Costs, digest: str = "new", size: int = MIB, tier: str = "optimizing") -> int:
    return of.predict(digest, size, tier, cached=False).compile_bytes


def test_of_what_nobody_has_seen_the_cap_is_predicted(path: Path) -> None:
    """Size alone says nothing: the first may take all that a child may."""
    assert costs(path).predict("new", MIB, "optimizing", cached=False) == Cost(
        CAP, MIB, known=False
    )


def test_what_is_cached_has_nothing_to_compile(path: Path) -> None:
    """A restart from the cache is not held for compiles that do not happen."""
    assert costs(path).predict("new", MIB, "optimizing", cached=True) == Cost(0, MIB, known=True)


def test_a_digest_is_predicted_by_its_last_peak_in_its_tier(path: Path) -> None:
    """The last one counts, higher or lower, and says nothing of the other compiler."""
    of = costs(path)
    of.compiled("a", MIB, "optimizing", 90 * MIB)
    of.compiled("a", MIB, "optimizing", 60 * MIB)
    assert of.predict("a", MIB, "optimizing", cached=False) == Cost(60 * MIB, MIB, known=True)
    assert need(of, "a", tier="baseline") == CAP


def test_one_that_was_refused_needs_more_than_it_was_given(path: Path) -> None:
    """It is not tried again with the same memory; nor is a peak below a refusal believed."""
    of = costs(path)
    of.failed("a", MIB, "optimizing", 80 * MIB)
    of.failed("a", MIB, "optimizing", 72 * MIB)
    assert of.predict("a", MIB, "optimizing", cached=False) == Cost(90 * MIB, MIB, known=True)
    of.compiled("a", MIB, "optimizing", 70 * MIB)
    assert need(of, "a") == 90 * MIB
    of.compiled("a", MIB, "optimizing", 100 * MIB)
    assert need(of, "a") == 100 * MIB


def test_no_prediction_is_above_the_cap(path: Path) -> None:
    """More than a child may take cannot be asked for, whatever was learned before."""
    of = costs(path)
    of.failed("a", MIB, "optimizing", CAP)
    of.compiled("b", MIB, "optimizing", 2 * CAP)
    assert need(of, "a") == need(of, "b") == CAP


def test_a_refusal_below_what_any_compile_takes_is_forgotten(path: Path) -> None:
    """It says how full the pod was, and nothing of the module."""
    of = costs(path)
    of.failed("a", MIB, "optimizing", 39 * MIB)
    assert not of.predict("a", MIB, "optimizing", cached=False).known


def test_from_four_modules_on_the_size_is_a_bound(path: Path) -> None:
    """A quarter above what was seen; below four, one outlier would be all that is known."""
    of = costs(path)
    for i in range(3):
        of.compiled(f"m{i}", MIB, "optimizing", 40 * MIB)
    assert need(of) == CAP
    of.compiled("m3", MIB, "optimizing", 44 * MIB)
    cost = of.predict("new", MIB, "optimizing", cached=False)
    assert (cost.compile_bytes, cost.known) == (55 * MIB, False)
    assert need(of, tier="baseline") == CAP


def test_a_larger_module_is_expected_to_take_more_and_a_smaller_one_not_less(path: Path) -> None:
    """A peak grows with the size; but a fixed part of it does not shrink."""
    of = costs(path)
    for i in range(4):
        of.compiled(f"m{i}", MIB, "optimizing", 40 * MIB)
    assert need(of, size=2 * MIB) == 100 * MIB
    assert need(of, size=MIB // 1000) == 50 * MIB
    assert need(of, size=0) == 50 * MIB
    assert need(of, size=100 * MIB) == CAP


def test_one_giant_does_not_price_all_others(path: Path) -> None:
    """One module in a hundred takes 500 times its size: the bound is a quantile, no maximum."""
    of = costs(path)
    for i in range(12):
        of.compiled(f"m{i}", MIB, "optimizing", 40 * MIB)
    of.failed("giant", MIB, "optimizing", CAP)
    assert need(of) == 50 * MIB


def test_modules_of_about_the_size_decide(path: Path) -> None:
    """Large ones that were seen do not make small ones wait."""
    of = costs(path)
    for i in range(16):
        of.compiled(f"small{i}", MIB, "optimizing", 40 * MIB)
        of.compiled(f"large{i}", 10 * MIB, "optimizing", 300 * MIB)
    assert need(of) == 50 * MIB
    assert need(of, size=9 * MIB) == 375 * MIB


def test_what_an_engine_kept_is_known_of_it_and_expected_of_others(path: Path) -> None:
    """The 90 % quantile of what was seen; a MiB as long as that is too little to go by."""
    of = costs(path)
    of.kept("a", 3 * MIB)
    assert of.predict("a", 1, "optimizing", cached=True).keep_bytes == 3 * MIB
    assert of.predict("new", 1, "optimizing", cached=True).keep_bytes == MIB
    for i in range(20):
        of.kept(f"m{i}", MIB // 5)
    assert of.predict("new", 1, "optimizing", cached=True).keep_bytes == MIB // 5


def test_a_restart_knows_what_was_learned(path: Path) -> None:
    """Peaks, refusals and keeps are in the file before the next start asks."""
    before = costs(path)
    before.compiled("a", MIB, "optimizing", 60 * MIB)
    before.failed("b", MIB, "baseline", 80 * MIB)
    before.kept("a", 2 * MIB)
    after = costs(path)
    for digest, tier in (("a", "optimizing"), ("b", "baseline"), ("new", "optimizing")):
        asked = digest, MIB, tier
        assert after.predict(*asked, cached=False) == before.predict(*asked, cached=False)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [
    b"", b"\xff\x00", b'["compiled","x",1,"optimizing",-1]\n', b'["compiled","x",1]\n', b"{}\n",
    b'["compiled",1,1,"optimizing",1]\n', b'["what","x",1,"optimizing",1]\n', b"[" * 100_000,
    b'["compiled","x",1,"optimizing",1e99]\n', b'["compiled","x",true,"optimizing",1]\n', b'["comp',
    b'["compiled","x",1,"optimizing",9999999999999999999]\n',
])  # fmt: skip
def test_a_damaged_file_loses_no_more_than_its_damage(path: Path, damage: bytes) -> None:
    """A death in mid-air, a full disk, a hand that edits: the rest holds and goes on."""
    of = costs(path)
    of.compiled("a", MIB, "optimizing", 60 * MIB)
    path.write_bytes(path.read_bytes() + damage)
    of = costs(path)
    assert not of.predict("x", 1, "optimizing", cached=False).known
    of.compiled("b", MIB, "optimizing", 70 * MIB)
    of = costs(path)
    assert (need(of, "a"), need(of, "b")) == (60 * MIB, 70 * MIB)


def test_a_file_that_cannot_be_written_is_told_once_and_stops_nobody(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a help: without it the operator learns anew after each restart."""
    path.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        of = costs(path)
        for i in range(3):
            of.compiled(f"m{i}", MIB, "optimizing", 60 * MIB)
    assert need(of, "m0") == 60 * MIB
    assert len(caplog.records) == 1
    assert "not remembered over a restart" in caplog.text


def test_neither_the_file_nor_the_memory_grows_without_bound(path: Path) -> None:
    """The latest entries_max modules are remembered, and the file holds little more."""
    of = costs(path, entries_max=10)
    for i in range(1000):
        of.compiled(f"m{i}", MIB, "optimizing", 60 * MIB)
        of.kept(f"m{i}", MIB * (1 + i % 7))
    lines = path.read_bytes().splitlines()
    assert len(lines) <= 2 * 30 + 65
    assert all(json.loads(line) for line in lines)
    of = costs(path, entries_max=10)
    known = [i for i in range(1000) if of.predict(f"m{i}", 1, "optimizing", cached=False).known]
    assert known == list(range(990, 1000))


def test_what_a_restart_measures_again_is_not_written_again(path: Path) -> None:
    """A thousand cached workflows that start do not write a thousand lines."""
    of = costs(path)
    of.kept("a", 100)
    for again in (95, 100, 110):
        of.kept("a", again)
    assert len(path.read_bytes().splitlines()) == 1
    of.kept("a", 130)
    assert len(path.read_bytes().splitlines()) == 2


_FACTS = st.lists(
    st.tuples(
        st.sampled_from(["compiled", "failed", "kept"]), st.sampled_from("abcdef"),
        st.integers(0, 200 * MIB), st.integers(0, 3 * CAP),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_FACTS, st.integers(0, 200 * MIB))
def test_whatever_was_learned_a_prediction_is_bounded_and_the_same_after_a_restart(
    path: Path, facts: list[tuple[str, str, int, int]], size: int
) -> None:
    """Between 0 and the cap, from any history, in this process and the next."""
    path.unlink(missing_ok=True)
    of = costs(path, 4)
    for what, digest, of_size, value in facts:
        if what == "kept":
            of.kept(digest, value)
        else:
            learn = of.compiled if what == "compiled" else of.failed
            learn(digest, of_size, "optimizing", value)
    for digest in "abcdefg":
        cost = of.predict(digest, size, "optimizing", cached=False)
        assert 0 < cost.compile_bytes <= CAP
        assert cost.keep_bytes > 0
    again = costs(path, 4)
    for digest in "abcdefg":
        now = of.predict(digest, size, "optimizing", cached=False)
        assert again.predict(digest, size, "optimizing", cached=False) == now
