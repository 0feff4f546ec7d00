"""What starts executions: armed together before Ready, disarmed together."""

from collections.abc import Callable
from contextlib import ExitStack

from sluice.event import Event
from sluice.triggers.cron import Cron
from sluice.workflow import Workflow


def arm(workflow: Workflow, fire: Callable[[Event], None]) -> ExitStack:
    """Arm every trigger of a workflow, all or none; closing the result disarms them.

    A manual trigger needs no arming: it fires where the request is seen.
    """
    with ExitStack() as armed:
        for trigger in workflow.spec.triggers:
            if trigger.cron:
                armed.enter_context(Cron(trigger.name, trigger.cron, fire))
        return armed.pop_all()
