"""Results as CloudEvents over HTTP (binary mode), through the guard of outgoing requests."""

import http
from datetime import timedelta
from urllib.parse import quote

import msgspec

from sluice.adapters.egress import Answer, Egress, EgressFailed, EgressRefused
from sluice.settings import Settings
from sluice.sinks import Undelivered
from sluice.snapshot import Run
from sluice.workflow import Workflow

# Nothing in an answer is read but its status and when to come again.
_ANSWER_BYTES_MAX = 4096
_MESSAGE_CHARS_MAX = 500
_COMES_AGAIN = frozenset({408, 425, 429})
# What stands for itself in a header by CloudEvents' HTTP binding: visible ASCII but " and %.
_PLAIN = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


class HttpSink:
    """A ``sinks.Door``: one POST for each result."""

    def __init__(self, egress: Egress, settings: Settings) -> None:
        self._egress, self._settings = egress, settings

    async def put(self, workflow: Workflow, run: Run) -> None:
        sink = workflow.spec.sink
        assert sink is not None
        assert sink.http is not None
        try:
            answer = await self._egress.request(
                "POST",
                sink.http.url,
                headers=headers(workflow, run),
                body=run.outcome.result,
                timeout_s=self._settings.sink_timeout_s,
                answer_bytes_max=_ANSWER_BYTES_MAX,
            )
        except EgressRefused as e:
            raise Undelivered(e.message) from None
        except EgressFailed as e:
            raise Undelivered(e.message, passing=True) from None
        _judge(answer)


def headers(workflow: Workflow, run: Run) -> dict[str, str]:
    """Return the attributes of the event that tells of a result."""
    outcome = run.outcome
    ended = run.started + timedelta(seconds=outcome.duration_s)
    told = {
        "ce-specversion": "1.0",
        "ce-type": f"dev.sluice.execution.{outcome.kind}",
        "ce-source": f"/{workflow.key.namespace}/{workflow.key.name}",
        "ce-id": run.id,
        "ce-subject": run.id,
        "ce-time": ended.isoformat(),
        "ce-sluicetrigger": run.trigger,
    }
    if outcome.message:
        told["ce-sluicemessage"] = outcome.message[:_MESSAGE_CHARS_MAX]
    given = {name: quote(value, safe=_PLAIN, errors="replace") for name, value in told.items()}
    return given | {"Content-Type": _content_type(outcome.result)}


def _content_type(result: bytes) -> str:
    try:
        result.decode()  # which the next does not look at
        msgspec.json.decode(result, type=msgspec.Raw)  # read to its end, and nothing is made of it
    except (UnicodeDecodeError, msgspec.DecodeError):
        return "application/octet-stream"
    return "application/json"


def _judge(answer: Answer) -> None:
    status = answer.status
    if status < http.HTTPStatus.MULTIPLE_CHOICES:
        return
    if status < http.HTTPStatus.BAD_REQUEST:
        raise Undelivered(
            f"the sink answered {status}: redirects are not followed, write the URL itself"
        )
    after = answer.headers.get("Retry-After", "")
    raise Undelivered(
        f"the sink answered {status}",
        passing=status in _COMES_AGAIN or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR,
        retry_after_s=float(after) if after.isdigit() else None,
    )
