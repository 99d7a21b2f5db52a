"""Whose the slots are, by what the nodes of a cluster say: asked when that has proven wrong, and every so often."""

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
"""How long a node has to tell what it knows of the slots."""
_OTHERS_SECONDS: Final = 0.1
"""How long they are waited for when one has told."""
_PAUSE_SECONDS: Final = 0.1
"""Between two looks that were asked for."""
_INTERVAL_SECONDS: Final = 10.0
"""Between two looks that nobody has asked for: a node that is cut off from the others does not know."""
_LOST_INTERVAL_SECONDS: Final = 0.5
"""The same, while the link to a master is lost."""
_LOST: Final = Failure(
    CacheUnavailable, "CONNECT_FAILED", "no node of the cluster answers", retryable=True
)


class TopologyRefresh:
    """Asks the nodes, and lets the members go by what most of them say.

    Args:
        members: of the cluster.
        is_whole: whether no master's link is lost: one may have been replaced.
    """

    def __init__(self, nodes: ClusterNodes, is_whole: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._nodes = nodes
        self._is_whole = is_whole
        self._next: asyncio.TimerHandle | None = None
        # Not all of uvloop's timers say when they are due.
        self._next_at = inf
        self._ended_at = self._loop.time()
        self._task: asyncio.Task[CacheError | None] | None = None
        self._stopped = False

    def refresh_soon(self) -> None:
        """Look as soon as that is not too often."""
        if self._task is None and not self._stopped:
            self._refresh_at(max(self._loop.time(), self._ended_at + _PAUSE_SECONDS))

    def refresh(self, budget: float = _BUDGET_SECONDS) -> asyncio.Task[CacheError | None]:
        """The look that is under way, or one from now on: why the slots are not known, where they are not."""
        return self._task or self._begin(budget)

    async def refresh_by(self, deadline: float) -> None:
        """Look, from now on.

        Raises:
            CacheTimeout: by the deadline nobody had answered.
            CacheError: nobody says whose the slots are.
        """
        if self._task is not None:
            # It may have asked them before what its caller has just done.
            await asyncio.wait((self._task,), timeout=deadline - self._loop.time())
        look = self.refresh()
        await asyncio.wait((look,), timeout=deadline - self._loop.time())
        if not look.done():
            raise TIMED_OUT.error()
        if not look.cancelled() and (failure := look.result()) is not None:
            raise failure

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
        if self._task is not None:
            self._task.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    def abandon(self) -> None:
        """Look no more, though the event loop is closed."""
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
        self._task = look = self._loop.create_task(self._query_nodes(budget), context=Context())
        look.add_done_callback(self._end)
        return look

    def _end(self, _: object) -> None:
        self._task = None
        self._ended_at = self._loop.time()
        if not self._stopped:
            interval = _INTERVAL_SECONDS if self._is_whole() else _LOST_INTERVAL_SECONDS
            self._refresh_at(self._ended_at + interval)

    async def _query_nodes(self, budget: float) -> CacheError | None:
        failures: list[CacheError] = []
        for informants in (self._nodes.masters, self._nodes.others):
            asked: list[asyncio.Future[SlotMap]] = []
            for place in informants:
                batcher = self._nodes.at(place).batcher
                try:
                    asked.append(
                        batcher.execute(CLUSTER_SLOTS, place[0], 16, budget=budget, retries=0)
                    )
                except CacheError as error:
                    # Its queue is full: the others may know.
                    failures.append(error)
            views = await _slot_maps_of(asked, failures)
            if views:
                # Most of them: one may be cut off from the others, and not know.
                self._nodes.apply_slot_map(views.most_common(1)[0][0])
                return None
        if any(isinstance(failure, CacheServerError) for failure in failures):
            problem = (
                "CLUSTER SLOTS is refused, which options.topology cluster needs: the server is no node of a "
                "cluster. Set it to single"
            )
            return CacheUnsupported("UNSUPPORTED", problem)
        return failures[0] if failures else _LOST.error()


async def _slot_maps_of(
    asked: Collection[asyncio.Future[SlotMap]], failures: list[CacheError]
) -> Counter[SlotMap]:
    """What they say, and how many of them; who is slow is not waited for when others have answered."""
    views = Counter[SlotMap]()
    pending = set(asked)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending,
                timeout=_OTHERS_SECONDS if views else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                break
            for one in done:
                error = one.exception()
                if error is None and one.result():
                    views[one.result()] += 1
                elif isinstance(error, CacheError):
                    failures.append(error)
    finally:
        for one in pending:
            one.cancel()
    return views
