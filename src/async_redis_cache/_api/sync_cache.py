"""The synchronous API, which calls the asynchronous one through a private event loop; and the factory of both."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheStateError
from async_redis_cache._common.logins import CredentialSource
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
from async_redis_cache._common.stats import CacheStats, Counters
from async_redis_cache._runtime.portal import Portal, PortalRefusedError
from async_redis_cache._runtime.private_core import PrivateCore
from async_redis_cache._runtime.stepping import drive
from async_redis_cache._values.serializers import Serializer

from .any_loop import AnyLoopLifecycle
from .async_cache import AsyncRedisCache
from .calling_thread import NOT_OPEN, CallerLifecycle
from .sync_namespaces import SyncNamespaces
from .view_registry import ViewRegistry

__all__ = ["DefaultRedisFactory", "RedisCache"]


T = TypeVar("T")


class CallerCache(AsyncRedisCache):
    """`AsyncRedisCache` whose coroutines, except those of `open` and `close`, are run by `drive`."""

    def __init__(
        self,
        *,
        serializer: Serializer | None = None,
        credential_provider: CredentialSource | None = None,
    ) -> None:
        super().__init__(serializer=serializer)
        self._lifecycle = CallerLifecycle(serializer, self._counters)
        self._lifecycle.settings.use_provider(credential_provider)


class RedisCache(SyncNamespaces, ICache, IConfigurable, IReferenceable, IOpenable):
    """`AsyncRedisCache` for synchronous callers: the same methods, which block until their result is there.

    Any number of threads may share a cache; their concurrent calls are sent in one pipeline. An open cache
    works in a forked process too, which opens connections of its own at its first call. A cache that is not
    closed is closed when the interpreter ends. See `AsyncRedisCache` for what each method does, takes and
    raises.

    Args:
        serializer: an object with `dumps` and `loads`, instead of the one that `options.serializer` names.
        credential_provider: as `options.credential_provider`, for a cache that is configured from a file.

    Example:
        ```python
        cache = RedisCache()
        cache.configure(ConfigParams.from_tuples("host", "localhost", "port", 6379))
        cache.open("123")
        cache.store("123", "key1", "ABC", None)
        value = cache.retrieve("123", "key1")  # "ABC"
        ```
    """

    def __init__(
        self,
        *,
        serializer: Serializer | None = None,
        credential_provider: CredentialSource | None = None,
    ) -> None:
        self._begin(CallerCache(serializer=serializer, credential_provider=credential_provider))

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
        cache._begin(CallerCache.from_url(url, serializer=serializer, **options))
        return cache

    def _begin(self, cache: CallerCache, core: PrivateCore | None = None) -> None:
        self._cache: AsyncRedisCache = cache
        self._views = ViewRegistry()
        self._core = core or PrivateCore(cache._lifecycle)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def as_async(self) -> AsyncRedisCache:
        """Return an `AsyncRedisCache` on the same core, whose coroutines can be awaited from any event loop.

        Both share the configuration, the connections, the near cache, the loads in flight and the counters. Opening or
        closing either opens or closes both.
        """
        counters = self._cache._counters  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        cache = AsyncRedisCache()
        cache._share(AnyLoopLifecycle(self._core), counters)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return cache

    @classmethod
    def _on_core(cls, core: PrivateCore, counters: Counters) -> Self:
        """Create a cache on the core of an `AsyncRedisCache`."""
        inner = CallerCache()
        inner._share(core.lifecycle, counters)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        cache = cls()
        cache._begin(inner, core)
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
        return self._core.is_open()

    def open(self, context: Context) -> None:
        """Start the private event loop and open the cache on it.

        Raises:
            CacheStateError: NOT_OPENED, if a loader still blocks the private loop of a previous `open`;
                IN_EVENT_LOOP on the private loop of a cache.
            CacheError: as for `AsyncRedisCache.open`.
        """
        try:
            self._core.open(context, self._cache.open)
        except PortalRefusedError as refusal:
            raise self._refused(refusal, context) from None

    def close(self, context: Context) -> None:
        """Close the cache and end the private event loop.

        If a loader blocks that loop, this waits for 5 seconds or `options.command_timeout`, whichever is
        longer. The connections are closed once the loader returns.
        """
        try:
            self._core.close()
        except PortalRefusedError as refusal:
            raise self._refused(refusal, context) from None

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

    def clear(self, context: Context, timeout: int | timedelta | None = None) -> int:
        """Remove all values of this cache and no other keys; return how many there were."""
        return self._call(context, self._cache.clear(context, timeout))

    def ping(self, context: Context) -> None:
        """Send a PING to the server and wait for its reply."""
        self._call(context, self._cache.ping(context))

    def stats(self) -> CacheStats:
        """Return a snapshot of the counters of this cache. Closing the cache does not reset them."""
        return self._cache.stats()

    def _call(self, context: Context, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            core = self._core
            return drive(core.portal or self._reopened(), coroutine, core.patience)
        except BaseException as error:
            # It may not have been started.
            coroutine.close()
            if isinstance(error, PortalRefusedError):
                raise self._refused(error, context) from None
            raise

    def _reopened(self) -> Portal:
        portal = self._core.reopened()
        if portal is None:
            raise PortalRefusedError("NOT_OPENED", NOT_OPEN)
        return portal

    def _refused(self, refusal: PortalRefusedError, context: Context) -> CacheStateError:
        error = CacheStateError(refusal.code, refusal.problem)
        self._cache._record_error(error, context)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return error


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


# See the end of `async_redis_cache/__init__.py`.
DefaultRedisFactory.__module__ = "async_redis_cache"
RedisCache.__module__ = "async_redis_cache"
