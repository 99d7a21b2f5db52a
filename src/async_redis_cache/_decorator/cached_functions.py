"""Functions whose results are cached: what a decorated function is."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from async_redis_cache._api.async_cache import AsyncRedisCache
from async_redis_cache._api.sync_cache import RedisCache

from .cached_calls import Calls
from .uncacheable import refuse_result

__all__ = ["AnyCache", "CachedCoroutine", "CachedFunction", "Source", "sources_of"]

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")

AnyCache = AsyncRedisCache | RedisCache


class _Tags(Iterable[str]):
    """The tags of a call, worked out when they are needed."""

    def __init__(self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = calls, args, kwargs

    def __iter__(self) -> Iterator[str]:
        calls, args, kwargs = self._call
        return iter(calls.tags(args, kwargs))


class Source:
    """A function, the cache of its results, and what its calls say to the cache.

    Args:
        cache: the cache, or a function that gives it at each call.
        kind: the class that the cache must have.
        function: the function.
        calls: its calls.
        options: the timeout and the load options of its calls.

    Attributes:
        cache: the cache; None if a function gives it.
        provider: the cache, or that function.
        said: what each call says to the cache; None until the first, or if the calls differ in it.
    """

    def __init__(
        self,
        cache: AnyCache | Callable[[], AnyCache],
        kind: type,
        function: Callable[..., Any],
        calls: Calls,
        options: dict[str, Any],
    ) -> None:
        self.function = function
        self.calls = calls
        self.cache: Any = cache if isinstance(cache, AnyCache) else None
        self.said: dict[str, Any] | None = None
        self.provider: Any = cache
        self._kind = kind
        self._options = options

    def provided(self) -> Any:
        """The cache of this call, where a function gives it.

        Raises:
            TypeError: it has given something else.
        """
        cache = self.provider()
        if not isinstance(cache, self._kind):
            raise TypeError(
                f"{self.calls.name} is cached by an instance of {self._kind.__name__}; its provider "
                f"returned an instance of {type(cache).__name__}"
            )
        return cache

    def options(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What a call says to the cache."""
        # Not sooner: what an annotation names may come after the function.
        said = {**self._options, "type": self.calls.kind()}
        if self.calls.has_tags:
            return {**said, "tags": _Tags(self.calls, args, kwargs)}
        self.said = said
        return said

    async def awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a coroutine function.

        Raises:
            TypeError: it is none that can be cached.
        """
        result = await self.function(*args, **kwargs)
        refuse_result(result, self.calls.name)
        return result

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a plain function.

        Raises:
            TypeError: it is none that can be cached.
        """
        result = self.function(*args, **kwargs)
        refuse_result(result, self.calls.name)
        return result


class _Cached(Generic[P, T]):
    """A function whose results are cached."""

    # What is here is out of reach of decorators, which copy the attributes of a function to what
    # they make of it.
    __slots__ = ("__dict__", "__weakref__", "_binding", "_bound", "_source")

    def __init__(self, source: Source, binding: type | None) -> None:
        self._source = source
        self._binding = binding
        self._bound: tuple[Any, ...] = ()
        function: Any = source.function
        vars(self).update(__name__=type(function).__name__, __qualname__=source.calls.name)
        update_wrapper(cast("Any", self), function, updated=())
        own = dir(type(self))
        vars(self).update(
            (name, value)
            for name, value in getattr(function, "__dict__", {}).items()
            if name not in own and name not in vars(self)
        )

    def __repr__(self) -> str:
        bound = f" of a {type(self._bound[0]).__name__}" if self._bound else ""
        return f"<{type(self).__name__} {self._source.calls.name}{bound}>"

    def __eq__(self, other: object) -> bool:
        """Whether it is the same function of the same object, as for methods."""
        if not isinstance(other, _Cached):
            return NotImplemented
        another: _Cached[Any, Any] = other  # pyright: ignore[reportUnknownVariableType]
        return self._identity() == another._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[int, ...]:
        return id(self._source), *map(id, self._bound)

    def __reduce__(self) -> Any:
        # By name, as a function is.
        if self._bound:
            return getattr, (self._bound[0], vars(self)["__name__"])
        return vars(self)["__qualname__"]

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which the result of such a call is cached.

        Raises:
            TypeError: the arguments are none for this function, or one cannot be in a key.
        """
        calls = self._source.calls
        if (
            calls.takes_class
            and not self._bound
            and not any(isinstance(arg, type) for arg in args[:1])
        ):
            # From Python 3.13 on, a class method binds what it wraps for a call and nothing else.
            raise TypeError(
                f"the class of {calls.name} is not known: put cached above classmethod, or give the class "
                "as the first argument"
            )
        return calls.key(self._bound + args, kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function, as `inspect.signature` asks for it; without the receiver once bound."""
        signature = self._source.calls.signature
        parameters = tuple(signature.parameters.values())[len(self._bound) :]
        return signature.replace(parameters=parameters)

    def _uncached(self) -> Any:
        function = self._source.function
        return partial(function, *self._bound) if self._bound else function

    def _bound_to(self, instance: object, owner: type | None) -> Any:
        if self._binding is staticmethod or self._bound:
            return self
        if self._binding is classmethod:
            instance = owner if owner is not None else type(instance)
        elif instance is None:
            return self
        # At each use of a method, so nothing is looked at anew.
        bound = object.__new__(type(self))
        bound._source = self._source
        bound._binding = self._binding
        bound._bound = (instance,)
        vars(bound).update(vars(self))
        return bound


class CachedCoroutine(_Cached[P, T]):
    """A coroutine function whose results are cached."""

    __slots__ = ()

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The cached result, or that of the function.

        Raises:
            TypeError: an argument cannot be in a key, or the result cannot be cached.
            CacheError: as for `retrieve_or_load`.
            Exception: what the function raised.
        """
        source = self._source
        given = self._bound + args
        result: T = await (source.cache or source.provided()).retrieve_or_load(
            None,
            source.calls.key(given, kwargs),
            # Faster than a partial, of which most calls make one for nothing.
            lambda: source.awaited(given, kwargs),
            **(source.said or source.options(given, kwargs)),
        )
        return result

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of such a call.

        Raises:
            CacheError: as for `remove`.
        """
        source = self._source
        await (source.cache or source.provided()).remove(None, self.key(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function now, and cache its result.

        Raises:
            TypeError: an argument cannot be in a key, or the result cannot be cached.
            CacheError: as for `refresh` of the cache.
            Exception: what the function raised.
        """
        source = self._source
        given = self._bound + args
        result: T = await (source.cache or source.provided()).refresh(
            None,
            self.key(*args, **kwargs),
            lambda: source.awaited(given, kwargs),
            **(source.said or source.options(given, kwargs)),
        )
        return result

    @property
    def uncached(self) -> Callable[P, Coroutine[Any, Any, T]]:
        """The function itself."""
        uncached: Callable[P, Coroutine[Any, Any, T]] = self._uncached()
        return uncached

    # The first is a class method's, of which checkers see the function alone. By what it can be
    # called with: mypy takes it for any other if it is compared as a class with parameters.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[S], Q], Coroutine[Any, Any, T]],
        instance: S | None,
        owner: type[S],
    ) -> CachedCoroutine[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], Coroutine[Any, Any, T]],
        instance: S,
        owner: type | None = None,
    ) -> CachedCoroutine[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._bound_to(instance, owner)


def _mark_as_coroutine_function(kind: type) -> None:
    """Let `inspect.iscoroutinefunction` be true for instances of a class, and not for the class."""
    marks: dict[str, Any]
    if sys.version_info >= (3, 12):

        def marked() -> None:
            """Bears the mark."""

        inspect.markcoroutinefunction(marked)
        marks = vars(marked)
    else:
        # Before there was a mark, the flags of its code made a function one of coroutines.
        code: Any = vars(kind)["__call__"]
        marks = {"__code__": code.__code__, "__defaults__": None, "__kwdefaults__": None}
    for name, mark in marks.items():
        setattr(kind, name, property(partial(_given, mark)))


def _given(mark: object, _: object) -> object:
    return mark


_mark_as_coroutine_function(CachedCoroutine)


class CachedFunction(_Cached[P, T]):
    """A function whose results are cached, called in a worker thread when they are not."""

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The cached result, or that of the function.

        Raises:
            TypeError: an argument cannot be in a key, or the result cannot be cached.
            CacheError: as for `retrieve_or_load`.
            Exception: what the function raised.
        """
        source = self._source
        given = self._bound + args
        result: T = (source.cache or source.provided()).retrieve_or_load(
            None,
            source.calls.key(given, kwargs),
            lambda: source.called(given, kwargs),
            **(source.said or source.options(given, kwargs)),
        )
        return result

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of such a call.

        Raises:
            CacheError: as for `remove`.
        """
        source = self._source
        (source.cache or source.provided()).remove(None, self.key(*args, **kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function now, and cache its result.

        Raises:
            TypeError: an argument cannot be in a key, or the result cannot be cached.
            CacheError: as for `refresh` of the cache.
            Exception: what the function raised.
        """
        source = self._source
        given = self._bound + args
        result: T = (source.cache or source.provided()).refresh(
            None,
            self.key(*args, **kwargs),
            lambda: source.called(given, kwargs),
            **(source.said or source.options(given, kwargs)),
        )
        return result

    @property
    def uncached(self) -> Callable[P, T]:
        """The function itself."""
        uncached: Callable[P, T] = self._uncached()
        return uncached

    # The first is a class method's, of which checkers see the function alone. By what it can be
    # called with: mypy takes it for any other if it is compared as a class with parameters.
    @overload
    def __get__(  # type: ignore[misc]
        self: Callable[Concatenate[type[S], Q], T], instance: S | None, owner: type[S]
    ) -> CachedFunction[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> CachedFunction[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Self: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self._bound_to(instance, owner)


def sources_of(function: Any) -> Iterator[Source]:
    """What is known of a function that is cached, by whatever number of caches."""
    while isinstance(function, _Cached):
        source = function._source  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        yield source
        function = source.function
