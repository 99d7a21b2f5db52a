"""One load in flight, the callers that wait for it, and load cycles.

A loader may request other keys. A context variable says which load a request belongs to; tasks and threads
that the loader starts inherit it. A request that would wait for its own load is refused at once, instead of
when the load times out. A load that has ended requests nothing any more, so a task that the loader has left
running may request the key again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from math import inf
from typing import Any, Final

from async_redis_cache._common.errors import CacheLoadError
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.outcomes import CapturedError

from .load_lease import LoadLease
from .load_source import LoadResult, LoadSpec, StoredValue

__all__ = ["InFlightLoad", "LoadNode", "Outcome", "current_load", "loading_as", "refuse_cycle"]

_Key = tuple[int, bytes]
"""The `id` of the loads of a cache, and a key on its server."""
_CURRENT_LOAD: Final[ContextVar[LoadNode | None]] = ContextVar(
    "async_redis_cache.load", default=None
)

Outcome = LoadResult | CapturedError | StoredValue | None
"""How a load ends: with a result, an exception, data that another process has stored, or, where another
process loads and no caller waits, with nothing."""


class LoadNode:
    """A load, or a call of a batch loader, in the graph of loads that wait for each other.

    Args:
        key: the key that is loaded; None for a batch.
        waiting: maps each waiter to the load that it belongs to; None if it belongs to no load.
    """

    __slots__ = ("ended", "key", "waiting")

    def __init__(self, key: _Key | None, waiting: Mapping[Any, LoadNode | None]) -> None:
        self.key = key
        self.waiting = waiting
        self.ended = False


class InFlightLoad:
    """A load and the callers that wait for it.

    Args:
        key: the key, unique among all caches of the process.
        lease: the lease to load under.
        spec: how to load.
        detached: whether to load in the background, without a caller.
    """

    __slots__ = (
        "cancelled",
        "detached",
        "expired",
        "finished",
        "force",
        "holds_lease",
        "invalidated",
        "is_background",
        "lease",
        "node",
        "renewal",
        "serves_below",
        "source",
        "tags",
        "task",
        "waiting",
    )

    def __init__(self, key: _Key, lease: LoadLease, spec: LoadSpec, *, detached: bool) -> None:
        self.task: asyncio.Task[Outcome]
        """Deleted when the load has ended: its exception may refer to this object."""
        self.finished = False
        self.waiting: dict[asyncio.Future[Outcome], LoadNode | None] = {}
        """Callers in the order of their arrival, each with the load that it belongs to, if any."""
        self.node = LoadNode(key, self.waiting)
        self.lease = lease
        self.tags = frozenset(spec.tags)
        self.source = spec.source
        self.holds_lease = False
        self.renewal: asyncio.Task[None] | None = None
        """Renews the lease until the loader has returned."""
        self.is_background = detached
        """Whether it was started as a background refresh."""
        self.detached = detached
        """Whether it continues when no caller waits for it."""
        self.invalidated = False
        """Whether this process has changed the key or a tag since the load began."""
        self.expired = False
        """Whether it has taken longer than its hard timeout."""
        self.cancelled = False
        """Whether this cache has cancelled it, and not its loader."""
        self.force = spec.force
        """Whether it replaces a stored value, whatever that is."""
        self.serves_below = inf
        """Serves the callers that joined when `lease.requests` was below this; the others have to try again."""

    def serves(self, spec: LoadSpec) -> bool:
        """Return whether a caller can join: not if its read shows that the lease was voided."""
        if spec.read is None or not self.holds_lease:
            return True
        return self.lease.is_in(spec.read)

    def cancel(self) -> None:
        """Cancel the loader."""
        self.cancelled = True
        if not self.finished:
            self.task.cancel()

    def abort(self, failure: Failure) -> None:
        """Fail all callers with this failure, and cancel the loader."""
        for future in self.waiting:
            if not future.done():
                future.set_result(CapturedError(failure.error()))
        self.cancel()
        # A loader that ignores its cancellation must not block the key for other loads.
        if self.renewal is not None:
            self.renewal.cancel()


def current_load() -> LoadNode | None:
    """Return the load whose loader runs in this context; None if there is none, or it has ended."""
    node = _CURRENT_LOAD.get()
    return None if node is None or node.ended else node


def loading_as(node: LoadNode) -> None:
    """Attribute all later requests of this context to the loader of this load."""
    _CURRENT_LOAD.set(node)


def refuse_cycle(key: _Key | None) -> None:
    """Refuse to wait for a load of this key if that load waits, directly or not, for the current one.

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
            problem = "a loader requests the key that it loads, itself or through another load"
            raise CacheLoadError("LOAD_CYCLE", problem)
        # Copied: loads of another cache can change in another thread.
        for waiter in tuple(node.waiting.values()):
            if waiter is not None and not waiter.ended and waiter not in known:
                known.add(waiter)
                unseen.append(waiter)
