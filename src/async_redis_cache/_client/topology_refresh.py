"""Refresh of a cluster's slot map: on demand, and periodically."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from contextvars import Context
from math import inf
from typing import Final

from async_redis_cache._common.errors import (
    CacheError,
    CacheServerError,
    CacheUnavailable,
    CacheUnsupported,
)
from async_redis_cache._common.failures import TIMED_OUT, Failure
from async_redis_cache._protocol.cluster_slots import CLUSTER_SLOTS

from .cluster_nodes import ClusterNodes, SlotMap

__all__ = ["TopologyRefresh"]

_BUDGET_SECONDS: Final = 0.5
"""Time for a node to return its slot map."""
_GRACE_SECONDS: Final = 0.1
"""Time to wait for further nodes after one has replied."""
_PAUSE_SECONDS: Final = 0.1
"""Minimum time between two refreshes on demand."""
_INTERVAL_SECONDS: Final = 10.0
"""Time between two periodic refreshes: a node that is cut off from the others does not report changes."""
_DISCONNECTED_INTERVAL_SECONDS: Final = 0.5
"""The same, while the invalidation channel of a master is down."""
_NO_REPLY: Final = Failure(
    CacheUnavailable, "CONNECT_FAILED", "no node of the cluster replied", retryable=True
)


class TopologyRefresh:
    """Queries the nodes, and applies the slot map that most of them return.

    Args:
        nodes: of the cluster.
        is_whole: whether the invalidation channels of all masters are up. One that is down may have been replaced.
    """

    def __init__(self, nodes: ClusterNodes, is_whole: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._nodes = nodes
        self._is_whole = is_whole
        self._next: asyncio.TimerHandle | None = None
        # Some timers of uvloop do not know when they are due.
        self._next_at = inf
        self._ended_at = self._loop.time()
        self._task: asyncio.Task[CacheError | None] | None = None
        self._stopped = False

    def refresh_soon(self) -> None:
        """Begin a refresh as soon as the pause after the last one is over. Without effect during a refresh."""
        if self._task is None and not self._stopped:
            self._refresh_at(max(self._loop.time(), self._ended_at + _PAUSE_SECONDS))

    def refresh(self, budget: float = _BUDGET_SECONDS) -> asyncio.Task[CacheError | None]:
        """Return the refresh in progress, or begin one. Its result is the error if no slot map was returned."""
        return self._task or self._begin(budget)

    async def refresh_by(self, deadline: float) -> None:
        """Wait for a refresh that begins after this call.

        Raises:
            CacheTimeout: no node replied by the deadline.
            CacheError: no node returned a slot map.
        """
        if self._task is not None:
            # Its replies may be older than what the caller has just done.
            await asyncio.wait((self._task,), timeout=deadline - self._loop.time())
        refresh = self.refresh()
        await asyncio.wait((refresh,), timeout=deadline - self._loop.time())
        if not refresh.done():
            raise TIMED_OUT.error()
        if not refresh.cancelled() and (failure := refresh.result()) is not None:
            raise failure

    def stop(self) -> None:
        """Cancel the refresh in progress, and begin no more."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
        if self._task is not None:
            self._task.cancel()

    async def stopped(self) -> None:
        """Wait until the refresh has ended."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def abandon(self) -> None:
        """Begin no more refreshes although the event loop is closed."""
        self._stopped = True

    def _refresh_at(self, moment: float) -> None:
        if moment >= self._next_at:
            return
        if self._next is not None:
            self._next.cancel()
        self._next_at = moment
        self._next = self._loop.call_at(moment, self._begin, _BUDGET_SECONDS, context=Context())

    def _begin(self, budget: float) -> asyncio.Task[CacheError | None]:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._next_at = inf
        task = self._loop.create_task(self._query_nodes(budget), context=Context())
        self._task = task
        task.add_done_callback(self._on_ended)
        return task

    def _on_ended(self, _: object) -> None:
        self._task = None
        self._ended_at = self._loop.time()
        if not self._stopped:
            interval = _INTERVAL_SECONDS if self._is_whole() else _DISCONNECTED_INTERVAL_SECONDS
            self._refresh_at(self._ended_at + interval)

    async def _query_nodes(self, budget: float) -> CacheError | None:
        failures: list[CacheError] = []
        for addresses in (self._nodes.masters, self._nodes.others):
            queries: list[asyncio.Future[SlotMap]] = []
            for address in addresses:
                batcher = self._nodes.node_at(address).batcher
                try:
                    queries.append(
                        batcher.execute(CLUSTER_SLOTS, address[0], 16, budget=budget, retries=0)
                    )
                except CacheError as error:
                    # The queue of this node is full; others may reply.
                    failures.append(error)
            slot_maps = await _replies_of(queries, failures)
            if slot_maps:
                # The most frequent one: a node may be cut off from the others and out of date.
                self._nodes.apply_slot_map(slot_maps.most_common(1)[0][0])
                return None
        if any(isinstance(failure, CacheServerError) for failure in failures):
            problem = (
                "options.topology cluster needs CLUSTER SLOTS, which the server refuses: it is not a node of a "
                "cluster. Set options.topology to single"
            )
            return CacheUnsupported("UNSUPPORTED", problem)
        return failures[0] if failures else _NO_REPLY.error()


async def _replies_of(
    queries: Collection[asyncio.Future[SlotMap]], failures: list[CacheError]
) -> Counter[SlotMap]:
    """Count the slot maps that are returned, and add errors to `failures`.

    Once one node has replied, the others have 0.1 s.
    """
    slot_maps = Counter[SlotMap]()
    pending = set(queries)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending,
                timeout=_GRACE_SECONDS if slot_maps else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                break
            for query in done:
                error = query.exception()
                if error is None and query.result():
                    slot_maps[query.result()] += 1
                elif isinstance(error, CacheError):
                    failures.append(error)
    finally:
        for query in pending:
            query.cancel()
    return slot_maps
