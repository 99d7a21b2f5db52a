"""The name of a namespace, and what applies to its calls that do not say otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

from async_redis_cache._common.durations import Ttl, ttl_milliseconds
from async_redis_cache._common.errors import CacheInputError
from async_redis_cache._common.key_rules import CONTROL, LongKeys
from async_redis_cache._common.option_keywords import SerializerName
from async_redis_cache._common.options import Options
from async_redis_cache._engine.load_options import LoadOptions, LoadPolicies
from async_redis_cache._values.decoders import check_type
from async_redis_cache._values.serializers import SERIALIZERS, Serializer

from .view import ViewOptions

__all__ = ["Defaults"]

_SEPARATOR: Final = ":"
"""Between the name of a namespace and a key."""
_NAME_BYTES: Final = 64
_ALL_NAMES_BYTES: Final = 256


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
        name = _name_of(names)
        if kind is not None:
            check_type(kind)
        _check_serializer(serializer)
        if long_keys not in {"raise", "hash"}:
            raise TypeError(f"long_keys must be 'raise' or 'hash', not {long_keys!r}")
        tags = loading.pop("tags", ())
        if isinstance(tags, str):
            raise TypeError("tags must be a collection of str, such as a tuple, not str")
        LoadPolicies(Options()).of(loading)
        prefix = f"{name}{_SEPARATOR}"
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


def _name_of(names: tuple[str, ...]) -> str:
    """Return the whole name of a namespace that is within others.

    Raises:
        CacheInputError: BAD_KEY, since the name begins the keys: a name is not text of 1 to 64 bytes, or contains ":"
            or control characters, or all names have more than 256 bytes. Without ":" in them, the keys of a namespace
            begin with the name of another only if it is within that.
    """
    name = _SEPARATOR.join(map(_checked_name, names))
    if len(name.encode()) > _ALL_NAMES_BYTES:
        problem = f"the names of a namespace must have at most {_ALL_NAMES_BYTES} bytes together"
        raise CacheInputError("BAD_KEY", problem)
    return name


def _checked_name(name: str) -> str:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        problem = f"the name of a namespace must be a str, not {type(name).__name__}"
    elif not 0 < len(name.encode(errors="replace")) <= _NAME_BYTES:
        problem = f"the name of a namespace must have 1 to {_NAME_BYTES} bytes"
    elif _SEPARATOR in name or CONTROL.search(name) or not name.isprintable():
        problem = (
            'the name of a namespace must not contain ":" or control characters: '
            'a namespace within another is `namespace("outer", "inner")`'
        )
    else:
        return name
    raise CacheInputError("BAD_KEY", problem)


def _check_serializer(serializer: Any) -> None:
    """Refuse what is neither the name of a serializer nor a serializer.

    Raises:
        TypeError: it is neither.
    """
    if serializer is None or (isinstance(serializer, str) and serializer in SERIALIZERS):
        return
    for method in ("dumps", "loads"):
        if isinstance(serializer, str) or not callable(getattr(serializer, method, None)):
            raise TypeError(
                f"serializer must be one of {', '.join(SERIALIZERS)}, or an object with dumps and loads"
            )
