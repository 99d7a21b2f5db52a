"""Measure durations less the time that the machine took, for tests with threads and processes."""

from __future__ import annotations

import os
import time
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NANOSECONDS = 1e9


class Contention:
    """How long processes were ready to run and did not get a core.

    Read from the kernel on Linux; elsewhere always 0. A thread that waits for an event is not ready to run, so its
    waiting is not excused.

    Args:
        processes: those that have a part in what is measured; of each the two threads that waited
            longest count, since a call needs the one that makes it and that of the private loop.
    """

    def __init__(self, *processes: int) -> None:
        self._processes = processes
        self._before = self._delays()
        # Threads that have ended since count as last seen.
        self._last = dict(self._before)

    def seconds(self) -> float:
        """The time since this object was created."""
        self._last.update(self._delays())
        waited: dict[int, list[int]] = {process: [] for process in self._processes}
        for (process, task), delay in self._last.items():
            waited[process].append(delay - self._before.get((process, task), 0))
        return sum(sum(nlargest(2, delays)) for delays in waited.values()) / NANOSECONDS

    def _delays(self) -> dict[tuple[int, str], int]:
        delays: dict[tuple[int, str], int] = {}
        for process in self._processes:
            for task in Path(f"/proc/{process}/task").glob("*"):
                try:
                    _, delay, _ = (task / "schedstat").read_text().split()
                except OSError:
                    continue  # It has ended.
                delays[process, task.name] = int(delay)
        return delays


class Stopwatch:
    """Measures calls, less the time that their threads waited for a core.

    Args:
        servers: processes that have a part in the calls.
    """

    def __init__(self, *servers: int) -> None:
        self._servers = servers
        self.slowest = 0.0
        """The longest that a call took, in seconds."""

    def time(self, call: Callable[[], object]) -> float:
        """Make a call and record its duration."""
        contention = Contention(os.getpid(), *self._servers)
        started = time.monotonic()
        call()
        seconds = time.monotonic() - started
        if seconds > self.slowest:
            # Contention is read for slow calls only.
            seconds = max(0.0, seconds - contention.seconds())
            self.slowest = max(self.slowest, seconds)
        return seconds
