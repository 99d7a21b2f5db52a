"""The decorator `cached`: puts a cache in front of a function."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, ParamSpec, Protocol, TypeVar, Unpack, overload

from async_redis_cache._api.async_cache import AsyncRedisCache
from async_redis_cache._api.sync_cache import RedisCache
from async_redis_cache._common.durations import Timeout, milliseconds
from async_redis_cache._common.options import Options
from async_redis_cache._engine.load_options import LoadOptions, LoadPolicies
from async_redis_cache._values.decoders import check_type

from .cached_calls import Calls, LongKeys
from .cached_functions import AnyCache, CachedCoroutine, CachedFunction, Source, sources_of

__all__ = ["cached"]

P = ParamSpec("P")
T = TypeVar("T")


class _Decorator:
    """`cached`, with its cache and its options: applied to a function."""

    def __init__(
        self,
        cache: AnyCache | Callable[[], AnyCache],
        calls: Callable[[Callable[..., Any]], Calls],
        options: dict[str, Any],
    ) -> None:
        self._cache = cache
        self._calls = calls
        self._options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Awaitable[T]], /
    ) -> CachedCoroutine[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> CachedFunction[P, T]: ...
    def __call__(self, *functions: Any) -> Any:
        if len(functions) != 1:
            raise TypeError("cached is given a cache, and then a function: @cached(cache)")
        function: Any = functions[0]
        binding = next((kind for kind in _BINDINGS if isinstance(function, kind)), None)
        if binding is not None:
            function = function.__func__
        if not callable(function):
            raise TypeError(
                f"cached takes a function, not a {type(function).__name__}: a property is put above it"
            )
        own = getattr(type(function), "__call__", None)  # noqa: B004  not whether, but which
        for kind in (inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            if kind(function) or kind(own):
                raise TypeError(
                    "a generator can be read only once: cached takes functions that return"
                )
        is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(own)
        if isinstance(self._cache, RedisCache if is_coroutine else AsyncRedisCache):
            kinds = "plain functions" if is_coroutine else "coroutine functions"
            raise TypeError(f"{type(self._cache).__name__} caches {kinds}")
        sources = list(sources_of(function))
        calls = self._calls(sources[-1].function if sources else function)
        if any(
            source.provider is self._cache and source.calls.pattern == calls.pattern
            for source in sources
        ):
            # Its load would wait for itself.
            raise TypeError(f"{calls.name} is cached twice under one key: give key=")
        if is_coroutine:
            source = Source(self._cache, AsyncRedisCache, function, calls, self._options)
            return CachedCoroutine[..., Any](source, binding)
        source = Source(self._cache, RedisCache, function, calls, self._options)
        return CachedFunction[..., Any](source, binding)


class _CoroutineDecorator(Protocol):
    """What `cached` of an `AsyncRedisCache` gives."""

    def __call__(self, function: Callable[P, Awaitable[T]], /) -> CachedCoroutine[P, T]: ...


class _FunctionDecorator(Protocol):
    """What `cached` of a `RedisCache` gives."""

    def __call__(self, function: Callable[P, T], /) -> CachedFunction[P, T]: ...


@overload
def cached(
    cache: AsyncRedisCache,
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    long_keys: LongKeys = "raise",
    **loading: Unpack[LoadOptions],
) -> _CoroutineDecorator: ...
@overload
def cached(
    cache: RedisCache,
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    long_keys: LongKeys = "raise",
    **loading: Unpack[LoadOptions],
) -> _FunctionDecorator: ...
@overload
def cached(
    cache: Callable[[], AnyCache],
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    long_keys: LongKeys = "raise",
    **loading: Unpack[LoadOptions],
) -> _Decorator: ...
def cached(
    cache: AnyCache | Callable[[], AnyCache],
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    long_keys: LongKeys = "raise",
    **loading: Unpack[LoadOptions],
) -> Any:
    """Cache what a function gives, by its arguments, as `retrieve_or_load` does.

    Args:
        cache: an `AsyncRedisCache` for coroutine functions, a `RedisCache` for plain ones; or a
            function without parameters that gives it at each call, so that tests can exchange it.
        timeout: as for `store`.
        key: a template such as "user:{user_id}" over the function's arguments. Without one, the key
            is the function's name and its arguments. It is needed by what has no name of its own,
            such as a lambda or a function that captures variables, and by arguments, receivers of
            methods included, whose state cannot be seen.
        type: what results are validated as; by default as the function's return is annotated.
        long_keys: "hash" to hash a key or a tag from a template that the cache would refuse with
            BAD_KEY or BAD_TAG: one that is longer than 512 bytes, empty, or holds control characters.
        **loading: see `LoadOptions`; tags are templates as the key.

    Raises:
        TypeError: the function is not of the cache's kind, or needs `key`; a template names what is
            no argument; an option is unknown; `type` is no type; the annotations show a response, a
            generator or a request.
        ValueError: a template is none, such as "{user!x}".
        CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION.
    """
    _check_cache(cache)
    for name in _OTHER_NAMES.intersection(loading):
        raise TypeError(f"cached has no option {name}: give timeout=, in milliseconds")
    if timeout is not None:
        milliseconds(timeout)
    if type is not None:
        check_type(type)
    tags = loading.pop("tags", ())
    LoadPolicies(Options()).of(loading)
    calls = partial(Calls, key=key, tags=tags, kind=type, long_keys=long_keys)
    return _Decorator(cache, calls, {"timeout": timeout, **loading})


def _check_cache(cache: Any) -> None:
    """Refuse what is no cache and gives none.

    Raises:
        TypeError: most often since the decorator was applied without parentheses.
    """
    if isinstance(cache, AnyCache):
        return
    needs_arguments = inspect.isclass(cache) or not callable(cache)
    if not needs_arguments:
        try:
            inspect.signature(cache).bind()
        except TypeError:
            needs_arguments = True
        except ValueError:
            # Built in, and not telling.
            needs_arguments = False
    if needs_arguments or inspect.iscoroutinefunction(cache):
        raise TypeError(
            "cached is given a cache, or a plain function without parameters that gives one, and then "
            "applied: @cached(cache)"
        )


_BINDINGS: Final[tuple[type, ...]] = (classmethod, staticmethod)
_OTHER_NAMES: Final = frozenset(
    {"ttl", "ttl_ms", "expire", "expires", "expiry", "ex", "px", "max_age"}
)
