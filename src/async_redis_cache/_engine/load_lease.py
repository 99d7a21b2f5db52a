"""The load lease of one key: acquire it, wait for another process, renew, publish and release it.

The lease is held on the server, in the key itself; see `lease_scripts` and docs/explanation/load-leases.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, NamedTuple, Protocol

from async_redis_cache._common.durations import SECOND
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.failures import TIMED_OUT
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.commands import GET
from async_redis_cache._protocol.lease_scripts import LEASE, RELEASE, RENEW, ReleaseMode
from async_redis_cache._protocol.record import (
    VERSION_BYTES,
    is_record,
    packed_tags,
    record_of,
    version_of,
)

from .load_source import LoadResult, LoadSource, StoredValue
from .tags import Tags

__all__ = ["ChangeNotifier", "LeaseContext", "LoadLease", "NullNotifier"]

_TOKEN_BYTES: Final = 16
_TOKEN: Final = slice(3, 3 + _TOKEN_BYTES)
_FIRST_PAUSE: Final = 0.005
_SHORTEST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.050
"""Seconds between two reads of a key that another process loads, where its changes are not reported."""


class ChangeNotifier(Protocol):
    """Reports changes of keys on the server."""

    def is_connected(self) -> bool:
        """Return whether every change is reported at present."""
        ...

    def watch(self, key: bytes, on_change: Callable[[], None]) -> None:
        """Call `on_change` at each change of a key, and whenever changes may have been missed."""
        ...

    def unwatch(self, key: bytes, on_change: Callable[[], None]) -> None:
        """End a `watch`."""
        ...


class NullNotifier:
    """The `ChangeNotifier` without a near cache: reports nothing, so waiting loads have to poll."""

    def is_connected(self) -> bool:
        """Return False."""
        return False

    def watch(self, key: bytes, on_change: Callable[[], None]) -> None:
        """Do nothing."""

    def unwatch(self, key: bytes, on_change: Callable[[], None]) -> None:
        """Do nothing."""


def _ignore(_: CacheError) -> None:
    """The lease expires by itself."""


class LeaseContext(NamedTuple):
    """What the leases of a cache have in common.

    Attributes:
        batcher: sends the requests.
        publish: the command that stores a result if the lease is still held.
        tags: fetches the tag versions of results.
        lease: milliseconds until a lease expires; it is renewed during the load.
        random: returns numbers from 0 to 1.
        budget: seconds for all requests of one load together.
        notifier: reports when another process has published.
        clock: returns seconds, which advance as the clock of the server does.
    """

    batcher: Executor
    publish: Command
    tags: Tags
    lease: int
    random: Callable[[], float]
    budget: float
    notifier: ChangeNotifier
    clock: Callable[[], float]


class LoadLease:
    """The lease for one load of a key, held or requested.

    Args:
        key: the key to load.
        context: the settings of the cache's leases.
        since: when the loading call began, by the loop's clock. The requests of the load end `budget` after
            that; the time of the loader, and the time for which another process loads the key, are added.
    """

    def __init__(self, key: bytes, context: LeaseContext, since: float) -> None:
        self._key = key
        self._context = context
        self._token = secrets.token_bytes(_TOKEN_BYTES)
        self.requests = 0
        """How often the lease, or the tag versions of the result, have been requested."""
        self.since = since
        self._granted_at = 0
        """When the lease was granted, in microseconds of the server's clock."""
        self._granted_after = self._granted_before = 0.0
        """Earliest and latest time of that by `LeaseContext.clock`."""
        self._loop = asyncio.get_running_loop()

    def is_in(self, data: bytes) -> bool:
        """Return whether this data holds the lease."""
        return is_record(data) and data[_TOKEN] == self._token

    async def acquire(
        self, seen: bytes, source: LoadSource, waits: Callable[[], bool], *, force: bool
    ) -> StoredValue | bool:
        """Acquire the lease, unless another process stores a value meanwhile.

        Args:
            seen: what the caller has read, which `source` does not accept.
            source: decides whether a value that is found now makes the load unnecessary.
            waits: returns whether to wait for another process that holds the lease.
            force: whether to take the lease from another process, and regardless of what is stored.

        Returns:
            True if the lease is held; False if another process holds it and `waits` returned False; the stored
            value if there is one that `source` accepts.

        Raises:
            CacheTimeout: TIMEOUT, the budget of the load is spent.
        """
        while True:
            version = version_of(seen)
            argument = (self._key, self._token, self._context.lease, version, int(force))
            self.requests += 1
            sent_at = self._context.clock()
            request = self._execute(LEASE, argument, len(version), self._remaining())
            try:
                reply = await asyncio.shield(request)
            except asyncio.CancelledError:
                # It may be granted all the same, and would block all loads of the key until it expires.
                request.add_done_callback(self._release_unawaited, context=Context())
                raise
            if isinstance(reply, bytes):
                if await source.accepts(reply, self.since):
                    return StoredValue.of(reply, self.since)
                seen = reply
            elif reply < 0:
                self._granted_at = -reply
                self._granted_after, self._granted_before = sent_at, self._context.clock()
                return True
            elif waits():
                began = self._loop.time()
                await self._poll(reply / SECOND)
                self.since += self._loop.time() - began
            else:
                return False

    async def _poll(self, timeout: float) -> None:
        """Wait until no other process loads the key, or for this many seconds, after which its lease has expired."""
        notifier, changed = self._context.notifier, asyncio.Event()
        until = self._loop.time() + timeout
        # For each read on its own: one that is answered is part of the waiting time.
        budget = self._remaining()
        pause = _FIRST_PAUSE
        notifier.watch(self._key, changed.set)
        try:
            while True:
                # Checked before the read: only a publication after the read has to be reported.
                is_reported = notifier.is_connected()
                remaining = until - self._loop.time()
                if not await self._is_held(budget) or remaining <= 0:
                    return
                if not is_reported:
                    remaining = min(remaining, pause * (0.5 + self._context.random()))
                    pause = min(_LONGEST_PAUSE, 2 * pause)
                with contextlib.suppress(TimeoutError):
                    # Rounding can leave a time that is too short for the clock.
                    async with asyncio.timeout(max(remaining, _SHORTEST_PAUSE)):
                        await changed.wait()
                changed.clear()
        finally:
            notifier.unwatch(self._key, changed.set)

    async def _is_held(self, budget: float) -> bool:
        """Read the key within this many seconds; return whether a process loads it."""
        size = len(self._key) + 16
        data = await self._context.batcher.execute(GET, self._key, size, budget=budget)
        record = record_of(data) if data is not None and is_record(data) else None
        return record is not None and record.leased_until > 0 and record.is_held

    async def renew(self) -> None:
        """Renew the lease until cancelled."""
        lease = self._context.lease
        while True:
            await asyncio.sleep(lease / 3 / SECOND)
            with contextlib.suppress(CacheError):
                await self._execute(RENEW, (self._key, self._token, lease))

    async def fetch_tag_versions(self, result: LoadResult) -> bytes | None:
        """Fetch the versions of the tags of a result, packed to be stored with it.

        Returns:
            None if a tag was invalidated since the lease was granted, or may have been.

        Raises:
            CacheError: the versions are not known.
        """
        self.requests += 1
        # A result that is not kept has no TTL; its tags are checked all the same, for callers that have joined.
        ttl = max(1, result.ttl + result.stale_ttl)
        clock = self._context.clock
        sent_at = clock()
        fetched = await self._context.tags.fetch_versions(result.tags, ttl, self._remaining())
        shortest, longest = sent_at - self._granted_before, clock() - self._granted_after
        if fetched.is_before(self._granted_at) and fetched.follows(
            self._granted_at, shortest, longest
        ):
            return packed_tags(fetched.versions)
        return None

    async def publish(self, result: LoadResult, packed_versions: bytes) -> bool:
        """Store a result with its tag versions; return whether the lease was still held.

        Raises:
            CacheError: the outcome is not known. The lease expires by itself.
        """
        version = secrets.token_bytes(VERSION_BYTES)
        data = packed_versions + result.payload
        argument = (
            self._key,
            self._token,
            result.kind,
            version,
            result.ttl,
            result.stale_ttl,
            len(packed_versions),
            result.load_duration,
            data,
        )
        request = self._execute(self._context.publish, argument, len(data), self._remaining())
        return bool(await request)

    def release(
        self,
        mode: ReleaseMode = ReleaseMode.KEEP_VALUE,
        on_failure: Callable[[CacheError], None] = _ignore,
    ) -> asyncio.Future[Any] | None:
        """Release the lease if it is still held, without waiting for the reply.

        Args:
            mode: what becomes of a stored value, and of the next loads.
            on_failure: called if the request fails; the lease then expires by itself.

        Returns:
            The request; None if it could not be sent.
        """

        def check(request: asyncio.Future[Any]) -> None:
            if not request.cancelled() and isinstance(error := request.exception(), CacheError):
                on_failure(error)

        try:
            request = self._execute(RELEASE, (self._key, self._token, int(mode)))
        except CacheError as error:
            on_failure(error)
            return None
        request.add_done_callback(check)
        return request

    def _release_unawaited(self, request: asyncio.Future[Any]) -> None:
        if not request.cancelled():
            # Retrieved, so that asyncio does not log it.
            request.exception()
        self.release()

    def _remaining(self) -> float:
        """Return the seconds that the requests of this load have left.

        Raises:
            CacheTimeout: TIMEOUT, there are none.
        """
        remaining = self.since + self._context.budget - self._loop.time()
        if remaining <= 0:
            raise TIMED_OUT.error()
        return remaining

    def _execute(
        self, command: Command, argument: Any, size: int = 0, budget: float | None = None
    ) -> asyncio.Future[Any]:
        size += 2 * len(self._key) + 128
        return self._context.batcher.execute(command, argument, size, budget=budget)
