"""How names, keys, texts and times look: what several fields of a spec have in common."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from sluice.errors import WorkflowInvalid
from sluice.quantities import duration, quantity
from sluice.reasons import Reason

LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
DOTTED = rf"{LABEL}(\.{LABEL})*"


class Ref(Protocol):
    """One key of one object in the workflow's namespace."""

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...


def invalid(message: str) -> WorkflowInvalid:
    return WorkflowInvalid(Reason.INVALID_SPEC, message)


def check_form(where: str, value: str, form: str, what: str) -> None:
    # As CEL's matches() reads them: \s and \d know ASCII alone, and $ is not used.
    if not re.fullmatch(form, value, re.ASCII):
        raise invalid(f'{where}: "{value}" is no {what}')


def check_key(where: str, ref: Ref, kind: str = "ConfigMap") -> None:
    what = f"name of a {kind}; write lower-case letters, digits, - and ."
    check_form(f"{where}.name", ref.name, DOTTED, what)
    what = f"key of a {kind}; write letters, digits, -, _ and ."
    check_form(f"{where}.key", ref.key, "[-._a-zA-Z0-9]+", what)


def check_names(where: str, names: list[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise invalid(f'{where}[{i}].name: "{name}" stands twice; rename one')


def check_choices(where: str, choices: Sequence[str]) -> None:
    """Refuse a set that is empty or names one thing twice."""
    if not choices:
        raise invalid(f"{where}: is empty; list at least one, or leave it out")
    for i, choice in enumerate(choices):
        if choice in choices[:i]:
            raise invalid(f'{where}[{i}]: "{choice}" stands twice; write it once')


def check_one_of(where: str, given: dict[str, object | None], hint: str) -> str:
    """Return the one that is given, where exactly one has to be."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) == 1:
        return names[0]
    found = f"gives {', '.join(names)}" if names else "gives none"
    raise invalid(f"{where}: {found}; write exactly one of {', '.join(given)} {hint}".rstrip())


def check_bytes(where: str, value: str | int, most: str) -> None:
    try:
        good = 0 < quantity(value) <= quantity(most)
    except ValueError as e:
        raise invalid(f"{where}: {e}") from None
    if not good:
        raise invalid(f"{where}: must be more than 0 and at most {most}")


def check_duration(where: str, value: str, most: str, *, zero: bool = False) -> None:
    try:
        length = duration(value)
    except ValueError as e:
        raise invalid(f"{where}: {e}") from None
    if length > duration(most) or (not zero and length == timedelta()):
        least = "" if zero else "more than 0 and "
        raise invalid(f'{where}: "{value}" must be {least}at most {most}')
