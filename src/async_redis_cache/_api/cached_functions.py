"""Cached functions: what the decorator `cached` makes of a function."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial, update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from async_redis_cache._calls.uncacheable import refuse_result
from async_redis_cache._common.stats import CacheStats

from .call_config import CallConfig
from .loaders import NamedLoader

__all__ = ["CachedCoroutine", "CachedFunction", "configs_of"]

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")


class _CallLoader(NamedLoader):
    """The loader of one call of a cached function, with the name of the function for spans and log records.

    It is created for each call, hits included, which is as fast as creating a lambda.
    """

    __slots__ = ("_args", "_config", "_kwargs")
    # `inspect.signature`, which each load calls, returns this without inspecting `__call__`.
    __signature__ = inspect.Signature()

    def __init__(self, config: CallConfig, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._config = config
        self._args = args
        self._kwargs = kwargs

    @property
    def function_name(self) -> str:
        return self._config.calls.name


class _CoroutineLoader(_CallLoader):
    __slots__ = ()

    async def __call__(self) -> Any:
        config = self._config
        result = await config.function(*self._args, **self._kwargs)
        refuse_result(result, config.calls.name)
        return result


class _FunctionLoader(_CallLoader):
    __slots__ = ()

    def __call__(self) -> Any:
        config = self._config
        result = config.function(*self._args, **self._kwargs)
        refuse_result(result, config.calls.name)
        return result


class _Cached(Generic[P, T]):
    """A function whose results are cached."""

    # Slots, and not attributes in `__dict__`, which `functools.wraps` would copy to another function.
    __slots__ = ("__dict__", "__weakref__", "_binding", "_bound", "_config")

    # Those of the function.
    __name__: str
    __qualname__: str

    def __init__(self, config: CallConfig, binding: type | None) -> None:
        self._config = config
        self._binding = binding
        self._bound: tuple[Any, ...] = ()
        function: Any = config.function
        vars(self).update(__name__=type(function).__name__, __qualname__=config.calls.name)
        update_wrapper(cast("Any", self), function, updated=())
        reserved = dir(type(self))
        vars(self).update(
            (name, value)
            for name, value in getattr(function, "__dict__", {}).items()
            if name not in reserved and name not in vars(self)
        )

    def __repr__(self) -> str:
        bound = f" of a {type(self._bound[0]).__name__}" if self._bound else ""
        return f"<{type(self).__name__} {self._config.calls.name}{bound}>"

    def __eq__(self, other: object) -> bool:
        """Whether both are the same function, bound to the same object, as for methods."""
        if not isinstance(other, _Cached):
            return NotImplemented
        typed: _Cached[Any, Any] = other  # pyright: ignore[reportUnknownVariableType]
        return self._identity() == typed._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[int, ...]:
        return id(self._config), *map(id, self._bound)

    def __reduce__(self) -> Any:
        # By name, like any function.
        if self._bound:
            return getattr, (self._bound[0], vars(self)["__name__"])
        return vars(self)["__qualname__"]

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of the result of a call with these arguments.

        Raises:
            TypeError: the function does not take these arguments, or one cannot be part of a key.
        """
        calls = self._config.calls
        if (
            calls.takes_class
            and not self._bound
            and not any(isinstance(arg, type) for arg in args[:1])
        ):
            # From Python 3.13 on, `classmethod` binds the wrapped object only for calls.
            raise TypeError(
                f"the class of {calls.name} is not known: put cached above classmethod, or pass the class "
                "as the first argument"
            )
        return calls.key(self._bound + args, kwargs)

    def stats(self) -> CacheStats:
        """Return a snapshot of what the calls of this function have counted in this process, as `stats` of a namespace.

        Functions with the same name in one cache count together.
        """
        return self._config.stats()

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature of the function for `inspect.signature`, without the first parameter if it is bound."""
        signature = self._config.calls.signature
        parameters = tuple(signature.parameters.values())[len(self._bound) :]
        return signature.replace(parameters=parameters)

    def _uncached(self) -> Any:
        function = self._config.function
        return partial(function, *self._bound) if self._bound else function

    def _bound_to(self, instance: object, owner: type | None) -> Any:
        if self._binding is staticmethod or self._bound:
            return self
        if self._binding is classmethod:
            instance = owner if owner is not None else type(instance)
        elif instance is None:
            return self
        # Runs at each access to a method, so attributes are copied and not derived again.
        bound = object.__new__(type(self))
        bound._config = self._config
        bound._binding = self._binding
        bound._bound = (instance,)
        vars(bound).update(vars(self))
        return bound


class CachedCoroutine(_Cached[P, T]):
    """A coroutine function whose results are cached."""

    __slots__ = ()

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the cached result; call the function if there is none.

        Raises:
            TypeError: an argument cannot be part of a key, or the result cannot be cached.
            CacheError: as for `retrieve_or_load`.
            Exception: any exception of the function.
        """
        config = self._config
        all_args = self._bound + args
        result: T = await (config.cache or config.provided()).retrieve_or_load(
            None,
            config.calls.key(all_args, kwargs),
            _CoroutineLoader(config, all_args, kwargs),
            **(config.fixed_options or config.options(all_args, kwargs)),
        )
        return result

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove the cached result of a call with these arguments.

        Raises:
            CacheError: as for `remove`.
        """
        config = self._config
        await (config.cache or config.provided()).remove(None, self.key(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function now, cache its result and return it.

        Raises:
            TypeError: an argument cannot be part of a key, or the result cannot be cached.
            CacheError: as for `refresh` of the cache.
            Exception: any exception of the function.
        """
        config = self._config
        all_args = self._bound + args
        result: T = await (config.cache or config.provided()).refresh(
            None,
            self.key(*args, **kwargs),
            _CoroutineLoader(config, all_args, kwargs),
            **(config.fixed_options or config.options(all_args, kwargs)),
        )
        return result

    @property
    def uncached(self) -> Callable[P, Coroutine[Any, Any, T]]:
        """The original function."""
        uncached: Callable[P, Coroutine[Any, Any, T]] = self._uncached()
        return uncached

    # The first overload is for class methods, of which type checkers see only the function. `self` is typed as a
    # callable because mypy would match any cached function against the generic class.
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
    """Make `inspect.iscoroutinefunction` true for instances of a class, and not for the class itself."""
    marks: dict[str, Any]
    if sys.version_info >= (3, 12):

        def marked() -> None:
            """Marked as a coroutine function; only the mark is used."""

        inspect.markcoroutinefunction(marked)
        marks = vars(marked)
    else:
        # Before Python 3.12, only the flags of the code object marked a coroutine function.
        code: Any = vars(kind)["__call__"]
        marks = {"__code__": code.__code__, "__defaults__": None, "__kwdefaults__": None}
    for name, mark in marks.items():
        setattr(kind, name, property(partial(_constant, mark)))


def _constant(value: object, _: object) -> object:
    return value


_mark_as_coroutine_function(CachedCoroutine)


class CachedFunction(_Cached[P, T]):
    """A plain function whose results are cached. On a miss it is called in a worker thread."""

    __slots__ = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the cached result; call the function if there is none.

        Raises:
            TypeError: an argument cannot be part of a key, or the result cannot be cached.
            CacheError: as for `retrieve_or_load`.
            Exception: any exception of the function.
        """
        config = self._config
        all_args = self._bound + args
        result: T = (config.cache or config.provided()).retrieve_or_load(
            None,
            config.calls.key(all_args, kwargs),
            _FunctionLoader(config, all_args, kwargs),
            **(config.fixed_options or config.options(all_args, kwargs)),
        )
        return result

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove the cached result of a call with these arguments.

        Raises:
            CacheError: as for `remove`.
        """
        config = self._config
        (config.cache or config.provided()).remove(None, self.key(*args, **kwargs))

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function now, cache its result and return it.

        Raises:
            TypeError: an argument cannot be part of a key, or the result cannot be cached.
            CacheError: as for `refresh` of the cache.
            Exception: any exception of the function.
        """
        config = self._config
        all_args = self._bound + args
        result: T = (config.cache or config.provided()).refresh(
            None,
            self.key(*args, **kwargs),
            _FunctionLoader(config, all_args, kwargs),
            **(config.fixed_options or config.options(all_args, kwargs)),
        )
        return result

    @property
    def uncached(self) -> Callable[P, T]:
        """The original function."""
        uncached: Callable[P, T] = self._uncached()
        return uncached

    # The first overload is for class methods, of which type checkers see only the function. `self` is typed as a
    # callable because mypy would match any cached function against the generic class.
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


def configs_of(function: Any) -> Iterator[CallConfig]:
    """Yield the configuration of each decorator `cached` on a function, the outermost first."""
    while isinstance(function, _Cached):
        config = function._config  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        yield config
        function = config.function


# See the end of `async_redis_cache/__init__.py`.
CachedCoroutine.__module__ = "async_redis_cache"
CachedFunction.__module__ = "async_redis_cache"
