"""How a load is made, kept and refreshed: the options of one call, over those of the cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict

from async_redis_cache._common.durations import milliseconds
from async_redis_cache._common.errors import CacheInputError
from async_redis_cache._common.options import HOUR, LONGEST, Options
from async_redis_cache._protocol.record import (
    CLOCK_SLACK,
    HEADER_BYTES,
    RECORD_MARK,
    Record,
    untagged_value,
)

__all__ = ["Caller", "LoadOptions", "LoadPolicies", "LoadPolicy"]

_MOST_REMEMBERED: Final = 1000

Caller = Literal["caller"]
"""The calling thread, see `LoadOptions.in_thread`."""


class LoadOptions(TypedDict, total=False):
    """How one call loads. What it leaves out is as the cache was configured, in `loading.*`.

    Values outside of what is said here raise BAD_LOAD_OPTION or BAD_TIMEOUT.
    """

    refresh_at: float
    """Share of the TTL, from 0 to 1, after which a fresh value is refreshed in the background by
    one caller, while all callers get the present one. 0 for never."""
    early_refresh: float
    """The same by chance: more likely towards the end of the TTL, and earlier the longer the load
    took. The factor beta of XFetch, from 0 to 100; 1 as in the paper, 0 for never."""
    stale_timeout: int | timedelta
    """How long after its TTL a value may still be returned, while it is refreshed or because
    loading fails. Milliseconds or a timedelta; 0 for not at all."""
    soft_timeout: int | timedelta
    """How long a caller that could get a stale value waits for the load first. Milliseconds or a
    timedelta; 0 to return the stale value at once."""
    hard_timeout: int | timedelta
    """How long a load may take, and a caller waits for it; then LOAD_TIMEOUT. Milliseconds or a
    timedelta, an hour at the most; 0 for the configured default."""
    missing_timeout: int | timedelta
    """How long it is remembered that there is no value, since the loader gave None (negative
    caching). Milliseconds or a timedelta; 0 for not at all."""
    jitter: float
    """Share of the TTL, from 0 to 1, by which it is shortened by chance, so that values stored
    together do not expire together."""
    tags: Iterable[str]
    """What the loaded value can be invalidated by: up to 64, as for `store`."""
    in_thread: bool | Caller
    """Where a plain loader, which may block, is called: True for a worker thread, False for the thread of
    the event loop. `RedisCache` also takes "caller": the calling thread, which waits for it anyway, so that
    thread-locals such as a Django connection are the caller's. Such a loader holds its own caller for as
    long as it blocks, beyond `hard_timeout`; other callers of the same load are not held. A background
    refresh has no waiting caller, and calls it in a worker thread. A coroutine function runs on the event
    loop in any case."""


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """What applies to a call. Times are milliseconds."""

    refresh_at: float
    early_refresh: float
    stale_timeout: int
    soft_timeout: int
    hard_timeout: int
    missing_timeout: int
    jitter: float
    in_thread: bool | Caller = False
    may_refresh: bool = field(init=False)
    """Whether a fresh value may be loaded anew."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "may_refresh", self.refresh_at > 0 or self.early_refresh > 0)

    def payload_at_once(
        self, data: bytes, now: Callable[[], int | None], random: Callable[[], float]
    ) -> bytes | None:
        """The payload of a value that is to be given as it is, with nothing to ask for or to begin.

        Args:
            data: what was read.
            now: the time in milliseconds of the server's clock, where that is known.
            random: numbers from 0 to 1.
        """
        if not data.startswith(RECORD_MARK):
            return data
        head = untagged_value(data)
        if head is None:
            return None
        leased_until, stored_at, fresh_until, slack, cost = head
        if slack or self.may_refresh:
            moment = now()
            if moment is None or not stored_at - CLOCK_SLACK <= moment < fresh_until:
                return None
            if (
                self.may_refresh
                and moment >= leased_until
                and self._is_due(stored_at, fresh_until, cost, moment, random)
            ):
                return None
        return data[HEADER_BYTES:]

    def is_due_for_refresh(self, record: Record, now: int, random: Callable[[], float]) -> bool:
        """Whether a fresh value is to be loaded anew now, which nobody else does."""
        return record.leased_until <= now and self._is_due(
            record.stored_at, record.fresh_until, record.load_duration, now, random
        )

    def _is_due(
        self, stored_at: int, fresh_until: int, cost: int, now: int, random: Callable[[], float]
    ) -> bool:
        """Whether a value is old enough, or by chance taken for it.

        The chance is that of Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache
        Stampede Prevention", VLDB 2015.
        """
        if self.refresh_at and now >= stored_at + self.refresh_at * (fresh_until - stored_at):
            return True
        if not self.early_refresh:
            return False
        # From 1 down to, but not, 0, of which there is no logarithm.
        head_start = -math.log(1 - random()) * self.early_refresh * cost / 1000
        return now + head_start >= fresh_until

    def ttl_with_jitter(self, life: int, random: Callable[[], float]) -> int:
        """How long a value lives, so that those stored together do not end together."""
        return max(1, round(life * (1 - self.jitter * random()))) if self.jitter else life


class LoadPolicies:
    """What applies to each call."""

    def __init__(self, options: Options) -> None:
        self.default: Final = LoadPolicy(
            refresh_at=options.loading_refresh_at,
            early_refresh=options.loading_early_refresh,
            stale_timeout=options.loading_stale_timeout,
            soft_timeout=options.loading_soft_timeout,
            hard_timeout=options.loading_hard_timeout,
            missing_timeout=options.loading_missing_timeout,
            jitter=options.loading_jitter,
        )
        """What applies to a call without load options."""
        self._known: dict[tuple[Any, ...], LoadPolicy] = {}
        """By the options of a call: callers use few."""

    def of(self, given: LoadOptions) -> LoadPolicy:
        """What applies to a call that says this, its tags aside.

        Raises:
            CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION.
        """
        # With their types: 1 and True are equal, and so are 60000 and 60000.0, and only one is an option.
        said = (*given, *given.values(), *map(type, given.values()))
        try:
            policy = self._known.get(said)
        except TypeError:
            # No option is unhashable: what follows says what is wrong.
            policy = None
        if policy is None:
            policy = self._read(given)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[said] = policy
        return policy

    def _read(self, given: LoadOptions) -> LoadPolicy:
        changed = {name: _read(name, value) for name, value in given.items()}
        if changed.get("hard_timeout") == 0:
            del changed["hard_timeout"]
        return replace(self.default, **changed)


_DURATIONS: Final = frozenset({"stale_timeout", "soft_timeout", "hard_timeout", "missing_timeout"})
_MOST: Final = {"refresh_at": 1.0, "early_refresh": 100.0, "jitter": 1.0}


def _read(name: str, value: Any) -> Any:
    if name in _DURATIONS:
        return milliseconds(value, most=HOUR if name == "hard_timeout" else LONGEST)
    if name == "in_thread":
        if not isinstance(value, bool) and value != "caller":
            raise CacheInputError("BAD_LOAD_OPTION", "in_thread is True, False or 'caller'")
        return value
    if name not in _MOST:
        raise TypeError(f"{name} is no option of a load")
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value <= _MOST[name]
    ):
        problem = f"{name} is a number from 0 to {_MOST[name]:g}"
        raise CacheInputError("BAD_LOAD_OPTION", problem)
    return float(value)
