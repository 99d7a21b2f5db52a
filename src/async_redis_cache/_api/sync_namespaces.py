"""`RedisCache.namespace`, which creates the namespaces of a cache."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, Unpack, overload

from async_redis_cache._common.durations import Ttl
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._common.option_keywords import SerializerName
from async_redis_cache._engine.load_options import LoadOptions
from async_redis_cache._values.serializers import Serializer

from .namespace_defaults import Defaults
from .sync_atomic import SyncAtomic
from .sync_namespace import SyncNamespace

__all__ = ["SyncNamespaces"]

T = TypeVar("T")


class SyncNamespaces(SyncAtomic):
    """Creates the namespaces of a `RedisCache`."""

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
    ) -> SyncNamespace[T]: ...
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
    ) -> SyncNamespace[T | None]: ...
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
    ) -> SyncNamespace[Any]: ...
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
    ) -> SyncNamespace[Any]:
        """Return a namespace: the values whose keys begin with the name and ":", with defaults of their own."""
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
        return SyncNamespace(self, defaults)
