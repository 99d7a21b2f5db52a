"""The loggers and counters of a container, where it has some: told of what the log and `stats()` say.

They may do anything that takes time, such as sending what they were told: so a worker thread tells them, in
the order in which it happened, and no call of the cache ever waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import fields
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread

from async_redis_cache._common.health_log import Record
from async_redis_cache._common.stats import DEPRECATED_NAMES, LEVELS, CacheStats

__all__ = ["Monitors", "MonitorsOf"]

_INTERVAL: Final = 10.0
"""Seconds between two reports of counts."""
_PATIENCE: Final = 1.0
"""Seconds that a close waits for the last one."""
_PREFIX: Final = "cache."


class Logs(Protocol):
    """What is needed of an `ILogger`."""

    def warn(self, context: Any, message: Any) -> Any:
        """It is worse."""
        ...

    def info(self, context: Any, message: Any) -> Any:
        """It is better."""
        ...


class Counts(Protocol):
    """What is needed of an `ICounters`."""

    def increment(self, name: str, value: float) -> Any:
        """So much more than before."""
        ...

    def last(self, name: str, value: float) -> Any:
        """So much now."""
        ...


class MonitorsOf(Protocol):
    """Where they are found."""

    def monitors(self) -> tuple[Sequence[Logs], Sequence[Counts]]:
        """The loggers and the counters."""
        ...


class Monitors:
    """Reports what happens in one open cache.

    Args:
        settings: where they are found.
        stats: what is counted.
    """

    def __init__(self, settings: MonitorsOf, stats: CacheStats) -> None:
        self._loop = asyncio.get_running_loop()
        self._logs, self._counts = settings.monitors()
        self._stats = stats
        self._reported = stats.snapshot()
        self._records: deque[Record] = deque()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        # Not one task for all the time: a loop that is closed without us would leave it unfinished.
        self._reporting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Report from now on."""
        if self._counts:
            self._timer = self._loop.call_later(_INTERVAL, self._tick, context=Context())

    def told(self, record: Record) -> None:
        """Something has happened, in the loop's thread or in another."""
        if self._logs:
            self._records.append(record)
            # The loop may be closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._report_soon)

    async def stop(self) -> None:
        """Report for the last time, and wait for that as long as is decent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._timer is not None or self._records:
            self._report_soon()
        if self._reporting is not None:
            with anyio.CancelScope(shield=True):
                _, late = await asyncio.wait((self._reporting,), timeout=_PATIENCE)
                if late:
                    self._reporting.cancel()
                    await asyncio.wait(late)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_INTERVAL, self._tick, context=Context())
        self._report_soon()

    def _report_soon(self) -> None:
        self._is_due = True
        if self._reporting is None:
            self._reporting = self._loop.create_task(self._report(), context=Context())

    async def _report(self) -> None:
        try:
            while self._is_due:
                self._is_due = False
                records = [self._records.popleft() for _ in range(len(self._records))]
                before, self._reported = self._reported, self._stats.snapshot()
                report = partial(self._pass_on, records, before, self._reported)
                # The interpreter may be ending, and start no thread any more.
                with contextlib.suppress(RuntimeError):
                    await anyio.to_thread.run_sync(report, abandon_on_cancel=True)
        finally:
            self._reporting = None

    def _pass_on(self, records: Sequence[Record], before: CacheStats, now: CacheStats) -> None:
        """On a worker thread."""
        for logs in self._logs:
            for record in records:
                tell = logs.warn if record.event.level >= logging.WARNING else logs.info
                with contextlib.suppress(Exception):
                    tell(None, record.message)
        growth, levels = _growth(before, now), _levels(now)
        for counts in self._counts:
            for name, value in growth.items():
                with contextlib.suppress(Exception):
                    counts.increment(name, value)
            for name, value in levels.items():
                with contextlib.suppress(Exception):
                    counts.last(name, value)


def _growth(before: CacheStats, now: CacheStats) -> Mapping[str, int]:
    grown = {
        field.name: getattr(now, field.name) - getattr(before, field.name)
        for field in fields(CacheStats)
        if field.name not in LEVELS
    }
    return _as_counters({name: value for name, value in grown.items() if value})


def _levels(now: CacheStats) -> Mapping[str, int]:
    return _as_counters({name: int(getattr(now, name)) for name in sorted(LEVELS)})


def _as_counters(values: Mapping[str, int]) -> Mapping[str, int]:
    """The values by the name of their counter, renamed ones also by their deprecated name."""
    deprecated = {
        DEPRECATED_NAMES[name]: values[name] for name in values if name in DEPRECATED_NAMES
    }
    return {_PREFIX + name: value for name, value in {**values, **deprecated}.items()}
