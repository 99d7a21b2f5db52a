"""Functions whose results are cached: `cached`, for coroutine functions and for plain ones."""

from __future__ import annotations

import hashlib
import inspect
import string
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, update_wrapper
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    get_type_hints,
    overload,
)

import msgspec

from ._cache import AsyncRedisCache
from ._load_options import LoadOptions
from ._sync_cache import RedisCache
from ._timeouts import Timeout

__all__ = ["CachedCoroutine", "CachedFunction", "cached"]

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
T = TypeVar("T")

_LONGEST_KEY: Final = 200
"""Bytes of the arguments in a key that was not given; what is longer is hashed."""
_RECEIVERS: Final = {"self", "cls"}


class _Plan:
    """How a function is cached: what every call of it has in common."""

    def __init__(
        self, function: Callable[..., Any], key: str | None, kind: Any, about: dict[str, Any]
    ) -> None:
        self.function = function
        self.about = about
        self._kind = kind
        self._signature = inspect.signature(function)
        self._template = key
        parameters = self._signature.parameters.values()
        self._names = tuple(self._signature.parameters)
        self._is_simple = all(
            parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters
        )
        # The receiver of a method has no text of its own that other processes would agree on.
        self._left_out = {*self._names[:1]} & _RECEIVERS
        self._name = f"{function.__module__}.{function.__qualname__}"
        # The template over positions, for calls that name nothing: that is the faster way.
        self._by_position = "" if key is None else _by_position(key, self._names, self._name)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a call with these arguments."""
        if self._by_position and not kwargs and len(args) == len(self._names) and self._is_simple:
            return self._by_position.format(*args)
        given = self._arguments(args, kwargs)
        if self._template is not None:
            return self._template.format_map(given)
        for name in self._left_out:
            del given[name]
        return f"{self._name}({_text_of(given, self._name)})"

    def kind(self) -> Any:
        """What the value is validated as: as was said, otherwise as the function is annotated."""
        if self._kind is None:
            # Only now: what an annotation names may come after the function.
            try:
                annotated = get_type_hints(self.function, include_extras=True).get("return", Any)
            except NameError as error:
                problem = f"the annotations of {self._name} cannot be resolved; give type="
                raise TypeError(problem) from error
            self._kind = _UNTYPED if annotated in {Any, None, type(None)} else annotated
        return None if self._kind is _UNTYPED else self._kind

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._is_simple and len(args) + len(kwargs) == len(self._names):
            given = {**dict(zip(self._names, args, strict=False)), **kwargs}
            if given.keys() == self._signature.parameters.keys():
                return given
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


_UNTYPED: Final = object()


class _Cached(Generic[P, T]):
    """A function whose results are cached."""

    def __init__(self, plan: _Plan, bound: tuple[Any, ...]) -> None:
        self._plan = plan
        self._bound = bound
        self.__signature__ = inspect.signature(plan.function)
        wrapper: Any = self
        update_wrapper(wrapper, plan.function)
        if bound:
            others = tuple(self.__signature__.parameters.values())[len(bound) :]
            self.__signature__ = self.__signature__.replace(parameters=others)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key under which the result of such a call is cached."""
        return self._plan.key(self._bound + args, kwargs)

    def _loader(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        # Faster than a partial, of which most calls make one for nothing.
        return lambda: self._plan.function(*self._bound, *args, **kwargs)


class CachedCoroutine(_Cached[P, T]):
    """A coroutine function whose results are cached."""

    def __init__(self, cache: AsyncRedisCache, plan: _Plan, bound: tuple[Any, ...] = ()) -> None:
        super().__init__(plan, bound)
        self._cache = cache

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The cached result, or that of the function.

        Raises:
            CacheError: as for `retrieve_or_load`.
            Exception: what the function raised.
        """
        plan = self._plan
        key, loader = plan.key(self._bound + args, kwargs), self._loader(args, kwargs)
        load: Any = self._cache.retrieve_or_load
        result: T = await load(None, key, loader, type=plan.kind(), **plan.about)
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
        loader = self._loader(args, kwargs)
        about = self._plan.about
        kind = self._plan.kind()
        result: T = await self._cache.refresh(
            None, self.key(*args, **kwargs), loader, type=kind, **about
        )
        return result

    @property
    def uncached(self) -> Callable[P, Coroutine[Any, Any, T]]:
        """The function itself."""
        return partial(self._plan.function, *self._bound) if self._bound else self._plan.function

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: CachedCoroutine[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> CachedCoroutine[Q, T]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return CachedCoroutine[..., Any](self._cache, self._plan, (instance,))


class CachedFunction(_Cached[P, T]):
    """A function whose results are cached, called in a worker thread when they are not."""

    def __init__(self, cache: RedisCache, plan: _Plan, bound: tuple[Any, ...] = ()) -> None:
        super().__init__(plan, bound)
        self._cache = cache

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The cached result, or that of the function.

        Raises:
            CacheError: as for `retrieve_or_load`.
            Exception: what the function raised.
        """
        plan = self._plan
        key, loader = plan.key(self._bound + args, kwargs), self._loader(args, kwargs)
        load: Any = self._cache.retrieve_or_load
        result: T = load(None, key, loader, type=plan.kind(), **plan.about)
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
        loader = self._loader(args, kwargs)
        kind = self._plan.kind()
        result: T = self._cache.refresh(
            None, self.key(*args, **kwargs), loader, type=kind, **self._plan.about
        )
        return result

    @property
    def uncached(self) -> Callable[P, T]:
        """The function itself."""
        return partial(self._plan.function, *self._bound) if self._bound else self._plan.function

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], T], instance: S, owner: type | None = None
    ) -> CachedFunction[Q, T]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return CachedFunction[..., Any](self._cache, self._plan, (instance,))


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
        **loading: see `LoadOptions`.

    Raises:
        TypeError: the function is not of the cache's kind; the template names what is no argument.
    """
    about = {"timeout": timeout, **loading}

    def decorate(function: Callable[..., Any]) -> Any:
        is_coroutine = inspect.iscoroutinefunction(function)
        if is_coroutine is isinstance(cache, RedisCache):
            kind = "plain functions" if is_coroutine else "coroutine functions"
            raise TypeError(f"{cache.__class__.__name__} caches {kind}")
        plan = _Plan(function, key, type, about)
        if isinstance(cache, RedisCache):
            return CachedFunction[..., Any](cache, plan)
        return CachedCoroutine[..., Any](cache, plan)

    return decorate


def _by_position(template: str, names: tuple[str, ...], function: str) -> str:
    """The template, with the positions of the arguments that it names in place of their names.

    Raises:
        TypeError: it names what is no argument.
    """
    parts: list[str] = []
    for text, field, form, conversion in string.Formatter().parse(template):
        parts.append(text.replace("{", "{{").replace("}", "}}"))
        if field is None:
            continue
        # "user.id" and "row[id]" are of the arguments "user" and "row".
        name = field.replace("[", ".").partition(".")[0]
        if name not in names:
            raise TypeError(
                f"the key of {function} names {field!r}, which is none of its arguments"
            )
        place = f"{names.index(name)}{field[len(name) :]}"
        convert = f"!{conversion}" if conversion else ""
        parts.append(f"{{{place}{convert}{f':{form}' if form else ''}}}")
    return "".join(parts)


def _text_of(given: dict[str, Any], function: str) -> str:
    try:
        encoded = msgspec.json.encode(given, order="deterministic")
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"the arguments of {function} are no key: give key=") from error
    text = encoded[1:-1].decode()
    if len(encoded) > _LONGEST_KEY or not text.isprintable():
        return hashlib.sha256(encoded).hexdigest()
    return text
