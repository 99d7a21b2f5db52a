"""Loaders: the callables that load a value, and the `Load` that they may take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic

from async_redis_cache._common.durations import Timeout
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._engine.loader_threads import LoaderThreads

if TYPE_CHECKING:
    # In `typing` from Python 3.13 on. `Load` without a parameter is `Load[Any]`.
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "NOT_MODIFIED",
    "DataLoader",
    "Load",
    "Loader",
    "LoaderWrapper",
    "ValueLoader",
    "name_of",
    "run",
    "takes_load",
    "threads_of",
]

NOT_MODIFIED: Final[Any] = object()
_CACHED: Final = "async_redis_cache._decorator.cached_functions"
_LONGEST: Final = 200


class Load(Generic[T]):
    """One load, as its loader sees and steers it.

    Attributes:
        key: whose value is loaded.
        stale: the value that it will replace; None where there is none. It is of the type that the
            call has as `type=`; without one it is what the serializer makes of it.
        timeout: the life of what is loaded, as for `store`; may be set.
        tags: what it bears, as for `store`; may be set.
    """

    def __init__(self, key: str, stale: T | None, timeout: Timeout, tags: Iterable[str]) -> None:
        self.key: str = key
        self.stale: T | None = stale
        self.timeout: Timeout = timeout
        self.tags: Iterable[str] = tags
        self._cached = True
        self._threads: LoaderThreads | None = None
        """Where a loader of this load may be called that blocks."""

    def __repr__(self) -> str:
        return f"<Load of {self.key!r}>"

    def not_modified(self) -> T:
        """To be returned by the loader: the present value is still right, and gets a new life.

        Raises:
            LookupError: there is none.
        """
        if self.stale is None:
            raise LookupError("there is no value that could be still right")
        unmodified: T = NOT_MODIFIED
        return unmodified

    def do_not_cache(self) -> None:
        """Give what is loaded to those who wait for it, and do not store it."""
        self._cached = False

    @property
    def cached(self) -> bool:
        """Whether what is loaded will be stored."""
        return self._cached


Loader = Callable[[], Any] | Callable[[Load[Any]], Any]
"""A function that gives a value, or something to await for it. If it has a parameter that must be
given, it is given a `Load`."""
_Data = Mapping[str, Any] | Sequence[Any]
DataLoader = (
    Callable[[], Awaitable[_Data] | _Data] | Callable[[Load[Any]], Awaitable[_Data] | _Data]
)
"""A `Loader` of rows: what it gives is validated as another type, and is never None."""
ValueLoader = (
    Callable[[], Awaitable[T]]
    | Callable[[Load[Any]], Awaitable[T]]
    | Callable[[], T]
    | Callable[[Load[Any]], T]
)
"""A `Loader` that gives a T, at once or when awaited."""


async def run(call: Callable[[], Any], threads: LoaderThreads | None) -> Any:
    """What this gives, called in a thread if there are threads; where it can be awaited, what it gives then.

    The result is looked at, not the function: a lambda may hide a coroutine function.
    """
    if threads is not None and not inspect.iscoroutinefunction(call):
        result = await threads.run(call)
    else:
        result = call()
    if inspect.isawaitable(result):
        return await result
    return result


def threads_of(load: Load) -> LoaderThreads:
    """Where a loader of this load may be called that blocks."""
    threads = load._threads  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return threads or LoaderThreads(math.inf, CacheStats())


def takes_load(loader: Loader) -> bool:
    """Whether a loader takes a `Load`: whether it has a parameter that must be given."""
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (ValueError, TypeError):
        # Built in, and not telling.
        return False
    return any(
        parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        for parameter in parameters
    )


class LoaderWrapper:
    """A loader that calls another one, whose name it has in spans and log records."""

    _loader: Callable[..., Any]


def name_of(loader: Callable[..., Any]) -> str:
    """The function that a loader calls, as `module.qualified_name`.

    That of a cached function is the function's, of a partial or a coalescing loader that of what it calls, and
    of another callable its class's.
    """
    function: Any = loader
    while (inner := _inside(function)) is not None:
        function = inner
    if isinstance(function, str):
        return function
    kind: type[Any] = type(function)  # pyright: ignore[reportUnknownVariableType]
    named: Any = function if hasattr(function, "__qualname__") else kind
    name = f"{named.__module__}.{named.__qualname__}"
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _inside(function: Any) -> Any:
    """What this stands for, where it does."""
    if isinstance(function, partial):
        return function.func
    if isinstance(function, LoaderWrapper):
        return function._loader  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    owner = getattr(function, "__self__", None)
    if isinstance(owner, LoaderWrapper):
        return owner
    if getattr(function, "__module__", None) == _CACHED:
        # What a cached function gives to the cache knows the function by the variable that it has closed over.
        for cell in getattr(function, "__closure__", None) or ():
            name = getattr(getattr(cell.cell_contents, "calls", None), "name", None)
            if isinstance(name, str):
                return name
    return None
