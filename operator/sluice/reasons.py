"""Every reason that reaches a condition or an event, in one place.

Each is a heading of docs/troubleshooting.md; a test compares the two.
"""

from enum import StrEnum


class Reason(StrEnum):
    """CamelCase words as the Kubernetes API conventions ask of ``condition.reason``."""

    # On the way, or there.
    SERVING = "Serving"
    STARTING = "Starting"
    WAITING_FOR_TURN = "WaitingForTurn"
    WAITING_FOR_MEMORY = "WaitingForMemory"
    ADMITTED = "Admitted"
    VERIFIED = "Verified"
    SUSPENDED = "Suspended"
    PREVIOUS_REVISION = "PreviousRevision"
    NOT_STARTED = "NotStarted"

    # The object is wrong: permanent until it changes.
    INVALID_SPEC = "InvalidSpec"
    INVALID_SCHEDULE = "InvalidSchedule"
    CONFIG_TOO_LARGE = "ConfigTooLarge"
    MODULE_TOO_LARGE = "ModuleTooLarge"

    # The ConfigMaps are wrong: looked at again until they or the object change.
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    KEY_NOT_FOUND = "KeyNotFound"
    PART_INVALID = "PartInvalid"
    STREAM_CORRUPT = "StreamCorrupt"
    STREAM_TRUNCATED = "StreamTruncated"
    TRAILING_DATA = "TrailingData"
    SIZE_EXCEEDED = "SizeExceeded"
    SIZE_MISMATCH = "SizeMismatch"
    DIGEST_MISMATCH = "DigestMismatch"
    CONFIG_MAP_CHANGED = "ConfigMapChanged"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a word of a condition

    # The module is wrong: the digest pins it, so only another module helps.
    NOT_WASM = "NotWasm"
    COMPONENT_UNSUPPORTED = "ComponentUnsupported"
    MODULE_INVALID = "ModuleInvalid"
    UNKNOWN_IMPORT = "UnknownImport"
    MISSING_EXPORT = "MissingExport"
    ABI_UNSUPPORTED = "AbiUnsupported"
    COMPILE_OUT_OF_MEMORY = "CompileOutOfMemory"
    COMPILE_TIMED_OUT = "CompileTimedOut"
    TRIGGER_UNSUPPORTED = "TriggerUnsupported"

    # The cluster or the operator: retried with backoff.
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    SOURCE_FORBIDDEN = "SourceForbidden"
    SECRET_FORBIDDEN = "SecretForbidden"  # noqa: S105 - likewise
    TRIGGER_FORBIDDEN = "TriggerForbidden"
    COMPILE_FAILED = "CompileFailed"
    ENGINE_REFUSED = "EngineRefused"
    SUBSCRIBE_FAILED = "SubscribeFailed"
    REQUIREMENTS_UNMET = "RequirementsUnmet"

    # How the executions of one workflow go.
    RUNS_SUCCEEDING = "RunsSucceeding"
    RUNS_FAILING = "RunsFailing"

    # Only in events about the operator's pod: the rollout as a whole.
    ROLLOUT_HELD = "RolloutHeld"
    ROLLOUT_RESUMED = "RolloutResumed"

    # Only in events: what became of a run that was asked for.
    RUN_REFUSED = "RunRefused"
    RUN_FAILED = "RunFailed"
    RUN_RECOVERED = "RunRecovered"
    QUEUE_FULL = "QueueFull"
    SINK_FAILED = "SinkFailed"


# The verdicts that are reached only after the parts were found to hold the digest.
ABOUT_THE_MODULE = frozenset(
    {
        Reason.NOT_WASM,
        Reason.COMPONENT_UNSUPPORTED,
        Reason.MODULE_INVALID,
        Reason.UNKNOWN_IMPORT,
        Reason.MISSING_EXPORT,
        Reason.ABI_UNSUPPORTED,
        Reason.COMPILE_OUT_OF_MEMORY,
        Reason.COMPILE_TIMED_OUT,
        Reason.TRIGGER_UNSUPPORTED,
        Reason.REQUIREMENTS_UNMET,
        Reason.SUBSCRIBE_FAILED,
    }
)
