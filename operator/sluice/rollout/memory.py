"""Give back what the process no longer uses."""

import contextlib
import ctypes
import gc


def trim() -> None:
    """Collect garbage and return free heap to the system; blocks for 6 to 60 ms.

    Without malloc_trim glibc's arenas keep what a burst touched (measured: 44 MB resident after
    one compile in process, 8 MB after a trim), and a reading of memory never falls.
    """
    gc.collect()
    with contextlib.suppress(AttributeError):  # musl has none, and keeps less
        ctypes.CDLL(None).malloc_trim(0)
