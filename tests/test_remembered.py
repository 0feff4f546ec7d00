"""What CRE modules subscribe to is kept from one operator to the next."""

import os
from pathlib import Path

from sluice.cre.proto.sdk_pb2 import TriggerSubscription, TriggerSubscriptionRequest
from sluice.remembered import Remembered

SAID = TriggerSubscriptionRequest(subscriptions=[TriggerSubscription(id="cron-trigger@1.0.0")])


def test_an_answer_is_found_by_module_and_config(tmp_path: Path) -> None:
    """What a module said is known to the next operator, for the very config it was asked with."""
    Remembered(tmp_path / "said", 10).keep("d" * 64, "a: 1", SAID)
    later = Remembered(tmp_path / "said", 10)
    assert later.find("d" * 64, "a: 1") == SAID
    assert later.find("d" * 64, "a: 2") is None
    assert later.find("e" * 64, "a: 1") is None


def test_what_a_disk_has_spoilt_is_asked_again(tmp_path: Path) -> None:
    """Half a file is no answer, and none is made of it."""
    kept = Remembered(tmp_path, 10)
    kept.keep("d" * 64, "", SAID)
    (path,) = tmp_path.iterdir()
    for spoilt in (b"", path.read_bytes()[:-1], path.read_bytes() + b"\0"):
        path.write_bytes(spoilt)
        assert kept.find("d" * 64, "") is None


def test_no_more_are_kept_than_allowed(tmp_path: Path) -> None:
    """Of more answers than may be kept, the one that was not used for longest goes."""
    kept = Remembered(tmp_path, 2)
    for age, config in ((200, "a"), (100, "b")):
        before = set(tmp_path.iterdir())
        kept.keep("d" * 64, config, SAID)
        (new,) = set(tmp_path.iterdir()) - before
        os.utime(new, (1e9 - age, 1e9 - age))
    assert kept.find("d" * 64, "a") == SAID  # used just now, so the other one is older
    kept.keep("d" * 64, "c", SAID)
    assert len(list(tmp_path.iterdir())) == 2
    assert kept.find("d" * 64, "b") is None
    assert kept.find("d" * 64, "a") == SAID


def test_a_full_disk_costs_time_alone(tmp_path: Path) -> None:
    """Where nothing can be kept the workflow is asked again, and nothing else happens."""
    (tmp_path / "said").write_text("a file where the folder should be")
    kept = Remembered(tmp_path / "said", 10)
    kept.keep("d" * 64, "", SAID)
    assert kept.find("d" * 64, "") is None
