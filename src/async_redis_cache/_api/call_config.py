"""What all calls of a cached function have in common: its cache, and the options of the calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from async_redis_cache._calls.cached_calls import Calls
from async_redis_cache._common.stats import COUNTED_BY_PART, CacheStats

from .batch_loading import AsyncBatchLoading
from .sync_loading import SyncLoading
from .view import function_view_of

__all__ = ["CACHE_NAMES", "AnyCache", "CallConfig"]

AnyCache = AsyncBatchLoading | SyncLoading
"""A cache: `AsyncRedisCache` or `RedisCache`, by the base class that its methods come from."""
CACHE_NAMES: Final[Mapping[type, str]] = {
    AsyncBatchLoading: "AsyncRedisCache",
    SyncLoading: "RedisCache",
}
"""The class that error messages name, by base class."""


class _Tags(Iterable[str]):
    """The tags of a call, derived from its arguments only when they are needed."""

    def __init__(self, calls: Calls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._call = calls, args, kwargs

    def __iter__(self) -> Iterator[str]:
        calls, args, kwargs = self._call
        return iter(calls.tags(args, kwargs))


class CallConfig:
    """What all calls of a cached function have in common.

    Args:
        cache: the cache, or a function that returns it at each call.
        kind: the base class that the cache must have.
        function: the function.
        calls: derives keys, tags and the result type.
        options: the timeout and the load options of the calls, and the type of results if the function says none.

    Attributes:
        cache: the view of the cache for the calls of this function; None if a function returns the cache.
        provider: the `cache` argument.
        fixed_options: the keyword arguments of each call of the cache; None before the first call, or if they
            differ between calls because of tags.
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
        self.cache: Any = (
            function_view_of(cache, calls.name) if isinstance(cache, AnyCache) else None
        )
        self._views: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.fixed_options: dict[str, Any] | None = None
        self.provider: Any = cache
        self._kind = kind
        self._options = options

    def provided(self) -> Any:
        """Call the provider, and return the view of its cache for the calls of this function.

        Raises:
            TypeError: it returned something else.
        """
        cache = self.provider()
        if not isinstance(cache, self._kind):
            raise TypeError(
                f"{self.calls.name} needs an instance of {CACHE_NAMES[self._kind]} as its cache; the provider "
                f"returned an instance of {type(cache).__name__}"
            )
        view = self._views.get(cache)
        if view is None:
            # Two threads that do this have two views with the same counters.
            view = self._views[cache] = function_view_of(cache, self.calls.name)
        return view

    def stats(self) -> CacheStats:
        """Return what the calls of this function have counted, in all caches that the provider has returned."""
        views = [self.cache] if self.cache is not None else list(self._views.values())
        total = CacheStats()
        for counted in (view.stats() for view in views):
            for name in COUNTED_BY_PART:
                setattr(total, name, getattr(total, name) + getattr(counted, name))
        return total

    def options(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments for the cache."""
        # Not earlier: the annotation may name a class that is defined after the function.
        options = {**self._options}
        if (kind := self.calls.kind()) is not None:
            options["type"] = kind
        if self.calls.has_tags:
            return {**options, "tags": _Tags(self.calls, args, kwargs)}
        self.fixed_options = options
        return options
