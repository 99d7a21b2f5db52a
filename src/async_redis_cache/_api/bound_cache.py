"""A cache bound to a database transaction: invalidations that are sent once the transaction has committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.health_log import Record, log_record
from async_redis_cache._common.key_rules import (
    MOST_TAGS,
    LongKeys,
    check_key,
    check_keys,
    encode_name,
)
from async_redis_cache._common.log_events import INVALIDATIONS_FAILED
from async_redis_cache._engine.pending_invalidations import is_pending_failure

from .async_cache import AsyncRedisCache
from .namespace import Namespace
from .sync_cache import RedisCache
from .sync_namespace import SyncNamespace

__all__ = ["Bindable", "BoundCache", "Invalidations", "SyncBindable", "is_async"]

SyncBindable = RedisCache | SyncNamespace[Any]
"""What can be bound to a synchronous transaction."""
Bindable = AsyncRedisCache | Namespace[Any] | SyncBindable
"""What can be bound to a transaction."""
_Cache = AsyncRedisCache | RedisCache


def is_async(cache: Bindable) -> bool:
    """Return whether the methods of this cache, or this namespace, are coroutine functions.

    Raises:
        TypeError: it is neither a cache nor a namespace of this library.
    """
    if isinstance(cache, AsyncRedisCache | Namespace):
        return True
    if isinstance(cache, RedisCache | SyncNamespace):  # pyright: ignore[reportUnnecessaryIsInstance]
        return False
    kind = type(cache).__name__
    raise TypeError(f"expected a cache or a namespace of async_redis_cache, not {kind}")


class BoundCache:
    """Records invalidations for the current transaction. Returned by `bind`.

    Nothing is sent before the transaction commits, so reads return the old values until then. All methods are plain
    functions, also where the cache is asynchronous.
    """

    def __init__(self, cache: Bindable, defer: Callable[[Invalidations], None]) -> None:
        self._long_keys: LongKeys = "raise"
        self._cache: _Cache
        if isinstance(cache, (AsyncRedisCache, RedisCache)):
            self._cache = cache
        else:
            self._cache = cache._view  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            self._long_keys = cache._defaults.view.long_keys  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._defer = defer

    def delete(self, key: str) -> None:
        """Delete a key when the transaction commits.

        Raises:
            CacheInputError: BAD_KEY.
            RuntimeError: the SQLAlchemy session has not begun a transaction.
        """
        self.delete_many((key,))

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete many keys when the transaction commits. Errors as for `delete`."""
        names = dict.fromkeys(check_keys(keys))
        for key in names:
            check_key(key, self._long_keys)
        recorded = Invalidations()
        recorded.add(self._cache, keys=names)
        self._defer(recorded)

    def invalidate_tags(self, *tags: str) -> None:
        """Invalidate all values that have any of these tags, when the transaction commits.

        Raises:
            CacheInputError: BAD_TAG.
            RuntimeError: as for `delete`.
        """
        names = dict.fromkeys(tags)
        for tag in names:
            encode_name(tag, "tag")
        recorded = Invalidations()
        recorded.add(self._cache, tags=names)
        self._defer(recorded)


class Invalidations:
    """Keys to delete and tags to invalidate, by cache."""

    def __init__(self) -> None:
        self._keys: dict[_Cache, dict[str, None]] = {}
        self._tags: dict[_Cache, dict[str, None]] = {}

    def add(self, cache: _Cache, *, keys: Iterable[str] = (), tags: Iterable[str] = ()) -> None:
        """Add keys and tags of a cache."""
        if keys:
            self._keys.setdefault(cache, {}).update(dict.fromkeys(keys))
        if tags:
            self._tags.setdefault(cache, {}).update(dict.fromkeys(tags))

    def merge(self, other: Invalidations) -> None:
        """Add those of another transaction, such as a savepoint that was released."""
        for cache, keys in other._keys.items():
            self.add(cache, keys=keys)
        for cache, tags in other._tags.items():
            self.add(cache, tags=tags)

    def send(self) -> None:
        """Send them, for synchronous caches. The transaction has committed: errors are logged and not raised."""
        for cache, request in self._requests():
            try:
                request()
            except CacheError as error:
                _log_failure(cache, error)

    async def send_async(self) -> None:
        """As `send`, for asynchronous caches; those of one cache are sent in one pipeline."""
        await asyncio.gather(*(_send(cache, request) for cache, request in self._requests()))

    def _requests(self) -> Iterator[tuple[_Cache, Callable[[], Any]]]:
        for cache, keys in self._keys.items():
            yield cache, partial(cache.remove_many, None, keys)
        for cache, names in self._tags.items():
            tags = tuple(names)
            for start in range(0, len(tags), MOST_TAGS):
                some = tags[start : start + MOST_TAGS]
                yield cache, partial(cache.invalidate_tags, None, *some)


async def _send(cache: _Cache, request: Callable[[], Any]) -> None:
    try:
        await request()
    except CacheError as error:
        _log_failure(cache, error)


def _log_failure(cache: _Cache, error: CacheError) -> None:
    # Pending invalidations are sent as soon as the server accepts them, and the engine has logged them.
    if not is_pending_failure(error):
        asynchronous = cache if isinstance(cache, AsyncRedisCache) else cache._cache  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        name = asynchronous._lifecycle.name  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        log_record(Record(INVALIDATIONS_FAILED, "", error.code, cache=name))
