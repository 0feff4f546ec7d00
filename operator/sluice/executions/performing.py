"""How an event becomes a run of a guest; each interface of guests has a way of its own.

Apart from the scheduler, which knows no interface: a workflow brings its way when it is attached.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sluice.event import Event
from sluice.outcome import Outcome
from sluice.wasm.engine import Engine, Execution
from sluice.wasm.interrupt import Cancel
from sluice.wasm.lending import Lending
from sluice.workflow import Workflow

# The engine that serves at that moment, the event, the source that names its workflow, the number
# of the attempt, and what ends it sooner. Blocks on a guest's thread; raises SluiceError.
Perform = Callable[[Lending, Event, str, int, Cancel], Outcome]


def command(engine: Lending, event: Event, source: str, attempt: int, cancel: Cancel) -> Outcome:
    """Run a WASI command with the event on its stdin."""
    assert isinstance(engine, Engine)
    return engine.run(Execution(event=event.encode(source, attempt)), cancel)


@dataclass(frozen=True, slots=True)
class Guest:
    """What a module has become; ``workflow`` has the triggers that are to be armed."""

    workflow: Workflow
    engine: Lending
    perform: Perform = command
