"""The asynchronous door: contexts, keys and values outside; wire keys and bytes inside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar, overload

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.errors import CacheError, CacheInputError
from async_redis_cache._common.outcomes import raise_first
from async_redis_cache._common.pip_services import Context
from async_redis_cache._engine.engine import Engine
from async_redis_cache._engine.metadata import IsReadable
from async_redis_cache._protocol.command import StoreItem
from async_redis_cache._protocol.record import is_record, payload_at_once
from async_redis_cache._values.codec import Codec, Decoder

from .batch_loading import AsyncBatchLoading
from .load_request import check_keys, for_each_key

__all__ = ["AsyncRedisCache"]

T = TypeVar("T")


class AsyncRedisCache(AsyncBatchLoading):
    """A distributed cache in Redis or Valkey, for asyncio services.

    Calls may be made by any number of tasks at once, and may be cancelled at any moment; those that
    wait together travel together. What a task has stored and awaited it then reads; between calls
    that were not awaited one after the other there is no order. A value expires at the latest when
    its timeout has passed; it may be gone sooner, when the cache is full.

    Every call ends by `options.command_timeout`, in a value, a miss or a `CacheError`. The first
    parameter of each, `context`, is an `IContext`, a trace id or None; it goes into the errors.

    Args:
        serializer: an object with `dumps` and `loads`, in place of `options.serializer`.

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
        """Store a value; return it. Storing None removes the key.

        Args:
            context: for the errors.
            key: text of 1 to 512 bytes without control characters.
            value: anything that the serializer takes.
            timeout: milliseconds, or a timedelta; None and 0 for `options.timeout`.
            tags: what the value can be invalidated by, up to 64; each is text as for a key. A value
                with tags is not stored as plain JSON, and costs a round trip more to store and, where
                there is no near cache, to read.

        Raises:
            CacheInputError: BAD_KEY, BAD_TAG, BAD_TIMEOUT, NOT_SERIALIZABLE, VALUE_TOO_LARGE.
            CacheOutcomeUnknown: it was sent, and may have been stored, or may yet be.
            CacheError: any other, and nothing was stored.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_key = codec.wire_key(key)
            life = codec.ttl(timeout)
            wire_tags = codec.wire_tags(tags) if tags else ()
            if value is None:
                await engine.delete([wire_key])
            elif wire_tags:
                entry = (wire_key, codec.dumps(wire_key, value), life)
                await engine.writes.store_many([entry], wire_tags)
                self._counters.stores += 1
            else:
                data = codec.dumps(wire_key, value)
                try:
                    await engine.writes.store(wire_key, data, life)
                except CacheError as error:
                    engine.writes.store_failed(wire_key, error)
                    raise
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
        """The value stored under the key; None where there is none, or it has expired.

        Args:
            context: for the errors.
            key: as for `store`.
            type: a type to validate the value as, such as a dataclass, a TypedDict, a
                `msgspec.Struct` or a pydantic model. A value that does not fit the type is a miss,
                and counted as unreadable.

        Raises:
            CacheInputError: BAD_KEY, BAD_TYPE.
            CacheError: the server could not be asked.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            decode = codec.decoder(type)
            wire_key = codec.wire_key(key)
            since = engine.loop.time()
            data = await engine.read(wire_key)
            payload = None
            if data is not None:
                payload = payload_at_once(data) or await engine.freshness.payload(data, since)
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            self._counters.misses += 1
            return None
        return self._given(codec, wire_key, payload, decode)

    def _given(self, codec: Codec, wire_key: bytes, data: bytes | None, decode: Decoder) -> Any:
        value = None if data is None else codec.loads(wire_key, data, decode)
        if value is None:
            self._counters.misses += 1
        else:
            self._counters.hits += 1
        return value

    async def remove(self, context: Context, key: str) -> Any:
        """Remove a key; return the value it had, or None.

        Raises:
            CacheInputError: BAD_KEY.
            CacheOutcomeUnknown: the removal was sent; whether there was a value is not known.
            CacheError: any other, and nothing was removed.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_key = codec.wire_key(key)
            data = await engine.get_and_delete(wire_key)
            return None if data is None else codec.loads(wire_key, data, codec.decoder(None))
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
        """Store many values at once, all with the same timeout and tags; those that are None are removed.

        Not a transaction: when it fails, some may have been stored.

        Raises:
            CacheError: as for `store`. What is wrong with any key or value is found before
                anything is sent.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            life = codec.ttl(timeout)
            if not isinstance(mapping, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise CacheInputError("BAD_KEY", "a mapping of keys to values is taken")
            wire_tags = codec.wire_tags(tags)
            keys = {key: codec.wire_key(key) for key in mapping}
            gone = [keys[key] for key, value in mapping.items() if value is None]
            entries = [
                (keys[key], codec.dumps(keys[key], value), life)
                for key, value in mapping.items()
                if value is not None
            ]
            changes: list[Awaitable[None]] = []
            if entries:
                changes.append(self._stored(engine, entries, wire_tags))
            if gone:
                changes.append(engine.delete(gone))
            # Each is tried, or pending, whatever becomes of the other.
            raise_first(await engine.gather_outcomes(changes))
        except CacheError as error:
            if not self._fails_open(error, context):
                raise

    async def _stored(
        self, engine: Engine, entries: Sequence[StoreItem], tags: Sequence[bytes]
    ) -> None:
        await engine.writes.store_many(entries, tags)
        stored = len(entries)
        self._counters.stores += stored

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
        """The values of those keys that have one, by key, in the order of the keys.

        Raises:
            CacheError: as for `retrieve`.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            decode = codec.decoder(type)
            wire_keys = _wire_keys(codec, keys)
            since = engine.loop.time()
            found = await engine.read_many(list(wire_keys.values())) if wire_keys else []
            values = {
                key: self._given(codec, wire_key, data, decode)
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
        """Remove keys; return how many of them were there.

        Raises:
            CacheError: as for `remove`. When it fails, some may have been removed.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_keys = _wire_keys(codec, keys)
            return await engine.delete_counted(list(wire_keys.values())) if wire_keys else 0
        except CacheError as error:
            if not self._fails_open(error, context):
                raise
            return 0

    async def invalidate_tags(self, context: Context, *tags: str) -> None:
        """Make invalid all values that bear any of these tags, however many there are.

        That is one small write a tag. They are gone for every method and every process; what is
        being loaded with such a tag is not stored, and what is stored from now on is valid.

        Raises:
            CacheInputError: BAD_TAG.
            CacheError: any other; some or all may have been invalidated.
        """
        try:
            _, engine, codec, _, _ = self._lifecycle.ready()
            wire_tags = codec.wire_tags(tags)
            if wire_tags:
                await engine.writes.invalidate_tags(wire_tags)
        except CacheError as error:
            if not self._fails_open(error, context):
                raise

    async def contains(self, context: Context, key: str) -> bool:
        """Whether the key has a value: whether `retrieve` would give one. It may be gone a moment later.

        A stored `null`, and what cannot be read, are no values. The value is fetched for that.

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
        """Let a value live for `timeout` from now on; return whether there was one, as `contains` says.

        Args:
            context: for the errors.
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
        """Milliseconds until the value expires; None where there is none, as `contains` says.

        None, too, for one that never expires, which only another program can have stored.

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

    async def clear(self, context: Context) -> int:
        """Remove all values of this cache and nothing else; return how many there were.

        Its values are those under `options.key_prefix`. Without a prefix they are those in the
        index of a bounded cache: what this cache has stored. With neither it refuses.

        Raises:
            CacheUnsupported: there is neither a prefix nor a bound.
            CacheError: any other; some values may have been removed.
        """
        try:
            engine = self._lifecycle.ready().engine
            return await engine.clear()
        except CacheError as error:
            self._record_error(error, context)
            raise

    async def ping(self, context: Context) -> None:
        """Ask the server for a sign of life.

        Raises:
            CacheError: there was none.
        """
        try:
            engine = self._lifecycle.ready().engine
            await engine.ping()
        except CacheError as error:
            self._record_error(error, context)
            raise


async def _fresh(engine: Engine, found: list[bytes | None], since: float) -> list[bytes | None]:
    if any(data is not None and is_record(data) for data in found):
        return await for_each_key(
            engine, partial(engine.freshness.payload, since=since), found, found
        )
    return found


def _readable(engine: Engine, codec: Codec) -> IsReadable:
    """What reads a payload where the caller is, and in a copy of its context."""
    there, context = engine.load_engine(), copy_context()

    async def is_readable(key: bytes, payload: bytes) -> bool:
        run: Any = context.copy().run
        read: Callable[[], bool] = partial(run, codec.is_readable, key, payload)
        return await there.aside(read)

    return is_readable


def _wire_keys(codec: Codec, keys: Iterable[str]) -> dict[str, bytes]:
    return {key: codec.wire_key(key) for key in check_keys(keys)}
