"""One load under way, and those who wait for it."""

from __future__ import annotations

import asyncio
from math import inf

from async_redis_cache._common.failures import Failure
from async_redis_cache._common.outcomes import CapturedError

from .load_cycles import Key, LoadNode
from .load_lease import LoadLease
from .load_source import LoadResult, LoadSpec, StoredValue

__all__ = ["InFlightLoad", "Outcome"]

Outcome = LoadResult | CapturedError | StoredValue | None
"""What a load ends in: what was loaded or raised, what another process has stored, or nothing."""


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
        "source",
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
        self.source = wanted.source
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
