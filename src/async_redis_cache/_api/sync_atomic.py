"""The methods of the synchronous API that write under a condition, which the server checks."""

from __future__ import annotations

from typing import Any

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.pip_services import Context

from .sync_loading import SyncLoading

__all__ = ["SyncAtomic"]


class SyncAtomic(SyncLoading):
    """`add`, `incr` and `decr` of `RedisCache`. See `AsyncRedisCache` for what each does, takes and raises."""

    def add(self, context: Context, key: str, value: Any, timeout: Timeout = None) -> bool:
        """Store a value if the key has none, and return whether it was stored."""
        return self._call(context, self._cache.add(context, key, value, timeout))

    def incr(self, context: Context, key: str, amount: int = 1, timeout: Timeout = None) -> int:
        """Add to the integer of a key atomically, and return the result. A key without a value counts as 0."""
        return self._call(context, self._cache.incr(context, key, amount, timeout))

    def decr(self, context: Context, key: str, amount: int = 1, timeout: Timeout = None) -> int:
        """Subtract from the integer of a key atomically, and return the result. See `incr`."""
        return self._call(context, self._cache.decr(context, key, amount, timeout))

    def _acquire_lock(self, _: Context, lock: Any) -> None:
        """Acquire a lock of a namespace. See `AsyncAtomic`."""
        lock._acquire()  # noqa: SLF001
