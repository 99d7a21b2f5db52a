"""The loggers and counters of a Pip.Services container, which get the log records and counters of an open cache."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread

from async_redis_cache._common.health_log import Record
from async_redis_cache._common.stats import DEPRECATED_NAMES, LEVELS, CacheStats

__all__ = ["Monitors", "MonitorsOf"]

_INTERVAL: Final = 10.0
"""Seconds between two reports of the counters."""
_PATIENCE: Final = 1.0
"""Seconds that closing waits for the last report."""
_PREFIX: Final = "cache."


class Logs(Protocol):
    """The methods used of an `ILogger`."""

    def warn(self, context: Any, message: Any) -> Any:
        """Log that something is failing."""
        ...

    def info(self, context: Any, message: Any) -> Any:
        """Log that something works again."""
        ...


class Counts(Protocol):
    """The methods used of an `ICounters`."""

    def increment(self, name: str, value: float) -> Any:
        """Add to a counter."""
        ...

    def last(self, name: str, value: float) -> Any:
        """Set a gauge."""
        ...


class MonitorsOf(Protocol):
    """Finds the loggers and counters. See `Settings`."""

    def monitors(self) -> tuple[Sequence[Logs], Sequence[Counts]]:
        """Return the loggers and the counters."""
        ...


class Monitors:
    """Reports the log records and counters of an open cache to the loggers and counters of a container.

    These may block, for instance to send what they get. So a worker thread calls them, in the order of the records,
    and no call of the cache waits for them.

    Args:
        settings: finds the loggers and counters.
        stats: the counters of the cache.
    """

    def __init__(self, settings: MonitorsOf, stats: CacheStats) -> None:
        self._loop = asyncio.get_running_loop()
        self._logs, self._counts = settings.monitors()
        self._stats = stats
        self._reported = stats.snapshot()
        self._records: deque[Record] = deque()
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        # A task for each report, since one for all would be left unfinished if the event loop is closed first.
        self._reporting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to report the counters."""
        if self._counts:
            self._timer = self._loop.call_later(
                _INTERVAL, self._tick, context=contextvars.Context()
            )

    def add(self, record: Record) -> None:
        """Report a record soon. May be called in any thread."""
        if self._logs:
            self._records.append(record)
            # The event loop may be closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._report_soon)

    async def stop(self) -> None:
        """Report for the last time, and wait up to a second for that."""
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
        self._timer = self._loop.call_later(_INTERVAL, self._tick, context=contextvars.Context())
        self._report_soon()

    def _report_soon(self) -> None:
        self._is_due = True
        if self._reporting is None:
            self._reporting = self._loop.create_task(self._report(), context=contextvars.Context())

    async def _report(self) -> None:
        try:
            while self._is_due:
                self._is_due = False
                records = [self._records.popleft() for _ in range(len(self._records))]
                before, self._reported = self._reported, self._stats.snapshot()
                report = partial(self._pass_on, records, before, self._reported)
                # The interpreter may be ending, so that no thread can be started.
                with contextlib.suppress(RuntimeError):
                    await anyio.to_thread.run_sync(report, abandon_on_cancel=True)
        finally:
            self._reporting = None

    def _pass_on(self, records: Sequence[Record], before: CacheStats, now: CacheStats) -> None:
        """Call the loggers and counters. Runs in a worker thread."""
        for logs in self._logs:
            for record in records:
                log = logs.warn if record.event.level >= logging.WARNING else logs.info
                with contextlib.suppress(Exception):
                    log(None, record.message)
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
