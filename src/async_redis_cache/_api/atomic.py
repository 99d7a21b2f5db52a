"""The methods of the asynchronous API that write under a condition, which the server checks."""

from __future__ import annotations

from typing import Any, Final

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError, CacheInputError
from async_redis_cache._common.pip_services import Context

from .batch_loading import AsyncBatchLoading

__all__ = ["AsyncAtomic"]

_LEAST: Final = -(2**63)
_MOST: Final = 2**63 - 1


class AsyncAtomic(AsyncBatchLoading):
    """Adds values where there are none, and counts. Each takes one round trip, and is executed at most once."""

    async def add(self, context: Context, key: str, value: Any, timeout: Timeout = None) -> bool:
        """Store a value if the key has none, and return whether it was stored.

        Of concurrent calls for a key, in any processes, one stores its value. A load in flight does not count
        as a value and does not overwrite the added one. A stale value does not count either. A value whose tags
        were invalidated does, until it expires.

        Args:
            context: an `IContext`, a trace id or None, for errors.
            key: text of 1 to 512 bytes in UTF-8, without control characters.
            value: any value that the serializer accepts, except None.
            timeout: TTL in milliseconds, a timedelta, or FOREVER; None and 0 for `options.timeout`.

        Raises:
            CacheInputError: BAD_KEY, BAD_TIMEOUT, NOT_SERIALIZABLE, VALUE_TOO_LARGE.
            CacheOutcomeUnknown: the command was sent; the value may be stored, now or later.
            CacheError: any other error, whatever `options.fail_open` is; nothing was stored.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_key = codec.wire_key(key)
            ttl = codec.ttl(timeout)
            if value is None and not codec.caches_none:
                raise CacheInputError("NOT_SERIALIZABLE", "None is no value: `add` cannot store it")
            return await engine.atomic.add(wire_key, codec.dumps(wire_key, value), ttl)
        except CacheError as error:
            self._record_error(error, context)
            raise

    async def incr(
        self, context: Context, key: str, amount: int = 1, timeout: Timeout = None
    ) -> int:
        """Add to the integer of a key atomically, and return the result. A key without a value counts as 0.

        `retrieve` returns the integer. Needs the serializer `json` or `raw`, and no `signing_key`.

        Args:
            context: as for `add`.
            key: as for `add`.
            amount: any integer of 64 bits.
            timeout: as for `add`, for a new integer; that of an existing one does not change.

        Raises:
            CacheInputError: BAD_KEY, BAD_TIMEOUT, BAD_AMOUNT.
            CacheServerError: WRONGTYPE, the key holds something other than a plain integer, such as a loaded
                value; OVERFLOW, the result would exceed 64 bits.
            CacheUnsupported: of the serializer or a signature, which the server cannot write.
            CacheOutcomeUnknown: the command was sent; it may have been executed.
            CacheError: any other error, whatever `options.fail_open` is; nothing was changed.
        """
        return await self._count(context, key, amount, timeout)

    async def decr(
        self, context: Context, key: str, amount: int = 1, timeout: Timeout = None
    ) -> int:
        """Subtract from the integer of a key atomically, and return the result. See `incr`."""
        return await self._count(context, key, amount, timeout, sign=-1)

    async def _acquire_lock(self, _: Context, lock: Any) -> None:
        """Acquire a lock of a namespace. It is a method of its view for the spans of `otel`."""
        await lock._acquire()  # noqa: SLF001

    async def _count(
        self, context: Context, key: str, amount: int, timeout: Timeout, *, sign: int = 1
    ) -> int:
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_key = codec.wire_key(key)
            ttl = codec.ttl(timeout)
            if type(amount) is not int or not _LEAST <= sign * amount <= _MOST:
                raise CacheInputError("BAD_AMOUNT", "`amount` must be an int of 64 bits")
            codec.refuse_counters()
            return await engine.atomic.increment(wire_key, sign * amount, ttl)
        except CacheError as error:
            self._record_error(error, context)
            raise
