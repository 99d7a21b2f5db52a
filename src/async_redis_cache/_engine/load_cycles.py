"""Which load waits for which, so that none waits for itself until its time is over.

A loader may ask for other keys. What it asks for knows by a context variable which load asks: tasks and
threads have it from the loader that starts them. A load that has ended asks for nothing any more, so a
task that goes on after it is free to ask for its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from async_redis_cache._common.errors import CacheLoadError

__all__ = ["Key", "LoadNode", "current_load", "loading_as", "refuse_cycle"]

Key = tuple[int, bytes]
"""The `id` of a cache's loads, and a key on its server."""
_ASKING: Final[ContextVar[LoadNode | None]] = ContextVar("async_redis_cache.load", default=None)


class LoadNode:
    """A load, or a call of a loader for several.

    Args:
        key: what is loaded; None for several.
        waiting: by whatever waits for it, the node that does; None for one that is no load.
    """

    __slots__ = ("ended", "key", "waiting")

    def __init__(self, key: Key | None, waiting: Mapping[Any, LoadNode | None]) -> None:
        self.key = key
        self.waiting = waiting
        self.ended = False


def current_load() -> LoadNode | None:
    """The load whose loader runs in this context, if it has not ended."""
    node = _ASKING.get()
    return None if node is None or node.ended else node


def loading_as(node: LoadNode) -> None:
    """From now on, what asks in this context is the loader of this load."""
    _ASKING.set(node)


def refuse_cycle(key: Key | None) -> None:
    """Refuse to wait for a load of this key where that waits, directly or not, for the one that asks.

    Raises:
        CacheLoadError: LOAD_CYCLE.
    """
    node = current_load()
    if node is None:
        return
    known, unseen = {node}, [node]
    while unseen:
        node = unseen.pop()
        if key is not None and node.key == key:
            problem = "a loader asks for the key that it loads, itself or through another load"
            raise CacheLoadError("LOAD_CYCLE", problem)
        # At once: the loads of another cache may belong to another thread.
        for waiter in tuple(node.waiting.values()):
            if waiter is not None and not waiter.ended and waiter not in known:
                known.add(waiter)
                unseen.append(waiter)
