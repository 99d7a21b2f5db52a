"""How a value is loaded, stored and refreshed: the options of one call, over those of the cache."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict, cast

from async_redis_cache._common.durations import HOUR, LONGEST, Forever, milliseconds
from async_redis_cache._common.errors import CacheInputError
from async_redis_cache._common.options import Options
from async_redis_cache._protocol.record import (
    CLOCK_SLACK,
    HEADER_BYTES,
    RECORD_MARK,
    Record,
    untagged_value,
)

__all__ = [
    "Caller",
    "Condition",
    "LoadOptions",
    "LoadPolicies",
    "LoadPolicy",
    "checked_condition",
]

_MAX_KNOWN: Final = 1000

Condition = Callable[[Any], object]
"""A function of the result of a loader that returns whether to store it."""
Caller = Literal["caller"]
"""Run the loader in the calling thread, see `LoadOptions.in_thread`."""


class LoadOptions(TypedDict, total=False):
    """Options of one loading call. Those left out are as configured for the cache, in `loading.*`.

    Values outside the ranges given here raise BAD_LOAD_OPTION or BAD_TIMEOUT.
    """

    refresh_at: float
    """Refresh-ahead: the share of the TTL, from 0 to 1, after which one caller starts a background refresh
    of a fresh value; all callers get the present value. 0 for never."""
    early_refresh: float
    """Refresh-ahead at random: more likely towards the end of the TTL, and earlier the longer the load
    took. The factor beta of XFetch, from 0 to 100; 1 as in the paper, 0 for never."""
    stale_timeout: int | timedelta | Forever
    """How long after its TTL a value may still be returned, while it is reloaded (stale-while-revalidate) or
    because loading fails (stale-if-error). Milliseconds, a timedelta or FOREVER; 0 for not at all."""
    soft_timeout: int | timedelta
    """How long a caller waits for the load before it gets the stale value. Milliseconds or a timedelta;
    0 to return the stale value at once."""
    hard_timeout: int | timedelta
    """How long a load may take, and a caller waits for it, before LOAD_TIMEOUT is raised. Milliseconds or a
    timedelta, at most an hour; 0 for the configured default."""
    missing_timeout: int | timedelta | Forever
    """Negative caching: how long a None of the loader is stored. Milliseconds, a timedelta or FOREVER;
    0 for not at all."""
    jitter: float
    """The share of the TTL, from 0 to 1, by which it is shortened at random at most, so that values stored
    together do not expire together. FOREVER is not shortened."""
    tags: Iterable[str]
    """Tags of the loaded value, by which it can be invalidated: up to 64, as for `store`."""
    condition: Condition
    """A function of the loader's result, called where the serializer is: the result is stored if it returns true,
    and only returned to the callers of the load otherwise. A value that is stored already stays, unless the result is
    None: that removes it, except with `cache_none`. It is called for None if None would be stored. Of a load with
    several callers, the condition of the one that started it decides."""
    in_thread: bool | Caller
    """Where a plain function, which may block, is called as the loader: True for a worker thread, False for
    the thread of the event loop. `RedisCache` also accepts "caller": the calling thread, so that thread-locals
    such as a Django connection are those of the caller. Such a loader blocks its own caller for as long as it
    runs, even beyond `hard_timeout`, and no other callers of the same load. A background refresh has no
    waiting caller, and calls it in a worker thread. A coroutine function always runs on the event loop."""


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """The options that apply to a loading call. Durations are milliseconds."""

    refresh_at: float
    early_refresh: float
    stale_timeout: int
    soft_timeout: int
    hard_timeout: int
    missing_timeout: int
    jitter: float
    in_thread: bool | Caller = False
    condition: Condition | None = None
    may_refresh: bool = field(init=False)
    """Whether a fresh value can be due for refresh."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "may_refresh", self.refresh_at > 0 or self.early_refresh > 0)

    def usable_payload(
        self, data: bytes, now: Callable[[], int | None], random: Callable[[], float]
    ) -> bytes | None:
        """Return the payload of a value that can be returned without a request or a background refresh.

        Args:
            data: data read from the server.
            now: returns the time of the server's clock in milliseconds; None if it is not known.
            random: returns numbers from 0 to 1.

        Returns:
            None if the value may be stale, due for refresh or invalidated by a tag, or if there is none.
        """
        if not data.startswith(RECORD_MARK):
            return data
        header = untagged_value(data)
        if header is None:
            return None
        leased_until, stored_at, fresh_until, stale_ttl, load_duration = header
        if stale_ttl or self.may_refresh:
            moment = now()
            if moment is None or not stored_at - CLOCK_SLACK <= moment < fresh_until:
                return None
            if (
                self.may_refresh
                and moment >= leased_until
                and self._is_due(stored_at, fresh_until, load_duration, moment, random)
            ):
                return None
        return data[HEADER_BYTES:]

    def is_due_for_refresh(self, record: Record, now: int, random: Callable[[], float]) -> bool:
        """Return whether a fresh value should be refreshed now, and no other process does so."""
        return record.leased_until <= now and self._is_due(
            record.stored_at, record.fresh_until, record.load_duration, now, random
        )

    def _is_due(
        self,
        stored_at: int,
        fresh_until: int,
        load_duration: int,
        now: int,
        random: Callable[[], float],
    ) -> bool:
        """Return whether a value has reached `refresh_at`, or is due at random by `early_refresh`.

        The probability is that of Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache
        Stampede Prevention", VLDB 2015.
        """
        if self.refresh_at and now >= stored_at + self.refresh_at * (fresh_until - stored_at):
            return True
        if not self.early_refresh:
            return False
        # 1 - random() is never 0, which has no logarithm. The duration is in microseconds.
        head_start = -math.log(1 - random()) * self.early_refresh * load_duration / 1000
        return now + head_start >= fresh_until

    def ttl_with_jitter(self, ttl: int, random: Callable[[], float]) -> int:
        """Return a TTL shortened at random, in milliseconds, at least 1. FOREVER is not shortened."""
        if not self.jitter or ttl > LONGEST:
            return ttl
        return max(1, round(ttl * (1 - self.jitter * random())))


class LoadPolicies:
    """The policies of the loading calls of a cache, from its options and those of each call."""

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
        """The policy of a call without load options."""
        self._known: dict[tuple[Any, ...], LoadPolicy] = {}
        """By the options of a call: a program uses few combinations."""

    def with_defaults(self, given: LoadOptions) -> LoadPolicies:
        """Return policies whose default has these options, over those of this default.

        Raises:
            CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION.
        """
        policies = copy.copy(self)
        vars(policies).update(default=self.of(given), _known={})
        return policies

    def of(self, given: LoadOptions) -> LoadPolicy:
        """Return the policy of a call with these options, its tags excepted.

        Raises:
            CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION.
        """
        # With their types: 1 equals True, and 60000 equals 60000.0, but only one of each is a valid option.
        call_options = (*given, *given.values(), *map(type, given.values()))
        try:
            policy = self._known.get(call_options)
        except TypeError:
            # No valid option is unhashable: `_read` raises what is wrong with it.
            policy = None
        if policy is None:
            policy = self._read(given)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[call_options] = policy
        return policy

    def _read(self, given: LoadOptions) -> LoadPolicy:
        changed = {name: _read(name, value) for name, value in given.items()}
        if changed.get("hard_timeout") == 0:
            del changed["hard_timeout"]
        return replace(self.default, **changed)


_DURATIONS: Final = frozenset({"stale_timeout", "soft_timeout", "hard_timeout", "missing_timeout"})
_TTLS: Final = frozenset({"stale_timeout", "missing_timeout"})
_MAXIMUM: Final = {"refresh_at": 1.0, "early_refresh": 100.0, "jitter": 1.0}


def checked_condition(condition: Any) -> Condition:
    """Return the `condition` of a call.

    Raises:
        CacheInputError: BAD_LOAD_OPTION, it is no function, or a coroutine function.
    """
    if callable(condition) and not inspect.iscoroutinefunction(condition):
        return cast("Condition", condition)
    raise CacheInputError("BAD_LOAD_OPTION", "condition must be a plain function of the result")


def _read(name: str, value: Any) -> Any:
    if name in _DURATIONS:
        most = HOUR if name == "hard_timeout" else LONGEST
        return milliseconds(value, most=most, name=name, may_be_forever=name in _TTLS)
    if name == "in_thread":
        if not isinstance(value, bool) and value != "caller":
            raise CacheInputError("BAD_LOAD_OPTION", "in_thread must be True, False or 'caller'")
        return value
    if name == "condition":
        return checked_condition(value)
    if name not in _MAXIMUM:
        import difflib  # noqa: PLC0415  for errors only

        # A cache has a `timeout` and a namespace a `ttl`.
        known = {"ttl": ["timeout"], "timeout": ["ttl"]}.get(name) or difflib.get_close_matches(
            name, LoadOptions.__annotations__, 1
        )
        hint = f"; did you mean `{known[0]}`?" if known else ""
        raise TypeError(f"unknown load option `{name}`{hint}")
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0 <= value <= _MAXIMUM[name]
    ):
        problem = f"{name} must be a number from 0 to {_MAXIMUM[name]:g}"
        raise CacheInputError("BAD_LOAD_OPTION", problem)
    return float(value)
