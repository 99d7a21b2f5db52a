"""The asynchronous API. It takes keys and values, and calls the engine with wire keys and bytes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from async_redis_cache._common.durations import SECOND, Timeout, milliseconds
from async_redis_cache._common.errors import CacheError, CacheInputError
from async_redis_cache._common.key_rules import check_keys
from async_redis_cache._common.outcomes import raise_first
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.reads import IsReadable
from async_redis_cache._protocol.command import StoreItem
from async_redis_cache._protocol.record import is_record, payload_if_lasting
from async_redis_cache._values.codec import Codec, Decoder

from .load_request import for_each_key
from .namespaces import AsyncNamespaces

if TYPE_CHECKING:
    from async_redis_cache._engine.engine import Engine

    from .sync_cache import RedisCache

__all__ = ["AsyncRedisCache"]

T = TypeVar("T")


class AsyncRedisCache(AsyncNamespaces):
    """A distributed cache in Redis or Valkey, for asyncio services.

    Any number of tasks may call it at once, and each call may be cancelled at any time. Concurrent calls
    are sent in one pipeline. A task reads what it has stored, once it has awaited `store`; concurrent calls
    have no order. A value expires no later than its timeout; it may be evicted sooner when the cache is full.

    Every call ends within `options.command_timeout`, with a value, a miss or a `CacheError`; loaders have a
    time limit of their own. The first parameter of each method, `context`, is an `IContext`, a trace id or
    None. Errors carry its trace id.

    Args:
        serializer: an object with `dumps` and `loads`, instead of the one that `options.serializer` names.
        any_loop: run the engine on a private event loop in a thread, so that coroutines of the cache can be awaited
            from any event loop of any thread. Without it, a cache belongs to the event loop that opens it.
        credential_provider: as `options.credential_provider`, for a cache that is configured from a file.

    Example:
        ```python
        cache = AsyncRedisCache()
        cache.configure(ConfigParams.from_tuples("host", "localhost", "port", 6379))
        await cache.open("123")
        await cache.store("123", "key1", "ABC", None)
        value = await cache.retrieve("123", "key1")  # "ABC"
        ```
    """

    async def store(
        self,
        context: Context,
        key: str,
        value: T,
        timeout: Timeout = None,
        *,
        tags: Iterable[str] = (),
    ) -> T:
        """Store a value and return it. Storing None removes the key.

        Args:
            context: an `IContext`, a trace id or None, for errors.
            key: text of 1 to 512 bytes in UTF-8, without control characters.
            value: any value that the serializer accepts.
            timeout: TTL in milliseconds, a timedelta, or FOREVER; None and 0 for `options.timeout`.
            tags: up to 64 tags to invalidate the value by; each is text as for a key. A value with tags is
                not stored as plain JSON. It costs one more round trip to store and, without a near cache, to
                read.

        Raises:
            CacheInputError: BAD_KEY, BAD_TAG, BAD_TIMEOUT, NOT_SERIALIZABLE, VALUE_TOO_LARGE.
            CacheOutcomeUnknown: the command was sent; the value may be stored, now or later.
            CacheError: any other error; nothing was stored.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_key = codec.wire_key(key)
            ttl = codec.ttl(timeout)
            wire_tags = codec.wire_tags(tags) if tags else ()
            if value is None and not codec.caches_none:
                removed = await engine.delete([wire_key])
                self._counters.removals += removed
            elif wire_tags:
                entry = (wire_key, codec.dumps(wire_key, value), ttl)
                await engine.writes.store_many([entry], wire_tags)
                self._counters.stores += 1
            else:
                await engine.writes.store(wire_key, codec.dumps(wire_key, value), ttl)
                self._counters.stores += 1
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
        return value

    @overload
    async def retrieve(self, context: Context, key: str, *, type: type[T]) -> T | None: ...
    @overload
    async def retrieve(self, context: Context, key: str, *, type: Any = None) -> Any: ...
    async def retrieve(self, context: Context, key: str, *, type: Any = None) -> Any:
        """Return the value of a key; None if there is none, or if it has expired.

        Args:
            context: as for `store`.
            key: as for `store`.
            type: the type to decode and validate the value as, such as a dataclass, a TypedDict, a
                `msgspec.Struct` or a pydantic model. A value of another type is a miss, counted in
                `stats().unreadable`.

        Raises:
            CacheInputError: BAD_KEY, BAD_TYPE.
            CacheError: the key could not be read.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            decode = codec.decoder(type)
            wire_key = codec.wire_key(key)
            since = engine.loop.time()
            data = await engine.reads.fetch(wire_key)
            payload = None
            if data is not None:
                payload = payload_if_lasting(data) or await engine.freshness.payload(data, since)
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            self._counters.misses += 1
            return None
        return self._decoded(codec, wire_key, payload, decode)

    def _decoded(self, codec: Codec, wire_key: bytes, data: bytes | None, decode: Decoder) -> Any:
        """Decode a payload, and count a hit or a miss."""
        value = None if data is None else codec.loads(wire_key, data, decode)
        if value is None:
            self._counters.misses += 1
        else:
            self._counters.hits += 1
        return value

    async def remove(self, context: Context, key: str) -> Any:
        """Remove a key and return the value it had, or None.

        Raises:
            CacheInputError: BAD_KEY.
            CacheOutcomeUnknown: the command was sent; the key may have been removed, and its value is lost.
            CacheError: any other error; nothing was removed.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_key = codec.wire_key(key)
            data = await engine.get_and_delete(wire_key)
            if data is None:
                return None
            self._counters.removals += 1
            return codec.loads(wire_key, data, codec.decoder(None))
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return None

    async def store_many(
        self,
        context: Context,
        mapping: Mapping[str, Any],
        timeout: Timeout = None,
        *,
        tags: Iterable[str] = (),
    ) -> None:
        """Store many values, all with the same timeout and tags. Keys whose value is None are removed.

        This is not a transaction: when it fails, some values may have been stored.

        Raises:
            CacheError: as for `store`. All keys and values are checked before anything is sent.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            ttl = codec.ttl(timeout)
            if not isinstance(mapping, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise CacheInputError("BAD_KEY", "store_many takes a mapping of keys to values")
            wire_tags = codec.wire_tags(tags)
            keys = {key: codec.wire_key(key) for key in mapping}
            removed = [
                keys[key]
                for key, value in mapping.items()
                if value is None and not codec.caches_none
            ]
            entries = [
                (keys[key], codec.dumps(keys[key], value), ttl)
                for key, value in mapping.items()
                if value is not None or codec.caches_none
            ]
            writes: list[Awaitable[None]] = []
            if entries:
                writes.append(self._store_items(engine, entries, wire_tags))
            if removed:
                writes.append(self._remove_keys(engine, removed))
            # Both are attempted, even if one fails.
            raise_first(await engine.gather_outcomes(writes))
        except CacheError as error:
            if not self._fails_open(error, context):
                raise

    async def _store_items(
        self, engine: Engine, entries: Sequence[StoreItem], tags: Sequence[bytes]
    ) -> None:
        await engine.writes.store_many(entries, tags)
        stored = len(entries)
        self._counters.stores += stored

    async def _remove_keys(self, engine: Engine, keys: Sequence[bytes]) -> None:
        removed = await engine.delete(keys)
        self._counters.removals += removed

    @overload
    async def retrieve_many(
        self, context: Context, keys: Iterable[str], *, type: type[T]
    ) -> dict[str, T]: ...
    @overload
    async def retrieve_many(
        self, context: Context, keys: Iterable[str], *, type: Any = None
    ) -> dict[str, Any]: ...
    async def retrieve_many(
        self, context: Context, keys: Iterable[str], *, type: Any = None
    ) -> dict[str, Any]:
        """Return the values of many keys as a dict in the order of the keys, without the keys that have none.

        Raises:
            CacheError: as for `retrieve`.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            decode = codec.decoder(type)
            wire_keys = _wire_keys(codec, keys)
            since = engine.loop.time()
            found = await engine.reads.fetch_many(list(wire_keys.values())) if wire_keys else []
            values = {
                key: self._decoded(codec, wire_key, data, decode)
                for (key, wire_key), data in zip(
                    wire_keys.items(), await _fresh(engine, found, since), strict=True
                )
            }
            return {key: value for key, value in values.items() if value is not None}
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return {}

    async def remove_many(self, context: Context, keys: Iterable[str]) -> int:
        """Remove many keys and return how many of them existed.

        Raises:
            CacheError: as for `remove`; some keys may have been removed.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_keys = _wire_keys(codec, keys)
            removed = await engine.delete_counted(list(wire_keys.values())) if wire_keys else 0
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return 0
        self._counters.removals += removed
        return removed

    async def invalidate_tags(self, context: Context, *tags: str) -> None:
        """Invalidate all values that have any of these tags, however many there are.

        This costs one small write per tag. From then on no method in any process returns these values, and
        the result of a load in flight with such a tag is not stored. Values stored later are valid.

        Raises:
            CacheInputError: BAD_TAG, also if there is a text as the context and no tag: a forgotten context.
            CacheError: any other error; some or all tags may have been invalidated.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            if not tags and isinstance(context, str):
                problem = "there is no tag: the first argument is the context, which may be None"
                raise CacheInputError("BAD_TAG", problem)
            wire_tags = codec.wire_tags(tags)
            if wire_tags:
                await engine.writes.invalidate_tags(wire_tags)
        except CacheError as error:
            if not self._fails_open(error, context):
                raise

    async def contains(self, context: Context, key: str) -> bool:
        """Return whether the key has a value, that is, whether `retrieve` would return one.

        A stored `null` and an unreadable value do not count. The value is fetched to check that.

        Raises:
            CacheError: as for `retrieve`.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            return await engine.contains(codec.wire_key(key), _readable(engine, codec))
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return False

    async def touch(self, context: Context, key: str, timeout: Timeout = None) -> bool:
        """Set the TTL of a value to `timeout`, from now on; return whether there is one, as `contains` does.

        Args:
            context: as for `store`.
            key: as for `store`.
            timeout: as for `store`.

        Raises:
            CacheError: as for `store`.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            return await engine.touch(
                codec.wire_key(key), codec.ttl(timeout), _readable(engine, codec)
            )
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return False

    async def time_to_live(self, context: Context, key: str) -> int | None:
        """Return the milliseconds until a value expires, or None if there is no value, as for `contains`.

        For a value that does not expire, stored with FOREVER or by another program, it is about a hundred years.

        Raises:
            CacheError: as for `retrieve`.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            return await engine.time_to_live(
                codec.wire_key(key), is_readable=_readable(engine, codec)
            )
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return None

    async def clear(self, context: Context, timeout: int | timedelta | None = None) -> int:
        """Remove all values of this cache and no other keys; return how many there were.

        The values of a cache are the keys with its `options.key_prefix`. Without a prefix they are the keys in
        the index of a bounded cache (`max_size`), that is, what this cache has stored.

        Args:
            context: as for `store`.
            timeout: milliseconds, or a timedelta, for the whole call; None and 0 for `options.command_timeout`.

        Raises:
            CacheInputError: BAD_TIMEOUT.
            CacheUnsupported: the cache has neither a prefix nor a bound.
            CacheError: any other error; some values may have been removed.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            limit = 0 if timeout is None else milliseconds(timeout)
            removed = await engine.clear(codec.prefix, limit / SECOND or None)
        except CacheError as error:
            self._record_error(error, context)
            raise
        self._counters.removals += removed
        return removed

    def as_sync(self) -> RedisCache:
        """Return a `RedisCache` on the same core, for synchronous callers.

        Both share the configuration, the connections, the near cache, the loads in flight and the counters. Opening or
        closing either opens or closes both.

        Raises:
            TypeError: this cache was not created with `any_loop=True`.
        """
        from .any_loop import AnyLoopLifecycle  # noqa: PLC0415  most caches do not need it
        from .sync_cache import RedisCache  # noqa: PLC0415  it imports this module

        lifecycle: object = self._lifecycle
        if not isinstance(lifecycle, AnyLoopLifecycle):
            raise TypeError("as_sync needs a cache that was created with any_loop=True")
        return RedisCache._on_core(lifecycle.core, self._counters)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    async def ping(self, context: Context) -> None:
        """Send a PING to the server and wait for its reply.

        Raises:
            CacheError: there was no reply, or an error.
        """
        try:
            engine = self._lifecycle.ready().engine
            await engine.ping()
        except CacheError as error:
            self._record_error(error, context)
            raise


async def _fresh(engine: Engine, found: list[bytes | None], since: float) -> list[bytes | None]:
    """The payloads of what was read, without those that have expired or whose tags were invalidated."""
    if any(data is not None and is_record(data) for data in found):
        return await for_each_key(
            engine, partial(engine.freshness.payload, since=since), found, found
        )
    return found


def _readable(engine: Engine, codec: Codec) -> IsReadable:
    """A check whether a payload can be decoded, run in the caller's thread and in a copy of its context."""
    load_engine, context = engine.load_engine(), copy_context()

    async def is_readable(key: bytes, payload: bytes) -> bool:
        run: Any = context.copy().run
        read: Callable[[], bool] = partial(run, codec.is_readable, key, payload)
        return await load_engine.run_in_caller(read)

    return is_readable


def _wire_keys(codec: Codec, keys: Iterable[str]) -> dict[str, bytes]:
    return {key: codec.wire_key(key) for key in check_keys(keys)}
