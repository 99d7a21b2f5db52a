"""The synchronous API, which calls the asynchronous one through a private event loop; and the factory of both."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheStateError
from async_redis_cache._common.forks import after_fork_in_child
from async_redis_cache._common.option_keywords import CacheOptions, SerializerName
from async_redis_cache._common.pip_services import (
    ConfigParams,
    Context,
    Descriptor,
    Factory,
    ICache,
    IConfigurable,
    IOpenable,
    IReferenceable,
    IReferences,
)
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._runtime.portal import Portal, PortalRefusedError
from async_redis_cache._runtime.stepping import drive
from async_redis_cache._values.serializers import Serializer

from .async_cache import AsyncRedisCache
from .calling_thread import NOT_OPEN, CallerCache
from .sync_namespaces import SyncNamespaces

__all__ = ["DefaultRedisFactory", "RedisCache"]


T = TypeVar("T")


class RedisCache(SyncNamespaces, ICache, IConfigurable, IReferenceable, IOpenable):
    """`AsyncRedisCache` for synchronous callers: the same methods, which block until their result is there.

    Any number of threads may share a cache; their concurrent calls are sent in one pipeline. An open cache
    works in a forked process too, which opens connections of its own at its first call. A cache that is not
    closed is closed when the interpreter ends. See `AsyncRedisCache` for what each method does, takes and
    raises.

    Args:
        serializer: an object with `dumps` and `loads`, instead of the one that `options.serializer` names.

    Example:
        ```python
        cache = RedisCache()
        cache.configure(ConfigParams.from_tuples("host", "localhost", "port", 6379))
        cache.open("123")
        cache.store("123", "key1", "ABC", None)
        value = cache.retrieve("123", "key1")  # "ABC"
        ```
    """

    def __init__(self, *, serializer: Serializer | None = None) -> None:
        self._cache: AsyncRedisCache = CallerCache(serializer=serializer)
        self._portal: Portal | None = None
        self._patience = 0.0
        """Seconds that a call may take without its loads, even if the private loop is blocked."""
        self._ending: Portal | None = None
        """A portal that is being opened or closed, or was when an interrupt came; ended before the next is opened."""
        self._finalizer: weakref.finalize[Any, RedisCache] | None = None
        self._lock = threading.Lock()
        self._forked = False
        _CACHES.add(self)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        serializer: Serializer | SerializerName | None = None,
        **options: Unpack[CacheOptions],
    ) -> Self:
        """Create and configure a cache for a server; it is not yet open. See `AsyncRedisCache.from_url`."""
        cache = cls()
        cache._cache = CallerCache.from_url(url, serializer=serializer, **options)
        return cache

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._cache!r}>"

    def configure(self, config: ConfigParams) -> None:
        """Replace the configuration. See `AsyncRedisCache.configure`."""
        self._cache.configure(config)

    def set_references(self, references: IReferences) -> None:
        """Set the components to look up connections in and to report to. See `AsyncRedisCache.set_references`."""
        self._cache.set_references(references)

    def is_open(self) -> bool:
        """Return whether the cache was opened and not closed since, and its private event loop runs."""
        portal = self._portal
        return self._forked or (portal is not None and not portal.is_closed)

    def open(self, context: Context) -> None:
        """Start the private event loop and open the cache on it.

        Raises:
            CacheStateError: NOT_OPENED, if a loader still blocks the private loop of a previous `open`;
                IN_EVENT_LOOP on the private loop of a cache.
            CacheError: as for `AsyncRedisCache.open`.
        """
        try:
            # Before the lock: a thread that holds it may be waiting for this one.
            Portal.refuse_in_event_loop()
            with self._lock:
                if self._portal is None or self._portal.is_closed:
                    self._ending, self._portal = self._portal or self._ending, None
                    self._open(partial(self._cache.open, context))
        except PortalRefusedError as refusal:
            raise self._refused(refusal, context) from None

    def close(self, context: Context) -> None:
        """Close the cache and end the private event loop.

        If a loader blocks that loop, this waits for 5 seconds or `options.command_timeout`, whichever is
        longer. The connections are closed once the loader returns.
        """
        try:
            Portal.refuse_in_event_loop()
        except PortalRefusedError as refusal:
            raise self._refused(refusal, context) from None
        with self._lock:
            self._forked = False
            if self._portal is not None:
                self._ending, self._portal = self._portal, None
            self._end_portal()

    def __enter__(self) -> Self:
        self.open(None)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(None)

    def store(
        self,
        context: Context,
        key: str,
        value: T,
        timeout: Timeout = None,
        *,
        tags: Iterable[str] = (),
    ) -> T:
        """Store a value and return it. Storing None removes the key."""
        return self._call(context, self._cache.store(context, key, value, timeout, tags=tags))

    @overload
    def retrieve(self, context: Context, key: str, *, type: type[T]) -> T | None: ...
    @overload
    def retrieve(self, context: Context, key: str, *, type: Any = None) -> Any: ...
    def retrieve(self, context: Context, key: str, *, type: Any = None) -> Any:
        """Return the value of a key; None if there is none, or if it has expired."""
        return self._call(context, self._cache.retrieve(context, key, type=type))

    def remove(self, context: Context, key: str) -> Any:
        """Remove a key and return the value it had, or None."""
        return self._call(context, self._cache.remove(context, key))

    def store_many(
        self,
        context: Context,
        mapping: Mapping[str, Any],
        timeout: Timeout = None,
        *,
        tags: Iterable[str] = (),
    ) -> None:
        """Store many values, all with the same timeout and tags. Keys whose value is None are removed."""
        self._call(context, self._cache.store_many(context, mapping, timeout, tags=tags))

    @overload
    def retrieve_many(
        self, context: Context, keys: Iterable[str], *, type: type[T]
    ) -> dict[str, T]: ...
    @overload
    def retrieve_many(
        self, context: Context, keys: Iterable[str], *, type: Any = None
    ) -> dict[str, Any]: ...
    def retrieve_many(
        self, context: Context, keys: Iterable[str], *, type: Any = None
    ) -> dict[str, Any]:
        """Return the values of many keys as a dict in the order of the keys, without the keys that have none."""
        return self._call(context, self._cache.retrieve_many(context, keys, type=type))

    def remove_many(self, context: Context, keys: Iterable[str]) -> int:
        """Remove many keys and return how many of them existed."""
        return self._call(context, self._cache.remove_many(context, keys))

    def invalidate_tags(self, context: Context, *tags: str) -> None:
        """Invalidate all values that have any of these tags, however many there are."""
        self._call(context, self._cache.invalidate_tags(context, *tags))

    def contains(self, context: Context, key: str) -> bool:
        """Return whether the key has a value, that is, whether `retrieve` would return one."""
        return self._call(context, self._cache.contains(context, key))

    def touch(self, context: Context, key: str, timeout: Timeout = None) -> bool:
        """Set the TTL of a value to `timeout`, from now on; return whether there is one, as `contains` does."""
        return self._call(context, self._cache.touch(context, key, timeout))

    def time_to_live(self, context: Context, key: str) -> int | None:
        """Return the milliseconds until a value expires, or None if there is no value, as for `contains`."""
        return self._call(context, self._cache.time_to_live(context, key))

    def clear(self, context: Context) -> int:
        """Remove all values of this cache and no other keys; return how many there were."""
        return self._call(context, self._cache.clear(context))

    def ping(self, context: Context) -> None:
        """Send a PING to the server and wait for its reply."""
        self._call(context, self._cache.ping(context))

    def stats(self) -> CacheStats:
        """Return a snapshot of the counters of this cache. Closing the cache does not reset them."""
        return self._cache.stats()

    def _call(self, context: Context, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return drive(self._portal or self._reopened(), coroutine, self._patience)
        except BaseException as error:
            # It may not have been started.
            coroutine.close()
            if isinstance(error, PortalRefusedError):
                raise self._refused(error, context) from None
            raise

    def _refused(self, refusal: PortalRefusedError, context: Context) -> CacheStateError:
        error = CacheStateError(refusal.code, refusal.problem)
        self._cache._record_error(error, context)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return error

    def _open(self, opening: Callable[[], Coroutine[Any, Any, None]]) -> Portal:
        if not self._end_portal():
            problem = "a loader still blocks the private event loop of this cache, which was closed"
            raise PortalRefusedError("NOT_OPENED", problem)
        options = self._cache._lifecycle.settings.options  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._patience = options.command_seconds + _GRACE
        portal = self._ending = Portal(partial(self._cache.close, None), name=options.name)
        try:
            portal.start()
            portal.run(opening)
        except BaseException:
            self._end_portal()
            raise
        self._ending, self._portal = None, portal
        self._forked = False
        # Runs when the interpreter ends or the cache is collected, if it was not closed.
        self._finalizer = weakref.finalize(self, _finalize, portal, os.getpid())
        return portal

    def _end_portal(self) -> bool:
        """End a portal that is being opened or closed; return whether it has ended within the time limit."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._ending is not None:
            if not self._ending.close(max(self._patience, _CLOSE_TIMEOUT)):
                return False
            self._ending = None
        return True

    def _reopened(self) -> Portal:
        """Return the portal, which is opened again if this process was forked while the cache was open."""
        if self._forked:
            with self._lock:
                if self._forked:
                    reopen = self._cache._reopen  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                    return self._open(reopen)
        portal = self._portal
        if portal is None:
            raise PortalRefusedError("NOT_OPENED", NOT_OPEN)
        return portal

    def _forget_parent(self) -> None:
        """Replace the lock and the portal in a forked child, where the threads that used them do not exist."""
        self._lock = threading.Lock()
        if self._portal is not None:
            _INHERITED.append((self._portal, self._ending))
            self._portal = self._ending = None
            self._forked = True


def _finalize(portal: Portal, pid: int) -> None:
    # A forked child inherits this finalizer, but not the thread of the portal.
    if pid == os.getpid():
        portal.close(_FINAL_TIMEOUT)


def _forget_parents() -> None:
    for cache in tuple(_CACHES):
        cache._forget_parent()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


_GRACE: Final = 0.05
"""Seconds that a call may take beyond its deadline, to reach the private loop and to return."""
_CLOSE_TIMEOUT: Final = 5.0
"""Least seconds to wait for the private loop to end, which a loader may block."""
_FINAL_TIMEOUT: Final = 0.5
"""Seconds to wait for the private loop when the interpreter ends."""
_CACHES: Final[weakref.WeakSet[RedisCache]] = weakref.WeakSet()
_INHERITED: Final[list[object]] = []
"""Portals of the parent process, never collected: closing them would disturb its event loop."""
after_fork_in_child(_forget_parents)


class DefaultRedisFactory(Factory):
    """Creates the caches in a Pip.Services container, by their descriptors.

    `pip-services:cache:redis:*:1.0` is a `RedisCache`, which the framework also opens.
    `pip-services:cache:async-redis:*:1.0` is an `AsyncRedisCache`, which the framework creates and configures, and the
    program opens and closes, since the framework does not await.
    """

    RedisCacheDescriptor: Final = Descriptor("pip-services", "cache", "redis", "*", "1.0")
    AsyncRedisCacheDescriptor: Final = Descriptor(
        "pip-services", "cache", "async-redis", "*", "1.0"
    )

    def __init__(self) -> None:
        super().__init__()
        self.register_as_type(self.RedisCacheDescriptor, RedisCache)
        self.register_as_type(self.AsyncRedisCacheDescriptor, AsyncRedisCache)
