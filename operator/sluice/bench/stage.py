"""What a strategy is told and given, and how it tells back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sluice.bench.inputs import Inputs

Tell = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run; paths are texts because it travels as JSON."""

    strategy: str
    inputs: str
    data_dir: str
    subscribe_wait_s: float
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Stage:
    """What a strategy is given; ``hold`` keeps all it made alive until memory has been read."""

    order: Order
    inputs: Inputs
    tell: Tell
    hold: Callable[[], Any]
