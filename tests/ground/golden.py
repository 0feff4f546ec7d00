"""What people read, kept word for word: ``SLUICE_GOLDEN=write`` writes it, and git shows it."""

import os
from pathlib import Path

_GOLDEN = Path(__file__).parents[1] / "golden"


def writing() -> bool:
    """Whether what is kept is to be written anew."""
    return os.environ.get("SLUICE_GOLDEN") == "write"


def matches_golden(name: str, text: str) -> None:
    """Hold a text against tests/golden/NAME."""
    path = _GOLDEN / name
    if writing():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs; SLUICE_GOLDEN=write if it is meant"
