"""`AsyncRedisCache.namespace`, which creates the namespaces of a cache."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Ttl
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._common.option_keywords import SerializerName
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._values.serializers import Serializer

from .atomic import AsyncAtomic
from .namespace import Namespace
from .namespace_defaults import Defaults

__all__ = ["AsyncNamespaces"]

T = TypeVar("T")


class AsyncNamespaces(AsyncAtomic):
    """Creates the namespaces of an `AsyncRedisCache`."""

    @overload
    def namespace(
        self,
        name: str,
        *names: str,
        type: type[T],
        ttl: Ttl = None,
        serializer: Serializer | SerializerName | None = None,
        near: bool | None = None,
        long_keys: LongKeys = "raise",
        cache_none: Literal[False] = False,
        **loading: Unpack[LoadOptions],
    ) -> Namespace[T]: ...
    @overload
    def namespace(
        self,
        name: str,
        *names: str,
        type: type[T],
        ttl: Ttl = None,
        serializer: Serializer | SerializerName | None = None,
        near: bool | None = None,
        long_keys: LongKeys = "raise",
        cache_none: Literal[True],
        **loading: Unpack[LoadOptions],
    ) -> Namespace[T | None]: ...
    @overload
    def namespace(
        self,
        name: str,
        *names: str,
        type: Any = None,
        ttl: Ttl = None,
        serializer: Serializer | SerializerName | None = None,
        near: bool | None = None,
        long_keys: LongKeys = "raise",
        cache_none: bool = False,
        **loading: Unpack[LoadOptions],
    ) -> Namespace[Any]: ...
    def namespace(
        self,
        name: str,
        *names: str,
        type: Any = None,
        ttl: Ttl = None,
        serializer: Serializer | SerializerName | None = None,
        near: bool | None = None,
        long_keys: LongKeys = "raise",
        cache_none: bool = False,
        **loading: Unpack[LoadOptions],
    ) -> Namespace[Any]:
        """Return a namespace: the values whose keys begin with the name and ":", with defaults of their own.

        The cache need not be open, and may be closed and opened again. Two namespaces with the same name have the
        same values, and share their counters.

        Args:
            name: text of 1 to 64 bytes in UTF-8 without ":" and control characters. The key on the server consists
                of `options.key_prefix`, the name, ":" and the key.
            *names: further names, for a namespace within this one: `namespace("tenant", "42")` is `tenant:42`. Its
                keys are keys of `namespace("tenant")` too, and `clear` of that removes them.
            type: the type that values are decoded and validated as, as for `retrieve`.
            ttl: the default TTL, in seconds, as a timedelta, or FOREVER; None for `options.timeout`.
            serializer: the name of a serializer, or an object with `dumps` and `loads`; None for that of the cache.
            near: False to read every value from the server, though the cache has a near cache; True to require
                that it has one.
            long_keys: "hash" to hash a key that the cache would refuse with BAD_KEY because it is longer than 512
                bytes, empty, or contains control characters.
            cache_none: True to store None as a value: of a loader, which is not called again, and of `set`. Without
                it, None of a loader is stored for `missing_timeout` only, and `set` with None removes the key.
            **loading: see `LoadOptions`. `tags` are those of every value of the namespace.

        Raises:
            CacheInputError: BAD_KEY for the name, BAD_TIMEOUT, BAD_LOAD_OPTION.
            TypeError: `type` is not a type, `serializer` is not a serializer, or an option is unknown.
        """
        defaults = Defaults.of(
            (name, *names),
            kind=type,
            ttl=ttl,
            serializer=serializer,
            near=near,
            long_keys=long_keys,
            cache_none=cache_none,
            loading=loading,
        )
        return Namespace(self, defaults)
