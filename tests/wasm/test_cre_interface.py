"""Module ``env`` and the WASI overrides, one rule after the other, as a guest in Go sees them."""

import re
import time

import pytest

from sluice.outcome import OutcomeKind
from sluice.settings import Settings
from wasm.cre_lab import Cre, Helper, needs_go
from wasm.lab import Lab

pytestmark = needs_go
_SETTINGS = Settings()


@pytest.fixture
def cre(lab: Lab) -> Cre:
    return Cre(lab)


def test_a_guest_s_request_is_its_argument(any_lab: Lab) -> None:
    """Config, the trigger's place and the host's limit on answers reach it, on both tiers."""
    said = Cre(any_lab).said("args", "config", "id", "maximum", config="the config")
    assert said == ["2 wasi", "the config", "0", str(_SETTINGS.cre_response_bytes_max)]


def test_a_guest_has_no_environment_no_input_and_no_files(cre: Cre) -> None:
    """There are no variables and no stdin, no directory opens, and what it prints is no result."""
    assert cre.said("world", env=[{"name": "A", "value": "1"}]) == ["0 0 true"]


class TestAnswer:
    def test_the_last_one_counts(self, cre: Cre) -> None:
        """Of two answers the later one is the result."""
        assert cre.said("send 0a050a036f6c64") == ["0"]
        assert cre.run("send 0a050a036f6c64", "done").result == b'"old"'

    @pytest.mark.parametrize(
        ("message", "json"),
        [
            ("0a023801", b"1"),
            ("0a0b22090a070a016112022a00", b'{"a":[]}'),
            ("0a021001", b"true"),
            ("0a00", b"null"),
            ("", b""),
        ],
    )
    def test_its_value_is_shown_as_json(self, cre: Cre, message: str, json: bytes) -> None:
        """The result of an execution is the JSON of the value; none at all is no result."""
        outcome = cre.run("raw send_response 0 0" if not message else f"send {message}", "done")
        assert outcome.kind is OutcomeKind.COMPLETED
        assert outcome.result == json

    def test_what_is_no_message_is_refused(self, cre: Cre) -> None:
        """Bad bytes and bad places are answered with 21, and change nothing."""
        script = ["put 0 ffff", "raw send_response @0 2", "raw send_response -1 2"]
        script += ["raw send_response 0 -1", "raw send_response $-1 2", "raw send_response $0 1"]
        assert cre.said(*script)[1:] == ["21"] * 5

    def test_an_error_is_a_failure_in_its_words(self, cre: Cre) -> None:
        """A workflow's own error fails the execution, and its text is the message."""
        outcome = cre.run("fail the price is wrong")
        assert (outcome.kind, outcome.message) == (OutcomeKind.FAILED, "the price is wrong")

    def test_none_at_all_is_a_failure(self, cre: Cre) -> None:
        """Exit 0 without an answer is CRE's own error, in its words."""
        outcome = cre.run("done")
        assert outcome.kind is OutcomeKind.FAILED
        assert outcome.message == "could not find response for execution"

    def test_an_exit_code_is_a_failure_though_it_answered(self, cre: Cre) -> None:
        """Only exit 0 makes an answer count."""
        outcome = cre.run("send 0a023801", "exit 3")
        assert (outcome.kind, outcome.exit_code, outcome.result) == (OutcomeKind.FAILED, 3, b"")

    def test_its_size_is_bounded(self, cre: Cre) -> None:
        """An answer within limits.response is a result; one byte more is a failure that says so."""
        limits = {"response": 1000}
        assert cre.run("big 994", "done", limits=limits).ok
        outcome = cre.run("big 995", "done", limits=limits)
        assert outcome.kind is OutcomeKind.FAILED
        assert outcome.message == "answered with more than the 1,000 bytes it may"

    def test_a_trigger_is_not_answered_with_restrictions(self, cre: Cre) -> None:
        """An answer of another kind than was asked for is a failure that names it."""
        outcome = cre.run("send 22020a00", "done")
        assert outcome.message == "it answered a trigger with restrictions"


class TestMemory:
    """Numbers are signed; what is outside the memory by one byte is refused, whatever overflows."""

    @pytest.mark.parametrize(
        ("at", "size", "error"),
        [
            ("-1", "4", "invalid memory access: ptr: -1, size: 4"),
            ("@0", "-4", "invalid memory access: ptr: {}, size: -4"),
            ("$-3", "4", "out of bounds memory access"),
            ("0x7fffffff", "0x7fffffff", "out of bounds memory access"),
        ],
    )
    def test_a_request_from_nowhere_is_told(self, cre: Cre, at: str, size: str, error: str) -> None:
        """The text lands in the buffer for the answer, and the number is minus its length."""
        what = f"error reading from wasm {error}"
        said = cre.said(f"raw await_capabilities {at} {size} @100 200", "get 100 80")
        assert said[1].rstrip("\0").startswith(what.partition("{")[0])
        assert int(said[0]) == -len(said[1].rstrip("\0"))
        said = cre.said(f"raw get_secrets {at} {size} @100 200", "get 100 80")
        assert said[1].startswith("error calling wasmRead: " + error.partition("{")[0])

    def test_an_error_is_cut_to_its_buffer_and_to_the_memory(self, cre: Cre) -> None:
        """Nothing is written behind either end."""
        script = ["put 100 7e7e7e7e7e7e7e7e", "raw await_secrets -1 1 @100 5", "get 100 8"]
        assert cre.said(*script)[1:] == ["-5", "error~~~"]
        assert cre.said("raw await_secrets -1 1 $-3 500") == ["-3"]
        assert cre.said("raw await_secrets -1 1 @100 0") == ["0"]

    @pytest.mark.parametrize("where", ["-1 10", "@0 -1", "$1 10"])
    def test_an_error_that_cannot_be_written_is_answered_with_1(self, cre: Cre, where: str) -> None:
        """CRE's own quirk, which its guests know."""
        for call in ("await_capabilities", "await_secrets", "get_secrets"):
            assert cre.said(f"raw {call} -1 1 {where}") == ["1"]

    def test_an_older_guest_s_error_is_written_over_its_request(self, cre: Cre) -> None:
        """call_capability with two parameters has no other buffer."""
        said = cre.said("put 0 " + "ff" * 60, "raw call_capability @0 60", "get 0 60")
        assert said[1] == "-60"
        assert (
            said[2] == "error calling proto unmarshal: proto: cannot parse invalid wire-form"[:60]
        )
        assert cre.said("raw call_capability -1 60") == ["1"]

    def test_a_request_is_bounded(self, cre: Cre) -> None:
        """A message longer than cre_request_bytes_max is refused before it is read."""
        most = _SETTINGS.cre_request_bytes_max
        said = cre.said(f"raw get_secrets 0 {most + 1} @0 200", "get 0 100")
        words = f"error calling wasmRead: message of {most + 1} bytes is longer than {most}"
        assert said[1].startswith(words)
        said = cre.said(f"raw get_secrets 0 {most} @0 200", "get 0 100")
        assert "longer" not in said[1]

    def test_an_answer_needs_its_whole_buffer(self, cre: Cre) -> None:
        """A buffer that is too small, or ends behind the memory, is told; the answer is gone."""
        call = "call c@1 M 1 " + "x" * 40
        small = cre.said(call, "await 30 1", "await 0 1")
        assert small == ["", "response buffer too small", "failed to get call from store : 1"]
        assert cre.said(call, "await 100 1") == ["", "1=M(" + "x" * 40 + ")"]
        beyond = cre.said(call, "put 0 0801", "raw await_capabilities @0 2 $-90 100")
        assert beyond[2] == str(-len("response buffer too small"))


class TestTime:
    def test_now_is_that_of_the_mode(self, cre: Cre) -> None:
        """DON mode reads the agreed time, every other mode the node's."""
        helper = Helper(node_ns=lambda: 7, don_ns=lambda: 9)
        script = ["now", "mode 1", "now", "mode 2", "now", "mode 0", "now", "mode 5", "now"]
        assert cre.said(*script, helper=helper)[::2] == ["7", "9", "7", "7", "7"]

    def test_a_place_that_is_none_is_told(self, cre: Cre) -> None:
        """The eight bytes have to be in the memory, all of them."""
        assert cre.said("raw now $-8", "raw now $-7", "raw now -1") == ["0", "28", "28"]

    def test_clocks_tell_the_node_s_time_in_every_mode(self, cre: Cre) -> None:
        """The wall clock is the node's; the other began a nanosecond before it was first read."""
        readings = iter(range(1_000_000_000_000, 2_000_000_000_000, 5))
        helper = Helper(node_ns=lambda: next(readings), don_ns=lambda: 9)
        said = cre.said("mode 1", "clock 0", "clock 1", "clock 0", "clock 1", helper=helper)[1:]
        errnos, values = zip(*(line.split() for line in said), strict=True)
        wall, since, later, then = map(int, values)
        assert set(errnos) == {"0"}
        assert (later - wall, then - since) == (10, 10)
        assert 10**12 < wall < 10**12 + 10_000
        assert since % 5 == 1  # whatever the runtime read before
        assert cre.said("clock 2", "clock -1") == ["28 0", "28 0"]


class TestChance:
    def test_the_don_s_seed_is_of_the_execution_s_id(self, cre: Cre) -> None:
        """It is FNV-1a of the id, the same on every node; another execution has another."""
        seeds = {i: cre.said("seed 1", helper=Helper(i))[0] for i in ("", "a", "foobar")}
        known = {"": 0xCBF29CE484222325, "a": 0xAF63DC4C8601EC8C, "foobar": 0x85944171F73967E8}
        assert seeds == {i: str(value - (1 << 64)) for i, value in known.items()}

    def test_a_node_s_seed_is_another_each_time(self, cre: Cre) -> None:
        """Within one execution it stays; no other mode has one."""
        first, again, none, other = cre.said("seed 2", "seed 2", "seed 0", "seed 3")
        assert first == again != cre.said("seed 2")[0]
        assert none == other == "-1"


class TestSleep:
    """poll_oneoff, by which every sleep of a guest comes to the host."""

    def test_it_sleeps_for_the_longest(self, cre: Cre) -> None:
        """All of its clocks are answered, after the longest of them."""
        began = time.monotonic()
        assert cre.said("poll 0:1000:0 0:60000000:0") == ["0 2 0:0:0 1:0:0"]
        assert time.monotonic() - began >= 0.06

    def test_what_cannot_be_waited_for_is_told_in_its_event(self, cre: Cre) -> None:
        """Absolute times are 58, descriptors 8, and what is unknown is 28."""
        said = cre.said("poll 0:0:0 0:1:1 1:0:0 2:0:0 3:0:0 77:0:0")
        assert said == ["0 6 0:0:0 1:58:0 2:8:1 3:8:2 4:28:3 5:28:77"]

    def test_the_number_of_them_is_bounded(self, cre: Cre) -> None:
        """128 may be polled at once, and 129 or none may not."""
        assert cre.said("poll " + "0:0:0 " * 128)[0].startswith("0 128 ")
        assert cre.said("poll " + "0:0:0 " * 129)[0].startswith("28 0")
        assert cre.said("raw poll_oneoff @0 @9000 0 @60000") == ["28"]
        assert cre.said("raw poll_oneoff @0 @9000 -1 @60000") == ["28"]

    @pytest.mark.parametrize(
        "where", ["-1 @9000 1 @60000", "$-47 @9000 1 @60000", "@0 $-31 1 @60000", "@0 @9000 1 $-3"]
    )
    def test_places_that_are_none_are_told(self, cre: Cre, where: str) -> None:
        """Bad memory is 21, for what is read and for what is written."""
        assert cre.said(f"raw poll_oneoff {where}") == ["21"]

    def test_a_go_guest_can_sleep(self, cre: Cre) -> None:
        """The runtime's own timers work."""
        began = time.monotonic()
        assert cre.said("sleep 50ms") == [""]
        assert time.monotonic() - began >= 0.05


class TestLog:
    def test_a_line_is_logged_in_a_mode_alone(self, cre: Cre) -> None:
        """What is logged before the first switch of modes is dropped, as after one to none."""
        helper = Helper()
        script = [
            "log a",
            "mode 1",
            "log b",
            "mode 2",
            "log c",
            "mode 0",
            "log d",
            "mode 9",
            "log e",
        ]
        outcome = cre.run(*script, helper=helper)
        assert (helper.logged, outcome.log) == (["b", "c"], b"b\nc\n")

    def test_lines_are_counted_per_mode(self, cre: Cre) -> None:
        """What is over the number in one mode is dropped, and the other mode has its own."""
        helper, most = Helper(), _SETTINGS.cre_logs_max
        cre.run(f"mode 1\nlogs {most + 5} 1\nmode 2\nlog last", helper=helper)
        assert len(helper.logged) == most + 1
        assert helper.logged[-1] == "last"

    def test_a_line_s_length_is_bounded(self, cre: Cre) -> None:
        """A longer one is dropped, not cut."""
        helper, most = Helper(), _SETTINGS.cre_log_bytes_max
        cre.run("mode 1", f"logs 1 {most}", f"logs 1 {most + 1}", helper=helper)
        assert list(map(len, helper.logged)) == [most]

    def test_bytes_that_are_no_text_do_no_harm(self, cre: Cre) -> None:
        """They are replaced, and a line from nowhere is none."""
        helper = Helper()
        cre.run(
            "mode 1", "put 0 61ff62", "raw log @0 3", "raw log -1 3", "raw log $0 1", helper=helper
        )
        assert helper.logged == ["a\ufffdb"]

    def test_the_last_words_of_a_panic_are_in_the_log(self, cre: Cre) -> None:
        """CRE's host drops what is printed; without it nobody could tell why a guest died."""
        outcome = cre.run("mode 1", "log before", "panic at the disco")
        assert (outcome.kind, outcome.exit_code) == (OutcomeKind.FAILED, 2)
        assert re.match(rb"before\npanic: at the disco\n", outcome.log)


class TestMetrics:
    def test_a_metric_reaches_the_host(self, cre: Cre) -> None:
        """The host fills in which execution it was, and when."""
        helper = Helper(node_ns=lambda: 1_700_000_000_000_000_000)
        assert cre.said("metric 4 5 6", helper=helper) == ["0"]
        (metric,) = helper.metrics
        assert (metric.name, metric.value, metric.type) == ("nnnn", 1.5, 2)
        assert dict(metric.labels) == {"label0": "vvvvv", "label1": "vvvvvv"}
        assert metric.workflow_execution_id == helper.execution_id
        assert metric.timestamp == "2023-11-14T22:13:20+00:00"

    @pytest.mark.parametrize(
        ("obeyed", "violated"),
        [
            ("metric 1", "metric 0"),
            ("metric 128", "metric 129"),
            ("metric 1" + " 1" * 10, "metric 1" + " 1" * 11),
            ("metric 1 256", "metric 1 257"),
        ],
    )
    def test_its_limits(self, cre: Cre, obeyed: str, violated: str) -> None:
        """A metric within them is taken; one beyond is refused, and never seen."""
        helper = Helper()
        assert cre.said(obeyed, violated, helper=helper) == ["0", "-1"]
        assert len(helper.metrics) == 1

    def test_what_is_no_metric_is_refused(self, cre: Cre) -> None:
        """No bytes, bad bytes, too many bytes, and bytes from nowhere."""
        most = _SETTINGS.cre_metric_bytes_max
        script = ["put 0 ff", "raw emit_metric @0 0", "raw emit_metric @0 1"]
        script += [f"raw emit_metric @0 {most + 1}", "raw emit_metric -1 4", "raw emit_metric $0 4"]
        assert cre.said(*script)[1:] == ["-1"] * 5

    def test_none_is_taken_where_none_is_wanted(self, cre: Cre) -> None:
        """Metrics are off until somebody asks for them."""
        assert cre.said("metric 4", helper=Helper(metrics_wanted=False)) == ["-1"]
