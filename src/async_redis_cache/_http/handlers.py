"""Handlers of web frameworks, and the decorators around them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isroutine
from typing import Any, Final

from async_redis_cache._common.health_log import Record, log_record
from async_redis_cache._common.log_events import RESPONSES_NOT_CACHED

__all__ = ["CALLED", "is_routed_to", "warn_without_effect"]

_WARNED: Final = set[str]()
CALLED: Final = (
    "another handler called this one, or a decorator above it does not use functools.wraps"
)
"""Why an opted-in handler is not the one that a request was routed to."""


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


def warn_without_effect(opted_in: str, reason: str) -> None:
    """Log once that responses are not cached, although they are opted in.

    Args:
        opted_in: what opts them in.
        reason: why it has no effect.
    """
    if opted_in not in _WARNED:
        _WARNED.add(opted_in)
        log_record(Record(RESPONSES_NOT_CACHED, "", reason, opted_in))
