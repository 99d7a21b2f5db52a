"""The name of a namespace, and what applies to its calls that do not say otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from async_redis_cache._common.durations import Ttl, ttl_milliseconds
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._common.option_keywords import SerializerName
from async_redis_cache._common.options import Options
from async_redis_cache._engine.load_options import LoadOptions, LoadPolicies
from async_redis_cache._values.decoders import check_type
from async_redis_cache._values.serializers import Serializer

from .view import SEPARATOR, ViewOptions, check_serializer, name_of

__all__ = ["Defaults"]


class Defaults(NamedTuple):
    """The name of a namespace and its defaults.

    Attributes:
        name: of the namespace.
        type: what values are validated as; None for no validation.
        tags: of every value.
        view: the other ones.
    """

    name: str
    type: Any
    tags: tuple[str, ...]
    view: ViewOptions

    @classmethod
    def of(
        cls,
        names: tuple[str, ...],
        *,
        kind: Any,
        ttl: Ttl,
        serializer: Serializer | SerializerName | None,
        near: bool | None,
        long_keys: LongKeys,
        cache_none: bool,
        loading: LoadOptions,
    ) -> Defaults:
        """Check the arguments of `namespace`.

        Raises:
            CacheInputError: BAD_KEY, BAD_TIMEOUT, BAD_TAG, BAD_LOAD_OPTION.
            TypeError: `type` is not a type, `serializer` is not a serializer, or a load option is unknown.
        """
        name = name_of(names)
        if kind is not None:
            check_type(kind)
        check_serializer(serializer)
        if long_keys not in {"raise", "hash"}:
            raise TypeError(f"long_keys must be 'raise' or 'hash', not {long_keys!r}")
        tags = loading.pop("tags", ())
        if isinstance(tags, str):
            raise TypeError("tags must be a collection of str, such as a tuple, not str")
        LoadPolicies(Options()).of(loading)
        prefix = f"{name}{SEPARATOR}"
        timeout = ttl_milliseconds(ttl)
        view = ViewOptions(prefix, timeout, serializer, near, long_keys, cache_none, loading)
        return cls(name, kind, tuple(tags), view)

    def all_tags(self, tags: Iterable[str]) -> Iterable[str]:
        """Return these tags and those of the namespace. What is no collection of tags is refused where it is used."""
        return tags if isinstance(tags, str) else (*self.tags, *tags)

    def with_tags(self, loading: LoadOptions) -> LoadOptions:
        """Return the load options of a call, with the tags of the namespace."""
        if self.tags:
            tags = self.all_tags(loading.get("tags", ()))
            return cast("LoadOptions", {**loading, "tags": tags})
        return loading
