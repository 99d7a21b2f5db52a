"""Handlers of web frameworks, and the decorators around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import isroutine
from typing import Any, Final

__all__ = ["is_routed_to", "warn_of_missing_middleware"]

_LOG: Final = logging.getLogger("async_redis_cache")
_WARNED: Final = set[str]()


def is_routed_to(routed: Any, handler: Callable[..., Any]) -> bool:
    """Return whether a framework routed a request to this handler, and does not call it in another one.

    Args:
        routed: what the framework calls: the handler, maybe in other decorators. Of a class-based view or an instance,
            nothing is known, and it counts as the handler.
        handler: a decorated handler that is called.
    """
    if not isroutine(routed):
        return True
    while routed is not None:
        if getattr(routed, "__func__", routed) is handler:
            return True
        routed = getattr(routed, "__wrapped__", None)
    return False


def warn_of_missing_middleware(opted_in: str, remedy: str) -> None:
    """Log once that responses are not cached, although they are opted in.

    Args:
        opted_in: what opts them in.
        remedy: the code that adds the middleware.
    """
    if opted_in not in _WARNED:
        _WARNED.add(opted_in)
        _LOG.warning(
            "%s has no effect: the request was not handled by the middleware of the cache, which is added with %s",
            opted_in,
            remedy,
        )
