"""Configuring, opening and closing a cache."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self, Unpack, runtime_checkable

from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.option_keywords import CacheOptions, SerializerName
from async_redis_cache._common.pip_services import (
    ConfigParams,
    Context,
    IConfigurable,
    IReferenceable,
    IReferences,
)
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.pending_invalidations import is_pending_failure
from async_redis_cache._engine.single_flight import SERVER_FAILURES
from async_redis_cache._runtime.lifecycle import Lifecycle
from async_redis_cache._values.serializers import Serializer

__all__ = ["IAsyncCache", "Openable"]


@runtime_checkable
class IAsyncCache(Protocol):
    """`ICache` of Pip.Services, awaitable.

    Not an `IOpenable` of the framework, whose container calls `open` without awaiting it.
    """

    def is_open(self) -> bool:
        """Whether the cache can be used."""
        ...

    async def open(self, context: Context) -> None:
        """Open the cache; on an open one this does nothing."""
        ...

    async def close(self, context: Context) -> None:
        """Close the cache and free what it holds; on a closed one this does nothing."""
        ...

    async def store(self, context: Context, key: str, value: Any, timeout: int | None) -> Any:
        """Store a value for `timeout` milliseconds and return it."""
        ...

    async def retrieve(self, context: Context, key: str) -> Any:
        """The value of the key, or None."""
        ...

    async def remove(self, context: Context, key: str) -> Any:
        """Remove the key; the value it had, or None."""
        ...


class Openable(IConfigurable, IReferenceable):
    """The part of the asynchronous API that comes before its operations.

    The framework's container configures it and gives it its references, by these interfaces. It is no
    `IOpenable`: a container does not await.

    Args:
        serializer: an object with `dumps` and `loads`, in place of `options.serializer`.
    """

    def __init__(self, *, serializer: Serializer | None = None) -> None:
        self._counters = CacheStats()
        self._lifecycle = Lifecycle(serializer, self._counters)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        serializer: Serializer | SerializerName | None = None,
        **options: Unpack[CacheOptions],
    ) -> Self:
        """A cache at this URL, configured and not yet open.

        Args:
            url: what `connection.uri` takes, as `redis://user:password@host:6379/0`.
            serializer: an object as for the class, or a name as for `options.serializer`.
            **options: what `options.*` takes, by name: `key_prefix="shop:"`. They are those of
                `CacheOptions`. Unlike with `configure`, `max_size` is 0 where it is not given.

        Raises:
            CacheConfigError: BAD_OPTION. A bad URL is found by `open`.
        """
        given: dict[str, Any] = {"max_size": 0, **options}
        if isinstance(serializer, str):
            given["serializer"], serializer = serializer, None
        cache = cls(serializer=serializer)
        config = ConfigParams.from_tuples("connection.uri", url)
        for name, value in given.items():
            config[f"options.{name}"] = value
        cache.configure(config)
        return cache

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lifecycle!r}>"

    def configure(self, config: ConfigParams) -> None:
        """Take a configuration, which replaces any before. An open cache heeds it when reopened.

        Raises:
            CacheConfigError: BAD_OPTION.
        """
        self._lifecycle.settings.configure(config)

    def set_references(self, references: IReferences) -> None:
        """Where `discovery_key` and `store_key` are looked up, and who is told what happens.

        That is `*:discovery:*:*:1.0` and `*:credential-store:*:*:1.0`; and `*:logger:*:*:1.0` and
        `*:counters:*:*:1.0`, from the next `open` on.
        """
        self._lifecycle.settings.set_references(references)

    def is_open(self) -> bool:
        """Whether the cache was opened and not closed since. The server may be away even so."""
        return self._lifecycle.is_open()

    async def open(self, context: Context) -> None:
        """Connect, log in and ping, in one attempt, within `connect_timeout`.

        An open cache stays as it is. With `options.require_connection` false, a server that is
        away is no error: the cache connects as soon as it can. A cache whose event loop is closed,
        or that was opened before a fork, is opened anew.

        Raises:
            CacheConfigError: NO_CONNECTION, BAD_URI, BAD_OPTION, CANNOT_RESOLVE.
            CacheLoginError: BAD_CREDENTIALS, BAD_CERTIFICATE.
            CacheUnavailable, CacheTimeout: the server cannot be reached.
            CacheServerError: it answers the ping with an error.
        """
        try:
            await self._lifecycle.open(context)
        except CacheError as error:
            self._record_error(error, context)
            raise

    async def close(self, context: Context) -> None:
        """Drop all connections. Calls that are waiting end in NOT_OPENED or OUTCOME_UNKNOWN.

        A closed cache stays as it is, and may be opened again. Nothing is left open when this is
        cancelled.

        Raises:
            CacheStateError: WRONG_LOOP.
        """
        try:
            await self._lifecycle.close()
        except CacheError as error:
            self._record_error(error, context)
            raise

    async def _reopen(self) -> None:
        """For the synchronous door, in a child of the process that opened it."""
        await self._lifecycle.reopen()

    async def __aenter__(self) -> Self:
        await self.open(None)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(None)

    def stats(self) -> CacheStats:
        """What this cache has done so far. Closing it does not reset the counts."""
        return self._counters.snapshot()

    def _fails_open(self, error: CacheError, context: Context) -> bool:
        """Record the error of a call; return whether the call ends as it does on an empty cache instead of raising.

        That is so with `options.fail_open`, for errors of the server. A write has to be among the pending
        invalidations from then on.
        """
        self._record_error(error, context)
        engine = self._lifecycle.engine()
        if engine is None or not engine.fails_open:
            return False
        is_covered = isinstance(error, SERVER_FAILURES) and is_pending_failure(error)
        if is_covered:
            engine.failed_open(error.code)
        return is_covered

    def _record_error(self, error: CacheError, context: Context) -> None:
        """Count an error that ends a call, and let it bear the trace id of the call's context."""
        self._counters.errors += 1
        error.traced(context)
