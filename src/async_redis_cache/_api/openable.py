"""Configuring, opening and closing a cache; and the contract of an asynchronous one."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack, cast, runtime_checkable

from async_redis_cache._common.errors import SERVER_FAILURES, CacheError
from async_redis_cache._common.logins import CredentialSource
from async_redis_cache._common.option_keywords import CacheOptions, SerializerName
from async_redis_cache._common.pip_services import (
    ConfigParams,
    Context,
    IConfigurable,
    IReferenceable,
    IReferences,
)
from async_redis_cache._common.stats import CacheStats, Counters
from async_redis_cache._engine.pending_invalidations import is_pending_failure
from async_redis_cache._runtime.lifecycle import Lifecycle
from async_redis_cache._values.serializers import Serializer

from .view_registry import ViewRegistry

if TYPE_CHECKING:
    from .any_loop import AnyLoopLifecycle

__all__ = ["IAsyncCache", "Openable"]


@runtime_checkable
class IAsyncCache(Protocol):
    """The contract of an asynchronous cache: `ICache` of Pip.Services with coroutines.

    Use it to annotate what a function accepts, or to write another cache. It is no `IOpenable` of the
    framework, whose container calls `open` without awaiting it.
    """

    def is_open(self) -> bool:
        """Return whether the cache is open."""
        ...

    async def open(self, context: Context) -> None:
        """Open the cache. Does nothing if it is open."""
        ...

    async def close(self, context: Context) -> None:
        """Close the cache and free its resources. Does nothing if it is closed."""
        ...

    async def store(self, context: Context, key: str, value: Any, timeout: int | None) -> Any:
        """Store a value for `timeout` milliseconds and return it."""
        ...

    async def retrieve(self, context: Context, key: str) -> Any:
        """Return the value of the key, or None."""
        ...

    async def remove(self, context: Context, key: str) -> Any:
        """Remove the key and return the value it had, or None."""
        ...


class Openable(IConfigurable, IReferenceable):
    """Configures, opens and closes an asynchronous cache.

    A Pip.Services container configures it and sets its references through these interfaces. It is no
    `IOpenable`, since a container does not await `open`.

    Args:
        serializer: an object with `dumps` and `loads`, instead of the one that `options.serializer` names.
        any_loop: run the engine on a private event loop in a thread, so that coroutines of the cache can be
            awaited from any event loop of any thread.
        credential_provider: as `options.credential_provider`, for a cache that is configured from a file.
    """

    def __init__(
        self,
        *,
        serializer: Serializer | None = None,
        any_loop: bool = False,
        credential_provider: CredentialSource | None = None,
    ) -> None:
        self._counters = Counters()
        self._views = ViewRegistry()
        self._lifecycle = Lifecycle(serializer, self._counters)
        if any_loop:
            self._share(_on_private_loop(serializer, self._counters), self._counters)
        self._lifecycle.settings.use_provider(credential_provider)

    def _share(self, lifecycle: Lifecycle | AnyLoopLifecycle, counters: Counters) -> None:
        """Use the lifecycle and the counters of another cache."""
        # One for any loop has all members that the API uses.
        self._lifecycle = cast("Lifecycle", lifecycle)
        self._counters = counters

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        serializer: Serializer | SerializerName | None = None,
        any_loop: bool = False,
        **options: Unpack[CacheOptions],
    ) -> Self:
        """Create and configure a cache for a server; it is not yet open.

        Args:
            url: as for `connection.uri`, such as `redis://user:password@host:6379/0`.
            serializer: an object, as for the class, or a name, as for `options.serializer`.
            any_loop: as for the class.
            **options: the options of `CacheOptions` by name, such as `key_prefix="shop:"`. Unlike with
                `configure`, `max_size` defaults to 0: no bound.

        Raises:
            CacheConfigError: BAD_OPTION. `open` raises the error of a bad URL.
        """
        values: dict[str, Any] = {"max_size": 0, **options}
        if isinstance(serializer, str):
            values["serializer"], serializer = serializer, None
        # Not passed without need: `__init__` of a subclass may not have it.
        kind: dict[str, Any] = {"any_loop": True} if any_loop else {}
        cache = cls(serializer=serializer, **kind)
        config = ConfigParams.from_tuples("connection.uri", url)
        for name, value in values.items():
            config[f"options.{name}"] = value
        cache.configure(config)
        return cache

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._lifecycle!r}>"

    def configure(self, config: ConfigParams) -> None:
        """Replace the configuration. An open cache uses the new one once it is closed and opened again.

        Raises:
            CacheConfigError: BAD_OPTION.
        """
        self._lifecycle.settings.configure(config)

    def set_references(self, references: IReferences) -> None:
        """Set the components to look up connections and credentials in, and to report to.

        `*:discovery:*:*:1.0` resolves `discovery_key` and `*:credential-store:*:*:1.0` resolves `store_key`.
        From the next `open` on, `*:logger:*:*:1.0` gets the log records and `*:counters:*:*:1.0` the counters.
        """
        self._lifecycle.settings.set_references(references)

    def is_open(self) -> bool:
        """Return whether the cache was opened and not closed since. The server may be unreachable.

        It is false once the event loop of the cache is closed.
        """
        return self._lifecycle.is_open()

    async def open(self, context: Context) -> None:
        """Connect to the server, log in and send a PING: one attempt, within `options.connect_timeout`.

        Does nothing if the cache is open. With `options.require_connection` false, an unreachable server is
        no error, and the cache connects as soon as the server can be reached. A cache whose event loop has
        been closed, or that was opened before a fork, is opened anew.

        Raises:
            CacheConfigError: NO_CONNECTION, BAD_URI, BAD_OPTION, CANNOT_RESOLVE.
            CacheLoginError: BAD_CREDENTIALS, BAD_CERTIFICATE.
            CacheUnavailable, CacheTimeout: the server cannot be reached.
            CacheServerError: the server replied to the PING with an error.
        """
        try:
            await self._lifecycle.open(context)
        except CacheError as error:
            self._record_error(error, context)
            raise

    async def close(self, context: Context) -> None:
        """Close all connections. Pending calls raise NOT_OPENED or OUTCOME_UNKNOWN.

        Does nothing if the cache is closed. It may be opened again. Cancelling this leaves nothing open.

        Raises:
            CacheStateError: WRONG_LOOP.
        """
        try:
            await self._lifecycle.close()
        except CacheError as error:
            self._record_error(error, context)
            raise

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
        """Return a snapshot of the counters of this cache. Closing the cache does not reset them."""
        return self._counters.snapshot()

    def _fails_open(self, error: CacheError, context: Context) -> bool:
        """Record the error of a call; return whether the call returns what it does on an empty cache instead of raising.

        It does with `options.fail_open`, for an error that says that the server is unreachable; for a write only
        if its keys are pending invalidations from then on.
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
        """Count the error of a call, and add the trace id of the call to it."""
        self._counters.errors += 1
        error.traced(context)


def _on_private_loop(serializer: Serializer | None, counters: CacheStats) -> AnyLoopLifecycle:
    # Most caches need none of these modules.
    from async_redis_cache._runtime.private_core import PrivateCore  # noqa: PLC0415

    from .any_loop import AnyLoopLifecycle  # noqa: PLC0415
    from .calling_thread import CallerLifecycle  # noqa: PLC0415

    return AnyLoopLifecycle(PrivateCore(CallerLifecycle(serializer, counters)))
