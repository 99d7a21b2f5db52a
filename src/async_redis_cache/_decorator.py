"""Functions whose results are cached: `cached`, for coroutine functions and for plain ones."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import cached_property, partial, update_wrapper
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

from ._cache import AsyncRedisCache
from ._calls import Calls
from ._load_options import LoadOptions
from ._sync_cache import RedisCache
from ._timeouts import Timeout

__all__ = ["CachedCoroutine", "CachedFunction", "cached"]

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")


class _Tags(Iterable[str]):
    """The tags of a call, once somebody wants them."""

    def __init__(self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = calls, args, kwargs

    def __iter__(self) -> Iterator[str]:
        calls, args, kwargs = self._call
        return iter(calls.tags(args, kwargs))


class _Cached(Generic[P, T]):
    """A function whose results are cached.

    Args:
        function: the function.
        calls: its calls.
        about: what is said to the cache at each, its timeout and load options.
    """

    def __init__(self, function: Callable[..., Any], calls: Calls, about: dict[str, Any]) -> None:
        self._function = function
        self._calls = calls
        self._options = about
        self._bound: tuple[Any, ...] = ()
        wrapper: Any = self
        update_wrapper(wrapper, function)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which the result of such a call is cached."""
        return self._calls.key(self._bound + args, kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function, as `inspect.signature` asks for it; without the receiver once bound."""
        signature = self._calls.signature
        parameters = tuple(signature.parameters.values())[len(self._bound) :]
        return signature.replace(parameters=parameters)

    @cached_property
    def _said(self) -> dict[str, Any]:
        """What is said to the cache about every call. Not sooner: an annotation may come later."""
        return {**self._options, "type": self._calls.kind()}

    def _about(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What is said to the cache about a call."""
        if not self._calls.has_tags:
            return self._said
        # Looked at when something is loaded, and worked out no sooner.
        return {**self._said, "tags": _Tags(self._calls, args, kwargs)}

    def _uncached(self) -> Callable[..., Any]:
        return partial(self._function, *self._bound) if self._bound else self._function

    def _bound_to(self, instance: object) -> Any:
        if instance is None:
            return self
        # At each use of a method, so nothing is looked at anew.
        bound = object.__new__(type(self))
        vars(bound).update(vars(self), _bound=(instance,))
        return bound


class CachedCoroutine(_Cached[P, T]):
    """A coroutine function whose results are cached."""

    def __init__(
        self,
        cache: AsyncRedisCache,
        function: Callable[..., Any],
        calls: Calls,
        about: dict[str, Any],
    ) -> None:
        super().__init__(function, calls, about)
        self._cache = cache

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The cached result, or that of the function.

        Raises:
            CacheError: as for `retrieve_or_load`.
            Exception: what the function raised.
        """
        given = self._bound + args
        load: Any = self._cache.retrieve_or_load
        result: T = await load(
            None,
            self._calls.key(given, kwargs),
            # Faster than a partial, of which most calls make one for nothing.
            lambda: self._function(*given, **kwargs),
            **(self._about(given, kwargs) if self._calls.has_tags else self._said),
        )
        return result

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of such a call.

        Raises:
            CacheError: as for `remove`.
        """
        await self._cache.remove(None, self.key(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function now, and cache its result.

        Raises:
            CacheError: as for `refresh` of the cache.
            Exception: what the function raised.
        """
        given = self._bound + args
        refresh: Any = self._cache.refresh
        result: T = await refresh(
            None,
            self._calls.key(given, kwargs),
            lambda: self._function(*given, **kwargs),
            **self._about(given, kwargs),
        )
        return result

    @property
    def uncached(self) -> Callable[P, Coroutine[Any, Any, T]]:
        """The function itself."""
        return self._uncached()

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: CachedCoroutine[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> CachedCoroutine[Q, T]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._bound_to(instance)


class CachedFunction(_Cached[P, T]):
    """A function whose results are cached, called in a worker thread when they are not."""

    def __init__(
        self,
        cache: RedisCache,
        function: Callable[..., Any],
        calls: Calls,
        about: dict[str, Any],
    ) -> None:
        super().__init__(function, calls, about)
        self._cache = cache

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The cached result, or that of the function.

        Raises:
            CacheError: as for `retrieve_or_load`.
            Exception: what the function raised.
        """
        given = self._bound + args
        load: Any = self._cache.retrieve_or_load
        result: T = load(
            None,
            self._calls.key(given, kwargs),
            lambda: self._function(*given, **kwargs),
            **self._about(given, kwargs),
        )
        return result

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of such a call.

        Raises:
            CacheError: as for `remove`.
        """
        self._cache.remove(None, self.key(*args, **kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function now, and cache its result.

        Raises:
            CacheError: as for `refresh` of the cache.
            Exception: what the function raised.
        """
        given = self._bound + args
        refresh: Any = self._cache.refresh
        result: T = refresh(
            None,
            self._calls.key(given, kwargs),
            lambda: self._function(*given, **kwargs),
            **self._about(given, kwargs),
        )
        return result

    @property
    def uncached(self) -> Callable[P, T]:
        """The function itself."""
        return self._uncached()

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> CachedFunction[Q, T]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._bound_to(instance)


@overload
def cached(
    cache: AsyncRedisCache,
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    **loading: Unpack[LoadOptions],
) -> Callable[[Callable[P, Awaitable[T]]], CachedCoroutine[P, T]]: ...
@overload
def cached(
    cache: RedisCache,
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    **loading: Unpack[LoadOptions],
) -> Callable[[Callable[P, T]], CachedFunction[P, T]]: ...
def cached(
    cache: AsyncRedisCache | RedisCache,
    *,
    timeout: Timeout = None,
    key: str | None = None,
    type: Any = None,
    **loading: Unpack[LoadOptions],
) -> Callable[[Callable[..., Any]], Any]:
    """Cache what a function gives, by its arguments, as `retrieve_or_load` does.

    Args:
        cache: an `AsyncRedisCache` for coroutine functions, a `RedisCache` for plain ones.
        timeout: as for `store`.
        key: a template such as "user:{user_id}" over the function's arguments. Without one, the key
            is the function's qualified name and its arguments, which must then be what JSON can
            hold; the receiver of a method is not in it.
        type: what results are validated as; by default as the function's return is annotated.
        **loading: see `LoadOptions`; tags are templates as the key.

    Raises:
        TypeError: the function is not of the cache's kind; a template names what is no argument.
    """
    tags = loading.pop("tags", ())
    about = {"timeout": timeout, **loading}

    def decorate(function: Callable[..., Any]) -> Any:
        is_coroutine = inspect.iscoroutinefunction(function)
        if is_coroutine is isinstance(cache, RedisCache):
            kind = "plain functions" if is_coroutine else "coroutine functions"
            raise TypeError(f"{cache.__class__.__name__} caches {kind}")
        calls = Calls(function, key, tags, type)
        if isinstance(cache, RedisCache):
            return CachedFunction[..., Any](cache, function, calls, about)
        return CachedCoroutine[..., Any](cache, function, calls, about)

    return decorate
