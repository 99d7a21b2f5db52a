"""The clock of deadlines and intervals."""

from __future__ import annotations

import time

__all__ = ["MonotonicClock"]


class MonotonicClock:
    """`time.monotonic`, also while a test replaces that: freezegun does so in every module that has imported it.

    It has the method of an event loop, and can be used where only `loop.time()` is needed. `loop.time()` of uvloop is
    outdated in other threads than the loop's.
    """

    time = staticmethod(time.monotonic)
