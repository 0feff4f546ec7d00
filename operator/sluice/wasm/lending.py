"""The module of an engine: lent to its executions, and taken away, given back or exchanged."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sluice.errors import EngineRefused
from sluice.reasons import Reason
from sluice.wasm.cache import Entry
from sluice.wasm.runtime import Module


class Lending:
    """What the engines of all interfaces are in the eyes of who looks after modules.

    A module can be taken away while nothing runs, and given back, and exchanged for that of
    another tier at any time: each execution ends on the code it began on.
    """

    def __init__(self, module: Module) -> None:
        self._module: Module | None = module
        self._entry = module.entry
        self._running = 0
        self._lock = threading.Lock()

    @property
    def entry(self) -> Entry:
        """What is known of the code that serves, or that served last; there is always one."""
        return self._entry

    @property
    def mapped(self) -> bool:
        return self._module is not None

    @property
    def module(self) -> Module:
        """The module that the next execution will run on.

        Raises:
            EngineRefused: it is unmapped.

        """
        if module := self._module:
            return module
        raise EngineRefused(
            Reason.ENGINE_REFUSED, f"the module sha256:{self._entry.digest[:12]} is not mapped"
        )

    def unmap(self) -> bool:
        """Let go of the module, and return True; False while an execution runs on it."""
        with self._lock:
            if self._running:
                return False
            self._module = None
            return True

    def map(self, module: Module) -> None:
        """Run what comes from now on ``module``, which is the same revision's, of any tier."""
        assert module.entry.digest == self._entry.digest, "another module is another engine"
        with self._lock:
            self._module, self._entry = module, module.entry

    @contextmanager
    def lent(self) -> Iterator[Module]:
        """Yield the module, which stays mapped until the block is left."""
        with self._lock:
            module = self.module
            self._running += 1
        try:
            yield module
        finally:
            with self._lock:
                self._running -= 1
