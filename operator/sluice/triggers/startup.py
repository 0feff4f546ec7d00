"""Once for each revision, when it is there to run it."""

from sluice.event import Event
from sluice.spec import StartupSpec
from sluice.triggers.firing import Due
from sluice.workflow import Workflow


def startup_due(workflow: Workflow, name: str, spec: StartupSpec, cursor: str | None) -> Due | None:
    """Return what fires when a revision begins to serve; None where it has fired before.

    The id is the revision's, so that it is accepted once. Ids are forgotten some day and cursors
    are not: an operator that restarts after years repeats nothing.
    """
    id_ = f"startup@{name}-{workflow.generation}-{workflow.digest[:12]}"
    if cursor == id_:
        return None
    return Due(Event(kind="startup", trigger=name, data=spec.data, id=id_), cursor=id_)
