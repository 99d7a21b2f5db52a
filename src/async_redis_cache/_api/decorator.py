"""The decorator `cached`: cache the results of a function."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar, Unpack, overload

from async_redis_cache._calls.cached_calls import Calls, describe
from async_redis_cache._common.annotations import signature_of
from async_redis_cache._common.durations import Timeout, milliseconds
from async_redis_cache._common.key_rules import LongKeys
from async_redis_cache._common.options import Options
from async_redis_cache._engine.load_options import LoadOptions, LoadPolicies
from async_redis_cache._values.decoders import check_type

from .batch_loading import AsyncBatchLoading
from .cached_functions import CachedCoroutine, CachedFunction, configs_of
from .call_config import CACHE_NAMES, AnyCache, CallConfig
from .sync_loading import SyncLoading

if TYPE_CHECKING:
    from .async_cache import AsyncRedisCache
    from .sync_cache import RedisCache

__all__ = ["CoroutineDecorator", "FunctionDecorator", "cached", "cached_in_namespace"]

P = ParamSpec("P")
T = TypeVar("T")


class _Decorator:
    """What `cached(cache, ...)` returns: it decorates functions with that cache and these options."""

    def __init__(
        self,
        cache: AnyCache | Callable[[], AnyCache],
        calls: Callable[[Callable[..., Any]], Calls],
        options: dict[str, Any],
    ) -> None:
        self._cache = cache
        self._calls = calls
        self.options = options

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Awaitable[T]], /
    ) -> CachedCoroutine[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> CachedFunction[P, T]: ...
    def __call__(self, *functions: Any) -> Any:
        if len(functions) != 1:
            raise TypeError("cached(cache) decorates one function: write @cached(cache) above it")
        function: Any = functions[0]
        binding = next((kind for kind in _BINDINGS if isinstance(function, kind)), None)
        if binding is not None:
            function = function.__func__
        if not callable(function):
            raise TypeError(
                f"cached decorates functions, not a {type(function).__name__}: a property is put above it"
            )
        call_method = getattr(type(function), "__call__", None)  # noqa: B004  the method itself is needed
        for is_generator in (inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            if is_generator(function) or is_generator(call_method):
                raise TypeError(
                    f"{describe(function)} is a generator function, whose result can be read only once: "
                    "return a list"
                )
        is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            call_method
        )
        if isinstance(self._cache, SyncLoading if is_coroutine else AsyncBatchLoading):
            kind, other = ("coroutine", "plain") if is_coroutine else ("plain", "coroutine")
            needed = AsyncBatchLoading if is_coroutine else SyncLoading
            raise TypeError(
                f"{describe(function)} is a {kind} function, and {type(self._cache).__name__} caches {other} "
                f"functions: use {CACHE_NAMES[needed]}"
            )
        configs = list(configs_of(function))
        calls = self._calls(configs[-1].function if configs else function)
        if any(
            config.provider is self._cache and config.calls.pattern == calls.pattern
            for config in configs
        ):
            # Its load would wait for itself.
            raise TypeError(
                f"{calls.name} is cached twice in one cache under one key: pass another key= to one of the decorators"
            )
        if is_coroutine:
            config = CallConfig(self._cache, AsyncBatchLoading, function, calls, self.options)
            return CachedCoroutine[..., Any](config, binding)
        config = CallConfig(self._cache, SyncLoading, function, calls, self.options)
        return CachedFunction[..., Any](config, binding)


class CoroutineDecorator(Protocol):
    """The type of `cached(cache)` for an `AsyncRedisCache`."""

    def __call__(self, function: Callable[P, Awaitable[T]], /) -> CachedCoroutine[P, T]: ...


class FunctionDecorator(Protocol):
    """The type of `cached(cache)` for a `RedisCache`."""

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
) -> CoroutineDecorator: ...
@overload
def cached(
    cache: RedisCache,
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    long_keys: LongKeys = "raise",
    **loading: Unpack[LoadOptions],
) -> FunctionDecorator: ...
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
    """Cache the results of a function by its arguments, as `retrieve_or_load` does.

    Args:
        cache: an `AsyncRedisCache` for coroutine functions, a `RedisCache` for plain ones; or a
            function without parameters that returns the cache at each call, so that tests can replace it.
        timeout: the TTL of results, as for `store`.
        key: a template over the function's arguments, such as "user:{user_id}". By default the key
            consists of the function's name and its arguments. A template is required for functions
            without a name of their own, such as a lambda or one that captures variables, and for
            arguments, `self` included, without a text that identifies their state.
        type: the type that results are validated as; by default the annotated return type.
        long_keys: "hash": hash a key or tag from a template that the cache would refuse with BAD_KEY
            or BAD_TAG because it is longer than 512 bytes, empty, or contains control characters.
        **loading: see `LoadOptions`. Tags are templates, like `key`.

    Raises:
        TypeError: the cache caches the other kind of functions; the function needs `key`; a template
            names what is not a parameter; an option is unknown; `type` is not a type; the annotations
            contain a response, a generator or a request.
        ValueError: a template is invalid, such as "{user!x}".
        CacheInputError: BAD_TIMEOUT, BAD_LOAD_OPTION.
    """
    _check_cache(cache)
    _check_options(key, loading, _OTHER_NAMES, "`timeout=`, in milliseconds")
    if timeout is not None:
        milliseconds(timeout)
    if type is not None:
        check_type(type)
    tags = loading.pop("tags", ())
    LoadPolicies(Options()).of(loading)
    calls = partial(Calls, key=key, tags=tags, kind=type, long_keys=long_keys)
    return _Decorator(cache, calls, {"timeout": timeout, "type": None, **loading})


def cached_in_namespace(
    view: Any, kind: Any, key: str | None, loading: LoadOptions, **options: Any
) -> Any:
    """Do what `cached` does, with a type for the results of functions without a return annotation.

    Args:
        view: of the namespace.
        kind: the type of the namespace; None for no validation.
        key: as for `cached`.
        loading: as for `cached`.
        **options: the others of `cached`.

    Raises:
        TypeError, ValueError, CacheInputError: as for `cached`.
    """
    _check_options(key, loading, _OTHER_NAMES | {"timeout"}, "`ttl=`, in seconds")
    decorate: Callable[..., _Decorator] = cached
    decorator = decorate(view, key=key, **options, **loading)
    decorator.options["type"] = kind
    return decorator


def _check_options(key: Any, loading: LoadOptions, names: frozenset[str], hint: str) -> None:
    """Refuse a key that is not a template, and other names of the TTL.

    Args:
        key: as for `cached`.
        loading: as for `cached`.
        names: of the TTL in other libraries.
        hint: its name here, with the unit.

    Raises:
        TypeError: often because the decorator was applied without parentheses.
    """
    if callable(key):
        problem = (
            "the key of cached must be a str, not a function: write the decorator with parentheses"
        )
        raise TypeError(problem)
    for name in names.intersection(loading):
        raise TypeError(f"unknown option `{name}` of cached; did you mean {hint}?")


def _check_cache(cache: Any) -> None:
    """Refuse an argument that is neither a cache nor a provider of one.

    Raises:
        TypeError: often because the decorator was applied without parentheses.
    """
    if isinstance(cache, AnyCache):
        return
    if inspect.isclass(cache) or not callable(cache):
        found = (
            cache.__name__ if inspect.isclass(cache) else f"an instance of {type(cache).__name__}"
        )
        raise TypeError(
            "cached takes an AsyncRedisCache, a RedisCache, or a plain function without parameters that returns "
            f"one, not {found}: write @cached(cache)"
        )
    try:
        signature_of(cache).bind()
        needs_arguments = False
    except TypeError:
        needs_arguments = True
    except ValueError:
        # A built-in without a signature.
        needs_arguments = False
    if needs_arguments or inspect.iscoroutinefunction(cache):
        raise TypeError(
            "cached needs parentheses: write @cached(cache). The cache may also be a plain function without "
            "parameters that returns it"
        )


_BINDINGS: Final[tuple[type, ...]] = (classmethod, staticmethod)
_OTHER_NAMES: Final = frozenset(
    {"ttl", "ttl_ms", "expire", "expires", "expiry", "ex", "px", "max_age"}
)

# See the end of `async_redis_cache/__init__.py`.
cached.__module__ = "async_redis_cache"
