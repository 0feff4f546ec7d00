"""One task of ``sluice bench run`` in a process of its own: an order in, figures out.

A file beside ``child`` because it must not import what a start is measured with: here the loop
and the journal are looked at, and kopf in memory would only make it slower to begin.
"""

import json
import sys

from sluice import logs
from sluice.bench.tasks import Order, run


def main() -> None:
    # As the operator logs: a line for each execution is a part of what one costs.
    logs.configure("logfmt", "info")
    json.dump(run(Order(**json.loads(sys.argv[1]))), sys.stdout)


if __name__ == "__main__":
    main()
