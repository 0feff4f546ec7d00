"""The docs say what the code does: every reason, bound and metric is in them, and no other."""

import re
from pathlib import Path

from ground.golden import writing
from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import table

_DOCS = Path(__file__).parents[1] / "docs"


def test_every_reason_is_a_heading() -> None:
    """Whoever meets a reason finds its heading in troubleshooting.md."""
    text = (_DOCS / "troubleshooting.md").read_text()
    headings = re.findall(r"^### (\w+)$", text, re.MULTILINE)
    assert sorted(headings) == sorted(map(str, Reason))


def test_every_bound_is_in_the_table() -> None:
    """limits.md has each setting with its unit and default."""
    rows = [
        f"| `{row.name}` | {row.purpose} | {row.unit} | {_default(row.name, row.default)} |"
        for row in table()
    ]
    _matches("limits.md", rows)


def test_every_metric_is_in_the_table() -> None:
    """metrics.md has each metric with its type, its labels and its help."""
    rows = []
    for family in Metrics().registry.collect():
        labels = sorted({n for s in family.samples for n in s.labels if n != "le"})
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    _matches("metrics.md", rows)


def _default(name: str, value: object) -> str:
    machine = {"data_dir": "`~/.cache/sluice/data`", "workers": "as many as CPUs"}
    return machine.get(name) or f"{value:,}" if not isinstance(value, str) else value


def _matches(name: str, rows: list[str]) -> None:
    path = _DOCS / name
    text = path.read_text()
    head, separator, rest = re.split(r"^(\|(?: ?-+ ?\|)+\n)", text, maxsplit=1, flags=re.MULTILINE)
    after = re.sub(r"\A(?:\|.*\n)*", "", rest)
    wanted = head + separator + "".join(f"{row}\n" for row in rows) + after
    if writing():
        path.write_text(wanted)
        text = wanted
    assert text == wanted, f"{path} differs; SLUICE_GOLDEN=write if it is meant"
