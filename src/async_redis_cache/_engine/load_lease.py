"""The right to load one key, and what is done with it on the server (see `_leases`)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, NamedTuple, Protocol

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.failures import TIMED_OUT
from async_redis_cache._protocol.command import Command, Executor
from async_redis_cache._protocol.lease_scripts import LEASE, RELEASE, RENEW, ReleaseMode
from async_redis_cache._protocol.read_commands import GET
from async_redis_cache._protocol.record import (
    VERSION_BYTES,
    is_record,
    packed_tags,
    record_of,
    version_of,
)

from .load_source import LoadResult, LoadSource, StoredValue
from .tags import Tags

__all__ = [
    "ChangeNotifier",
    "LeaseContext",
    "LoadLease",
    "NullNotifier",
]

_SECOND: Final = 1000
_TOKEN_BYTES: Final = 16
_TOKEN: Final = slice(3, 3 + _TOKEN_BYTES)
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.050
_JITTER: Final = (0.5, 1.5)
"""Seconds between two reads of a key that another process is loading, without invalidations of it, and their range
of random factors."""
_SHORTEST_PAUSE: Final = 0.001


class ChangeNotifier(Protocol):
    """Who tells that a key has changed."""

    def is_connected(self) -> bool:
        """Whether each change is told at present."""
        ...

    def watch(self, key: bytes, tell: Callable[[], None]) -> None:
        """Call this at each change of a key, and when changes may have been missed."""
        ...

    def unwatch(self, key: bytes, tell: Callable[[], None]) -> None:
        """Call it no more."""
        ...


class NullNotifier:
    """Where nobody tells: who waits has to look."""

    def is_connected(self) -> bool:
        """Nothing is told."""
        return False

    def watch(self, key: bytes, tell: Callable[[], None]) -> None:
        """In vain."""

    def unwatch(self, key: bytes, tell: Callable[[], None]) -> None:
        """Nothing was told."""


def _ignore(_: CacheError) -> None:
    """The right ends by itself."""


class LeaseContext(NamedTuple):
    """How rights are got and kept.

    Attributes:
        batcher: asks the server.
        publish: the verb that publishes.
        tags: what is loaded may bear.
        lease: milliseconds that a right is good for; it is renewed while the load goes on.
        random: numbers from 0 to 1.
        budget: seconds that all questions of one load may take together.
        news: tells when another has published.
    """

    batcher: Executor
    publish: Command
    tags: Tags
    lease: int
    random: Callable[[], float]
    budget: float
    notifier: ChangeNotifier


class LoadLease:
    """The right to load one key, or the wish for it.

    Args:
        key: to load.
        rights: how rights are got and kept.
        since: when the call began that loads, by the loop's clock. What is asked for the load ends
            `budget` after that; the origin's time, and the time for which another process loads the key,
            are added.
    """

    def __init__(self, key: bytes, context: LeaseContext, since: float) -> None:
        self._key = key
        self._context = context
        self._token = secrets.token_bytes(_TOKEN_BYTES)
        self.asked = 0
        """How often the server was asked for it, and for the tags of what was loaded."""
        self.since = since
        self._got = 0
        """When it was got, in microseconds of the server's clock."""
        self._got_after = self._got_by = 0.0
        """Between which two moments of the loop's clock that was."""
        self._loop = asyncio.get_running_loop()

    def is_in(self, data: bytes) -> bool:
        """Whether this right stands there."""
        return is_record(data) and data[_TOKEN] == self._token

    async def acquire(
        self,
        seen: bytes,
        source: LoadSource,
        waits: Callable[[], bool],
        *,
        force: bool,
    ) -> StoredValue | bool:
        """Get the right, and True; or what another has stored meanwhile.

        Args:
            seen: what the key held, and what will not do.
            source: accepts what another process has stored, or does not.
            waits: whether to wait for another who holds the right; otherwise that is False.
            force: whether to take it from another, whatever is stored.

        Raises:
            CacheTimeout: TIMEOUT, when the budget of the load is spent.
        """
        while True:
            version = version_of(seen)
            argument = (self._key, self._token, self._context.lease, version, int(force))
            self.asked += 1
            asked_at = self._loop.time()
            asked = self._execute(LEASE, argument, len(version), self._left())
            try:
                answer = await asyncio.shield(asked)
            except asyncio.CancelledError:
                # It may be granted all the same, and nobody else could load until it ended.
                asked.add_done_callback(self._release_unawaited, context=Context())
                raise
            if isinstance(answer, bytes):
                if await source.accepts(answer, self.since):
                    return StoredValue.of(answer, self.since)
                seen = answer
            elif answer < 0:
                self._got = -answer
                self._got_after, self._got_by = asked_at, self._loop.time()
                return True
            elif waits():
                begun = self._loop.time()
                await self._poll(answer / _SECOND)
                self.since += self._loop.time() - begun
            else:
                return False

    async def _poll(self, left: float) -> None:
        """Wait until the key is not being loaded by another any more, or its lease should have ended."""
        news, changed = self._context.notifier, asyncio.Event()
        until = self._loop.time() + left
        # For each look: one that is answered is part of the waiting.
        budget = self._left()
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, random=self._context.random, jitter=_JITTER)
        news.watch(self._key, changed.set)
        try:
            while True:
                # Asked before the key is looked at: only what is published later is told later.
                is_told = news.is_connected()
                left = until - self._loop.time()
                if not await self._is_held(budget) or left <= 0:
                    return
                if not is_told:
                    left = min(left, backoff.next_pause())
                with contextlib.suppress(TimeoutError):
                    # What rounding leaves of the time is less than a clock can tell.
                    async with asyncio.timeout(max(left, _SHORTEST_PAUSE)):
                        await changed.wait()
                changed.clear()
        finally:
            news.unwatch(self._key, changed.set)

    async def _is_held(self, budget: float) -> bool:
        """Whether the key is being loaded; said within so many seconds."""
        size = len(self._key) + 16
        data = await self._context.batcher.execute(GET, self._key, size, budget=budget)
        record = record_of(data) if data is not None and is_record(data) else None
        return record is not None and record.leased_until > 0 and record.is_held

    async def renew(self) -> None:
        """Keep it, until cancelled."""
        lease = self._context.lease
        while True:
            await asyncio.sleep(lease / 3 / _SECOND)
            with contextlib.suppress(CacheError):
                await self._execute(RENEW, (self._key, self._token, lease))

    async def fetch_tag_versions(self, product: LoadResult) -> bytes | None:
        """The tags of what was loaded, to be stored with it; None if one was, or may have been, invalidated meanwhile.

        Raises:
            CacheError: nobody knows.
        """
        self.asked += 1
        # What is not kept has no life, and its tags are asked for all the same: others may have joined.
        life = max(1, product.ttl + product.stale_ttl)
        asked_at = self._loop.time()
        stamp = await self._context.tags.fetch_versions(product.tags, life, self._left())
        least, most = asked_at - self._got_by, self._loop.time() - self._got_after
        if stamp.is_before(self._got) and stamp.follows(self._got, least, most):
            return packed_tags(stamp.versions)
        return None

    async def publish(self, product: LoadResult, stamped: bytes) -> bool:
        """Store what was loaded, with its tags; whether the right was still there.

        Raises:
            CacheError: nobody knows. The right ends by itself.
        """
        kind, payload, life, slack, _, cost, _, _ = product
        version = secrets.token_bytes(VERSION_BYTES)
        data = stamped + payload
        head = (self._key, self._token, kind, version, life, slack, len(stamped), cost)
        asked = self._execute(self._context.publish, (*head, data), len(data), self._left())
        return bool(await asked)

    def release(
        self, how: ReleaseMode = ReleaseMode.BACK, failed: Callable[[CacheError], None] = _ignore
    ) -> None:
        """Give it back, if it is still there.

        Nobody waits for it: where it fails, `failed` is called, and the right ends by itself.
        """

        def end(asked: asyncio.Future[Any]) -> None:
            if not asked.cancelled() and isinstance(error := asked.exception(), CacheError):
                failed(error)

        try:
            asked = self._execute(RELEASE, (self._key, self._token, int(how)))
        except CacheError as error:
            failed(error)
        else:
            asked.add_done_callback(end)

    def _release_unawaited(self, asked: asyncio.Future[Any]) -> None:
        _ignore_outcome(asked)
        self.release()

    def _left(self) -> float:
        """Seconds that the load may still spend on the server.

        Raises:
            CacheTimeout: TIMEOUT, there is nothing left.
        """
        left = self.since + self._context.budget - self._loop.time()
        if left <= 0:
            raise TIMED_OUT.error()
        return left

    def _execute(
        self, verb: Command, argument: Any, size: int = 0, budget: float | None = None
    ) -> asyncio.Future[Any]:
        size += 2 * len(self._key) + 128
        return self._context.batcher.execute(verb, argument, size, budget=budget)


def _ignore_outcome(asked: asyncio.Future[Any]) -> None:
    if not asked.cancelled():
        asked.exception()
