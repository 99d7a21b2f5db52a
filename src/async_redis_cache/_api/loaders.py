"""Loaders: the callables that load a value, and the `Load` that they may take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic

from async_redis_cache._common.annotations import signature_of
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
    "ABSENT",
    "NOT_MODIFIED",
    "DataLoader",
    "Load",
    "Loader",
    "NamedLoader",
    "ValueLoader",
    "name_of",
    "run",
    "takes_load",
    "threads_of",
]

NOT_MODIFIED: Final[Any] = object()
ABSENT: Final[Any] = object()
"""The value of a key that is not in the mapping of a batch loader. It differs from None where None is a value."""
_LONGEST: Final = 200


class Load(Generic[T]):
    """A load in progress, for a loader that takes it as its parameter.

    Attributes:
        key: the key to load the value of.
        stale: the value to be replaced, or None. It has the type that the call has as `type=`; without one,
            it is the result of the serializer.
        timeout: the TTL of the loaded value, as for `store`; the loader may set it.
        tags: the tags of the loaded value, as for `store`; the loader may set them.
    """

    def __init__(self, key: str, stale: T | None, timeout: Timeout, tags: Iterable[str]) -> None:
        self.key: str = key
        self.stale: T | None = stale
        self.timeout: Timeout = timeout
        self.tags: Iterable[str] = tags
        self._cached = True
        self._has_stale = stale is not None
        self._threads: LoaderThreads | None = None
        """The threads in which this load may call a blocking loader."""

    def __repr__(self) -> str:
        return f"<Load of {self.key!r}>"

    def not_modified(self) -> T:
        """Return a result for the loader to return: the stale value is kept, with a new TTL.

        Raises:
            LookupError: there is no stale value.
        """
        if not self._has_stale:
            raise LookupError("there is no stale value to keep")
        unmodified: T = NOT_MODIFIED
        return unmodified

    def do_not_cache(self) -> None:
        """Return the loaded value to the callers without storing it."""
        self._cached = False

    @property
    def cached(self) -> bool:
        """Whether the loaded value will be stored."""
        return self._cached


Loader = Callable[[], Any] | Callable[[Load[Any]], Any]
"""A function that returns a value or an awaitable of one. If it has a required parameter, it is called with
a `Load`."""
_Data = Mapping[str, Any] | Sequence[Any]
DataLoader = (
    Callable[[], Awaitable[_Data] | _Data] | Callable[[Load[Any]], Awaitable[_Data] | _Data]
)
"""A `Loader` of raw data, such as rows, to be validated as another type; the data is never None."""
ValueLoader = (
    Callable[[], Awaitable[T]]
    | Callable[[Load[Any]], Awaitable[T]]
    | Callable[[], T]
    | Callable[[Load[Any]], T]
)
"""A `Loader` that returns a T or an awaitable of one."""


async def run(call: Callable[[], Any], threads: LoaderThreads | None) -> Any:
    """Call a function, in a worker thread if `threads` is given, and await its result if that is awaitable.

    The result decides, not the function: a lambda may call a coroutine function.
    """
    if threads is not None and not inspect.iscoroutinefunction(call):
        result = await threads.run(call)
    else:
        result = call()
    if inspect.isawaitable(result):
        return await result
    return result


def threads_of(load: Load) -> LoaderThreads:
    """The threads in which this load may call a blocking loader."""
    threads = load._threads  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return threads or LoaderThreads(math.inf, CacheStats())


def takes_load(loader: Loader) -> bool:
    """Whether a loader takes a `Load`, that is, whether it has a required positional parameter."""
    try:
        parameters = signature_of(loader).parameters.values()
    except (ValueError, TypeError):
        # A builtin without a signature.
        return False
    return any(
        parameter.default is parameter.empty
        and parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        for parameter in parameters
    )


class NamedLoader:
    """Base class of loaders that stand for a function: they name it in spans, log records and errors."""

    __slots__ = ()

    @property
    def function_name(self) -> str:
        """The function, as `module.qualified_name`."""
        raise NotImplementedError


def name_of(loader: Callable[..., Any]) -> str:
    """The name of a loader for spans and log records, as `module.qualified_name`, of at most 200 characters.

    It never contains a key or an argument. A cached function has the name of the function, a partial and a
    coalescing loader that of the function they call, and any other callable that of its class.
    """
    function: Any = loader
    while isinstance(function, partial):
        function = function.func  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    owner: Any = getattr(function, "__self__", function)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(owner, NamedLoader):
        return owner.function_name
    kind: type[Any] = type(function)  # pyright: ignore[reportUnknownVariableType]
    named: Any = function if hasattr(function, "__qualname__") else kind  # pyright: ignore[reportUnknownArgumentType]
    name = f"{named.__module__}.{named.__qualname__}"
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
