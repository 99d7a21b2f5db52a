"""Handlers of web frameworks, and the decorators around them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isroutine
from typing import Any, Final

__all__ = ["CALLED", "is_routed_to"]

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
