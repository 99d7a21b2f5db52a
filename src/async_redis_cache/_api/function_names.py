"""What a loader is called where people read it: in spans and log records. Never by a key or an argument."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .batch_loader import Batch, CoalescingLoader

__all__ = ["name_of"]

_CACHED: Final = "async_redis_cache._decorator.cached_functions"
_LONGEST: Final = 200


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
    if isinstance(function, CoalescingLoader | Batch):
        return function._loader  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    owner = getattr(function, "__self__", None)
    if isinstance(owner, Batch):
        return owner
    if getattr(function, "__module__", None) == _CACHED:
        # What a cached function gives to the cache knows the function by the variable that it has closed over.
        for cell in getattr(function, "__closure__", None) or ():
            name = getattr(getattr(cell.cell_contents, "calls", None), "name", None)
            if isinstance(name, str):
                return name
    return None
