"""One load under way, and those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import NamedTuple

from async_redis_cache._common.failures import Failure
from async_redis_cache._common.outcomes import CapturedError

from .load_cycles import Key, LoadNode
from .load_lease import LoadLease, LoadResult, StoredValue

__all__ = ["InFlightLoad", "LoadSpec", "Outcome"]

Outcome = LoadResult | CapturedError | StoredValue | None
"""What a load ends in: what was loaded or raised, what another process has stored, or nothing."""


def _nothing() -> None:
    """Nobody wants to know."""


def _never() -> bool:
    """It is not."""
    return False


class LoadSpec(NamedTuple):
    """What a caller asks for, below the hall.

    Attributes:
        produce: loads.
        suits: whether stored data is what the caller wants; it takes since when the load has asked.
        read: what the caller has read, and what does not suit; empty for nothing; None where the
            server could not be asked.
        longest: seconds that the load may take, and that anybody waits for it.
        force: whether to load whatever is stored, and whoever else loads.
        tags: that what is loaded will bear.
        steered: whether the loader may give it others.
        strict: whether it fails when the server cannot be asked for the right.
        decided: to be called when it is known that another loads, or that there is nothing to load.
        since: when the call began, by the loop's clock; None for now.
        idle: gives the seconds for which the loader of what was produced had not been called yet.
        function: gives the name of the function that loads, for log records.
    """

    produce: Callable[[], Awaitable[LoadResult]]
    accepts: Callable[[bytes, float], Awaitable[bool]]
    read: bytes | None
    longest: float
    force: bool = False
    tags: tuple[bytes, ...] = ()
    steered: Callable[[], bool] = _never
    strict: bool = False
    on_decision: Callable[[], None] = _nothing
    since: float | None = None
    idle: Callable[[], float] = float
    function: Callable[[], str] = str


class InFlightLoad:
    """One load and those who wait for it."""

    __slots__ = (
        "cancelled",
        "detached",
        "expired",
        "finished",
        "force",
        "good_below",
        "holds_lease",
        "invalidated",
        "is_background",
        "lease",
        "node",
        "renewal",
        "steered",
        "tags",
        "task",
        "waiting",
    )

    def __init__(self, name: Key, lease: LoadLease, wanted: LoadSpec, *, detached: bool) -> None:
        self.task: asyncio.Task[Outcome]
        """Until it has landed: what it ends in may hold this flight."""
        self.finished = False
        self.waiting: dict[asyncio.Future[Outcome], LoadNode | None] = {}
        """In the order in which they came, and go on; with the load that waits, where it is one."""
        self.node = LoadNode(name, self.waiting)
        self.lease = lease
        self.tags = frozenset(wanted.tags)
        self.steered = wanted.steered
        self.holds_lease = False
        self.renewal: asyncio.Task[None] | None = None
        """Of the right, while it is held and wanted."""
        self.is_background = detached
        """Whether it was begun for those to come."""
        self.detached = detached
        """Whether it does when nobody waits."""
        self.invalidated = False
        """Whether the key was changed by this process since."""
        self.expired = False
        self.cancelled = False
        """Whether it was cancelled by this cache, and not by its loader or anything else."""
        self.force = wanted.force
        """Whether it is to replace what is stored, whatever that is."""
        self.good_below = inf
        """Who joined when its right had asked the server as often, or more often, has to ask again."""

    def serves(self, wanted: LoadSpec) -> bool:
        """Whether it can be joined: not by one who has seen that the right was voided meanwhile."""
        if wanted.read is None or not self.holds_lease:
            return True
        return self.lease.is_in(wanted.read)

    def cancel(self) -> None:
        """Cancel its loader."""
        self.cancelled = True
        if not self.finished:
            self.task.cancel()

    def abort(self, failure: Failure) -> None:
        """End it, whether its loader heeds that or not."""
        for future in self.waiting:
            if not future.done():
                future.set_result(CapturedError(failure.error()))
        self.cancel()
        # A loader that does not heed it must not keep the key from others.
        if self.renewal is not None:
            self.renewal.cancel()
