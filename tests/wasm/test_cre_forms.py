"""Modules written by hand, for what no compiler of ours makes: other forms, ends and types."""

import base64
import json

import pytest

from sluice.cre.proto import sdk_pb2 as sdk
from sluice.errors import WorkflowInvalid
from sluice.outcome import OutcomeKind
from sluice.reasons import Reason
from wasm.cre_lab import Cre, Held, Helper, any_of, firing
from wasm.lab import PROGRAM, Lab, wat

_EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))'
_SEND = '(import "env" "send_response" (func $send (param i32 i32) (result i32)))'
_CALL_V2 = '(import "env" "call_capability" (func $call (param i32 i32 i32 i32) (result i64)))'
_AWAIT = '(import "env" "await_capabilities" (func $await (param i32 i32 i32 i32) (result i64)))'
_RAW_MARKER = '(import "env" "version_v2" (func))'
_VALUE = sdk.ExecutionResult()
_VALUE.value.int64_value = 5


def _data(at: int, data: bytes) -> str:
    escaped = "".join(rf"\{byte:02x}" for byte in data)
    return f'(data (i32.const {at}) "{escaped}")'


def _guest(imports: str, body: str, *data: str, marker: str = _RAW_MARKER) -> bytes:
    return wat(
        f'{marker} {imports} (memory (export "memory") 1) {" ".join(data)}'
        f'(func (export "_start") {body})'
    )


def _sends(size: int, at: int = 100) -> str:
    return f"(drop (call $send (i32.const {at}) (i32.const {size})))"


_ANSWERS = _sends(len(_VALUE.SerializeToString()))
_ANSWER = _data(100, _VALUE.SerializeToString())


@pytest.mark.parametrize(
    "name", ["version_v2", "version_v2_go", "version_v2_typescript", "version_v2_of_tomorrow"]
)
def test_every_marker_is_there_and_does_nothing(any_lab: Lab, name: str) -> None:
    """A guest may call its SDK's marker, known or not, and is run on both tiers."""
    marker = f'(import "env" "{name}" (func $marker))'
    body = f"(call $marker) {_ANSWERS} (call $exit (i32.const 0))"
    guest = _guest(_SEND + _EXIT, body, _ANSWER, marker=marker)
    assert any_lab.module(guest).entry.record["abi"] == "cre"
    assert Cre(any_lab).run(wasm=guest).result == b"5"


class TestLaterCalls:
    """call_capability with four parameters: the error has a buffer of its own."""

    @staticmethod
    def _guest(request: bytes) -> bytes:
        """Return a guest that makes one call, and answers with what the buffer holds then."""
        answer = sdk.ExecutionResult()
        answer.value.bytes_value = bytes(64)
        head = answer.SerializeToString()[:-64]  # the buffer comes right behind it
        body = (
            f"(drop (call $call (i32.const 200) (i32.const {len(request)}) (i32.const 500)"
            f" (i32.const 64))) {_sends(len(head) + 64, 500 - len(head))}"
            "(call $exit (i32.const 0))"
        )
        data = _data(200, request), _data(500 - len(head), head)
        return _guest(_CALL_V2 + _SEND + _EXIT, body, *data)

    def test_an_error_is_written_there(self, lab: Lab) -> None:
        """And the request stays as it was."""
        outcome = Cre(lab).run(wasm=self._guest(b"\xff\xff\xff"))
        assert _bytes(outcome.result).startswith(b"error calling proto unmarshal: proto: ")

    def test_a_good_call_begins(self, lab: Lab) -> None:
        """Nothing is written where nothing is wrong."""
        request = sdk.CapabilityRequest(id="c@1", method="M", payload=any_of("x"), callback_id=7)
        helper = Helper()
        outcome = Cre(lab).run(wasm=self._guest(request.SerializeToString()), helper=helper)
        assert _bytes(outcome.result) == bytes(64)
        assert helper.calls == [request]


def _bytes(result: bytes) -> bytes:
    return base64.b64decode(json.loads(result))


def test_both_forms_serve_side_by_side(lab: Lab) -> None:
    """One runtime runs guests of older and newer SDKs at a time."""
    older = '(import "env" "call_capability" (func (param i32 i32) (result i64)))'
    for form in (older, _CALL_V2, older):
        guest = _guest(form + _SEND + _EXIT, f"{_ANSWERS} (call $exit (i32.const 0))", _ANSWER)
        assert Cre(lab).run(wasm=guest).ok


def test_an_end_without_an_exit_has_no_answer(lab: Lab) -> None:
    """CRE's host looks for the answer behind an exit alone; it is no failure, and says so."""
    outcome = Cre(lab).run(wasm=_guest(_SEND, _ANSWERS, _ANSWER))
    assert (outcome.kind, outcome.result) == (OutcomeKind.COMPLETED, b"")
    assert outcome.message == "it returned without an exit status, and so without an answer"


def test_a_trap_is_a_trap_though_it_answered(lab: Lab) -> None:
    """What was sent before it counts for nothing."""
    outcome = Cre(lab).run(wasm=_guest(_SEND, f"{_ANSWERS} unreachable", _ANSWER))
    assert outcome.kind is OutcomeKind.TRAPPED
    assert outcome.result == b""


def test_one_who_goes_on_after_its_time_is_ended(lab: Lab) -> None:
    """A guest that is told that its time is over, and calls again and again, ends all the same."""
    ids = sdk.AwaitCapabilitiesRequest(ids=[1]).SerializeToString()
    call = sdk.CapabilityRequest(id="c@1", callback_id=1).SerializeToString()
    body = (
        f"(drop (call $call (i32.const 200) (i32.const {len(call)})"
        " (i32.const 900) (i32.const 90)))"
        f"(loop $again (drop (call $await (i32.const 300) (i32.const {len(ids)})"
        " (i32.const 400) (i32.const 90))) (br $again))"
    )
    guest = _guest(_CALL_V2 + _AWAIT, body, _data(200, call), _data(300, ids))
    helper = Helper(call=Held())
    outcome = Cre(lab).run(wasm=guest, helper=helper, limits={"timeout": "100ms"})
    assert outcome.kind is OutcomeKind.TIMED_OUT


@pytest.mark.parametrize(
    ("wasm", "reason", "words"),
    [
        (
            wat(f'(import "env" "send_response" (func)) {PROGRAM}'),
            Reason.ABI_UNSUPPORTED, "legacy DAG",
        ),
        (
            wat(f'(import "env" "fetch" (func)) (import "env" "sendResponse" (func)) {PROGRAM}'),
            Reason.ABI_UNSUPPORTED, r"imports env\.sendResponse and no env\.version_v2",
        ),
        (
            wat(f'{_RAW_MARKER} (import "env" "sing" (func)) {PROGRAM}'),
            Reason.UNKNOWN_IMPORT, "imports env.sing, .* may import send_response",
        ),
        (
            wat(f'(import "env" "x" (func)) {PROGRAM}'),
            Reason.UNKNOWN_IMPORT, "imports env.x, .* build it for wasm32-wasip1",
        ),
        (
            wat(f'{_RAW_MARKER} (import "env" "now" (func (param i64) (result i32))) {PROGRAM}'),
            Reason.UNKNOWN_IMPORT, "another type",
        ),
        (
            wat(f'{_RAW_MARKER} (import "env" "call_capability" (func (param i32))) {PROGRAM}'),
            Reason.UNKNOWN_IMPORT, "another type",
        ),
        (
            wat(f'{_RAW_MARKER} (func (export "_start"))'),
            Reason.MISSING_EXPORT, "does not export memory",
        ),
        (
            wat(f'{_RAW_MARKER} (memory (export "memory") 1)'),
            Reason.MISSING_EXPORT, "does not export _start",
        ),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_run_is_refused_by_its_compile(
    lab: Lab, wasm: bytes, reason: Reason, words: str
) -> None:
    """The author is told what is missing or foreign before anything serves."""
    with pytest.raises(WorkflowInvalid, match=words) as caught:
        lab.compiling(wasm).run()
    assert caught.value.reason is reason


def test_a_command_does_not_get_the_other_interface(lab: Lab) -> None:
    """A WASI program imports from WASI alone, whatever CRE guests beside it are given."""
    Cre(lab).run(wasm=_guest(_SEND + _EXIT, f"{_ANSWERS} (call $exit (i32.const 0))", _ANSWER))
    with pytest.raises(WorkflowInvalid, match=r"imports env\.now"):
        lab.compiling(wat(f'(import "env" "now" (func (param i32) (result i32))) {PROGRAM}')).run()
    assert lab.run("echo", event=b"still there").result == b"still there"


def test_an_instance_that_grows_is_read_where_it_lies(lab: Lab) -> None:
    """Memory that moved between two calls is found, and its new bounds hold."""
    body = (
        f"(drop (memory.grow (i32.const 100))) {_ANSWERS}"
        "(call $exit (call $send (i32.const 6619136) (i32.const 1)))"
    )
    outcome = Cre(lab).run(wasm=_guest(_SEND + _EXIT, body, _ANSWER))
    assert outcome.exit_code == 21  # 101 pages end at 6,619,136
    assert outcome.memory_bytes == 6_619_136


def test_a_start_function_may_call_already(lab: Lab) -> None:
    """The host is there before _start is."""
    guest = wat(
        f'{_RAW_MARKER} {_SEND} {_EXIT} (memory (export "memory") 1) {_ANSWER}'
        f"(func $first {_ANSWERS}) (start $first)"
        '(func (export "_start") (call $exit (i32.const 0)))'
    )
    engine = Cre(lab).engine(guest)
    assert engine.run(firing()).result == b"5"
