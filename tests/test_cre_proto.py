"""The checked-in Python of CRE's messages is what the .proto files beside it say."""

import subprocess
import sys
from pathlib import Path

_OPERATOR = Path(__file__).parents[1] / "operator"
_PROTO = _OPERATOR / "sluice" / "cre" / "proto"


def test_the_generated_messages_are_up_to_date(tmp_path: Path) -> None:
    """`make proto` would change nothing."""
    sources = sorted(map(str, _PROTO.glob("*.proto")))
    to = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_OPERATOR}", *to, *sources]
    subprocess.run(command, check=True, timeout=60)
    made = {path.name: path.read_text() for path in tmp_path.rglob("*_pb2.py*")}
    assert made == {path.name: path.read_text() for path in _PROTO.glob("*_pb2.py*")}
