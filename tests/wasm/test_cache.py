import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from sluice.errors import EngineRefused
from sluice.wasm.cache import Entry, ModuleCache, make_private
from sluice.wasm.config import Tier
from wasm.lab import sha256

DIGEST = "a" * 64
CODE = b"\x7fELF and native code"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "modules"


def _cache(directory: Path, fingerprint: str = "f1", bytes_max: int = 1 << 20) -> ModuleCache:
    fingerprints = {Tier.OPTIMIZING: fingerprint, Tier.BASELINE: f"b{fingerprint}"}
    return ModuleCache(directory, fingerprints, bytes_max)


def _publish(
    cache: ModuleCache, digest: str = DIGEST, code: bytes = CODE, tier: Tier = Tier.OPTIMIZING
) -> None:
    output = cache.directory.parent / f"{digest[:8]}.cwasm"
    output.touch(0o600)
    output.write_bytes(code)
    answer = {"compiled_sha256": sha256(code), "compiled_bytes": len(code)}
    cache.publish(digest, tier, output, answer)


def _found(
    cache: ModuleCache, digest: str = DIGEST, tier: Tier = Tier.OPTIMIZING
) -> tuple[Entry, bytes] | None:
    with cache.opened(digest, tier) as found:
        return (found[0], Path(found[1]).read_bytes()) if found else None


def test_what_was_published_is_found_by_a_later_process(directory: Path) -> None:
    """An entry outlives the process that made it, and its code is the very code."""
    _publish(_cache(directory))
    found = _found(_cache(directory))
    assert found is not None
    assert (found[0].digest, found[0].compiled_bytes, found[1]) == (DIGEST, len(CODE), CODE)


def test_an_unknown_digest_is_not_found(directory: Path) -> None:
    """No entry is no error and no noise."""
    assert _found(_cache(directory)) is None


def _code(directory: Path) -> Path:
    return directory / f"{DIGEST}.f1.cwasm"


def _record(directory: Path) -> Path:
    return directory / f"{DIGEST}.f1.json"


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _swap(path: Path, link: Callable[[Path, Path], None]) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    link(elsewhere, path)


def _mode(path: Path) -> None:
    path.chmod(0o640)


def _claim_another_digest(directory: Path) -> None:
    _publish(_cache(directory), "b" * 64, b"\x7fELF other code")
    (directory / f"{'b' * 64}.f1.json").replace(_record(directory))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte of the code": (lambda d: _flip(_code(d), 5), "is damaged"),
    "a byte of the record": (lambda d: _flip(_record(d), 30), "record of"),
    "the code cut": (lambda d: os.truncate(_code(d), 4), "is damaged"),
    "the record cut": (lambda d: os.truncate(_record(d), 9), "is damaged"),
    "the record empty": (lambda d: os.truncate(_record(d), 0), "is damaged"),
    "the record no object": (lambda d: _write(_record(d), "[1]"), "this cache's key"),
    "the record nested": (lambda d: _write(_record(d), "[" * 90_000), "is damaged"),
    "a foreign mac": (lambda d: _write(_record(d), '{"mac": "\u00e9"}'), "this cache's key"),
    "a mac of no text": (lambda d: _write(_record(d), '{"mac": 7}'), "this cache's key"),
    "no record": (lambda d: _record(d).unlink(), "has no record"),
    "another module's record": (_claim_another_digest, "another module's"),
    "a readable code": (lambda d: _mode(_code(d)), "has mode 0640"),
    "a readable record": (lambda d: _mode(_record(d)), "has mode 0640"),
    "a symbolic link": (lambda d: _swap(_code(d), lambda a, b: b.symlink_to(a)), "cannot be"),
    "a hard link": (lambda d: _swap(_code(d), lambda a, b: b.hardlink_to(a)), "no plain file"),
    "a foreign owner": (lambda d: os.chown(_code(d), 12345, -1), "belongs to user 12345"),
    "a record of a foreign owner": (lambda d: os.chown(_record(d), 12345, -1), "12345"),
    "a pipe": (lambda d: _pipe(_code(d)), "no plain file"),
}


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_entry_that_is_not_ours_whole_is_refused(
    directory: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was done to an entry, it is not mapped; the log says why, and it can be replaced."""
    spoil, words = DAMAGES[damage]
    if "owner" in damage and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    cache = _cache(directory)
    _publish(cache)
    spoil(directory)
    with caplog.at_level(logging.WARNING):
        assert _found(cache) is None
    assert words in caplog.text
    assert "compiling again" in caplog.text
    _publish(cache)
    assert _found(cache) is not None


def test_every_single_flipped_bit_of_an_entry_is_noticed(directory: Path) -> None:
    """There is no byte of code or record whose change would be believed."""
    cache = _cache(directory)
    for path in (_code, _record):
        _publish(cache)
        for at in range(path(directory).stat().st_size):
            _publish(cache)
            _flip(path(directory), at)
            assert _found(cache) is None, f"byte {at} of {path(directory).name}"


def test_an_entry_of_another_configuration_is_another_entry(directory: Path) -> None:
    """Another version, configuration or CPU neither finds an entry nor is harmed by it."""
    _publish(_cache(directory, "f1"))
    assert _found(_cache(directory, "f2")) is None
    assert _found(_cache(directory, "f1")) is not None


def test_an_entry_renamed_to_another_configuration_is_refused(directory: Path) -> None:
    """The name alone convinces nobody: the record says for which configuration it was made."""
    _publish(_cache(directory, "f1"))
    for suffix in ("cwasm", "json"):
        old = directory / f"{DIGEST}.f1.{suffix}"
        old.rename(directory / f"{DIGEST}.f2.{suffix}")
    assert _found(_cache(directory, "f2")) is None


@pytest.mark.parametrize(
    "lose", [Path.unlink, lambda key: key.chmod(0o644), lambda key: key.write_bytes(b"")]
)
def test_a_lost_key_disowns_every_entry(directory: Path, lose: Callable[[Path], None]) -> None:
    """Without the key nothing can be believed; the cache fills again under a new one."""
    _publish(_cache(directory))
    lose(directory / "key")
    cache = _cache(directory)
    assert _found(cache) is None
    _publish(cache)
    assert _found(_cache(directory)) is not None
    assert (directory / "key").stat().st_mode & 0o777 == 0o600


def test_halves_of_entries_are_swept_at_the_start(directory: Path) -> None:
    """Code without its record, and the other way round, is rubbish of a death in mid-air."""
    _publish(_cache(directory))
    (directory / "orphan.f1.cwasm").write_bytes(b"x")
    (directory / "widow.f1.json").write_bytes(b"x")
    cache = _cache(directory)
    assert {path.name for path in directory.iterdir()} == {
        "key", _code(directory).name, _record(directory).name
    }  # fmt: skip
    assert _found(cache) is not None


def test_the_least_recently_used_goes_first(directory: Path) -> None:
    """A full cache forgets what nobody asked for, and never what was just written."""
    cache = _cache(directory, bytes_max=250)
    for n, digest in enumerate(("1" * 64, "2" * 64)):
        _publish(cache, digest, b"x" * 100)
        os.utime(directory / f"{digest}.f1.cwasm", (n + 1, n + 1))
    assert _found(cache, "1" * 64) is not None  # used again: the other one is older now
    _publish(cache, "3" * 64, b"x" * 100)
    assert [bool(_found(cache, n * 64)) for n in "123"] == [True, False, True]
    _publish(cache, "4" * 64, b"x" * 1000)
    assert [bool(_found(cache, n * 64)) for n in "1234"] == [False, False, False, True]


def test_the_entries_of_both_tiers_lie_side_by_side(directory: Path) -> None:
    """A tier finds its own code of a digest and never the other's, and forgets no other's."""
    cache = _cache(directory)
    _publish(cache, code=b"soon", tier=Tier.BASELINE)
    assert [cache.cached(DIGEST, tier) for tier in Tier] == [True, False]
    assert _found(cache) is None
    _publish(cache, code=b"fast")
    assert [cache.cached(DIGEST, tier) for tier in Tier] == [True, True]
    found = [_found(cache, tier=tier) for tier in (Tier.BASELINE, Tier.OPTIMIZING)]
    assert [entry and (entry[0].tier, entry[1]) for entry in found] == [
        (Tier.BASELINE, b"soon"), (Tier.OPTIMIZING, b"fast")
    ]  # fmt: skip
    cache.remove(DIGEST, Tier.BASELINE)
    assert [cache.cached(DIGEST, tier) for tier in Tier] == [False, True]


def test_an_entry_without_its_record_is_not_called_cached(directory: Path) -> None:
    """Who asks whether a start is cheap is not told so of what will have to be compiled."""
    cache = _cache(directory)
    _publish(cache)
    _record(directory).unlink()
    assert not cache.cached(DIGEST, Tier.OPTIMIZING)


def test_baseline_code_goes_first_once_there_is_better(directory: Path) -> None:
    """A full cache forgets what nobody will ask for before it forgets what is old."""
    cache = _cache(directory, bytes_max=350)
    old, both, alone = "1" * 64, "2" * 64, "3" * 64
    _publish(cache, old, b"x" * 100)
    os.utime(cache.path(old, Tier.OPTIMIZING), (1, 1))
    _publish(cache, alone, b"x" * 100, Tier.BASELINE)
    _publish(cache, both, b"x" * 100, Tier.BASELINE)
    _publish(cache, both, b"x" * 100)
    assert not cache.cached(both, Tier.BASELINE)
    assert cache.cached(both, Tier.OPTIMIZING)
    assert cache.cached(old, Tier.OPTIMIZING)
    assert cache.cached(alone, Tier.BASELINE)
    _publish(cache, "4" * 64, b"x" * 100)
    assert not cache.cached(old, Tier.OPTIMIZING)
    assert cache.cached(alone, Tier.BASELINE)


def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    """Native code is never loaded from where somebody else may write."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    directory.mkdir()
    os.chown(directory, 12345, -1)
    with pytest.raises(EngineRefused, match="belongs to user 12345"):
        _cache(directory)


def test_a_directory_is_made_private(directory: Path) -> None:
    """A directory that others could look into is closed to them; one that cannot be is told."""
    directory.mkdir(mode=0o755)
    make_private(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    (directory / "file").touch()
    with pytest.raises(EngineRefused, match="cannot be used"):
        make_private(directory / "file" / "below")


_DIES_AT_STEP = """
    import os, signal, sys
    from pathlib import Path
    from wasm import test_cache as t
    cache = t._cache(Path(sys.argv[1]))
    steps = int(sys.argv[2])
    def mortal(do):
        def step(*args, **kwargs):
            global steps
            if steps == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            steps -= 1
            return do(*args, **kwargs)
        return step
    os.open, Path.rename, Path.unlink = map(mortal, (os.open, Path.rename, Path.unlink))
    t._publish(cache, code=sys.argv[3].encode())
"""


_STEPS = 7  # each open, rename and unlink of it is one


@pytest.mark.parametrize("step", range(_STEPS + 1))
def test_a_death_while_publishing_leaves_an_old_a_new_or_no_entry(
    directory: Path, step: int
) -> None:
    """Killed at any step, an entry is whole or absent, and nothing half is left behind."""
    _publish(_cache(directory), code=b"old")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_DIES_AT_STEP), directory, str(step), "new"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.returncode == (-9 if step < _STEPS else 0)
    found = _found(_cache(directory))
    assert found is None or found[1] in {b"old", b"new"}
    if step == _STEPS:
        assert found is not None
        assert found[1] == b"new"
    left = {path.suffix for path in directory.iterdir()} - {""}
    assert left in (set(), {".cwasm", ".json"})


def test_a_record_holds_no_more_than_was_said(directory: Path) -> None:
    """The record can be read by a person, and its mac covers all of it."""
    _publish(_cache(directory))
    record = json.loads(_record(directory).read_text())
    assert set(record) == {"compiled_sha256", "compiled_bytes", "digest", "fingerprint", "mac"}
