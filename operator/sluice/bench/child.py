"""One strategy in a process of its own, started by ``reboot`` and told what to do in one word."""

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sluice.bench.inputs import Inputs
from sluice.bench.stage import Order, Stage


def tell(event: str, **facts: Any) -> None:
    """Write one line for the parent; its clock is the same."""
    sys.stdout.write(json.dumps({"at": time.monotonic(), "event": event} | facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    over = threading.Event()
    threading.Thread(target=_leash, args=(over,), daemon=True).start()
    # Each of them would be an operator in a pod: the same libraries are in memory from the start,
    # and no strategy looks small because it could not talk to a cluster.
    importlib.import_module("sluice.adapters.kubernetes.watch")
    from sluice.bench import operated, strategies

    stage = Stage(order, Inputs(Path(order.inputs)), tell, over.wait)
    run = strategies.RUNS.get(order.strategy, operated.run)
    tell("begin")
    run(stage)
    sys.stdout.flush()
    os._exit(0)  # unmapping a gigabyte is nobody's business any more


def _leash(over: threading.Event) -> None:
    # A word says that all is measured; the end of the pipe, that the parent is gone.
    if sys.stdin.readline():
        over.set()
    else:
        os._exit(1)


if __name__ == "__main__":
    main()
