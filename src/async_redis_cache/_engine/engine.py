"""The engine of an open cache: puts its parts together, and owns the order of operations.

From here down everything is bytes: keys and data as the server stores them, and None for a key that does not exist.
Values, contexts and types are handled by `_api` and `_values`.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from async_redis_cache._client.circuit_breaker import CircuitBreakers
from async_redis_cache._client.cluster import Cluster
from async_redis_cache._client.standalone import Standalone
from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.endpoint import Address, Endpoint
from async_redis_cache._common.errors import CacheError, CacheUnsupported
from async_redis_cache._common.failures import CIRCUIT_OPEN, TOO_LARGE, UNKNOWN
from async_redis_cache._common.health_log import HealthLog
from async_redis_cache._common.log_events import (
    EVICTIONS,
    FAILED_OPEN,
    INVALIDATIONS_DROPPED,
    NOT_CACHED,
    PENDING_INVALIDATIONS,
    REFRESH_FAILED,
    SCRIPTS_REFUSED,
    UNREADABLE,
)
from async_redis_cache._common.options import Options
from async_redis_cache._common.outcomes import CapturedError, gather_outcomes
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._protocol.commands import PING
from async_redis_cache._protocol.lock_scripts import LockCommands
from async_redis_cache._protocol.size_limit import INDEX_SUFFIX, Opening

from .atomic_writes import AtomicWrites
from .clearing import clear_index, clear_prefix
from .freshness import Freshness
from .key_scan import KeyScan
from .load_lease import LeaseContext, NullNotifier
from .loader_threads import LoaderThreads
from .locks import Locks
from .near_cache import NearCache, NearReads
from .pending_invalidations import PendingInvalidations
from .reads import IsReadable, Metadata, PlainReads, Reads
from .recovery import PendingRemover, RecoveringReads, Recovery
from .server_clock import ServerClock
from .single_flight import SingleFlight
from .tags import Tags
from .writes import WriteCommands, Writes

__all__ = ["Engine"]

T = TypeVar("T")

_SERVERS_SKEW: Final = 100_000
"""Microseconds by which the clocks of several servers may differ: a cluster's nodes, or a master and the next."""


class Engine:
    """An open cache, on the running event loop.

    Every awaitable ends by the deadline `command_timeout`, with a result or a `CacheError`.

    Raises:
        CacheConfigError: BAD_OPTION, when a TLS file cannot be read.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        counters: CacheStats,
        health_log: HealthLog,
        clock: Callable[[], float],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.clock = clock
        """Seconds, which advance as the clock of the server does."""
        self._counters = counters
        self._health_log = health_log
        self._connect_timeout = options.connect_seconds
        self._command_timeout = options.command_seconds
        self._prefix = options.key_prefix
        self._server = endpoint.name
        self._bounded = options.max_size > 0
        self.fails_open = options.fail_open == "always"
        """Whether every call behaves as with an empty cache while the server is unreachable."""
        self.strict = options.fail_open == "never"
        """Whether calls that load fail while the server is unreachable."""
        self._index = options.key_prefix.encode() + INDEX_SUFFIX
        self._commands = WriteCommands.of(self._index, options.max_size, self._evicted)
        self._breakers = CircuitBreakers(counters, random.random)
        self._near: NearCache | None = None
        if options.near_cache_enabled:
            self._near = NearCache(
                counters,
                max_size=options.near_cache_max_size,
                max_bytes=options.near_cache_max_bytes,
                max_ttl=options.near_cache_seconds,
                clock=MonotonicClock.time,
            )
        kind = Cluster if endpoint.topology == "cluster" else Standalone
        self._servers: Standalone | Cluster = kind(
            endpoint, options, counters, self._breakers, health_log, listener=self._near
        )
        self._batcher = self._servers.executor
        self._tags = Tags(
            self._batcher,
            options.key_prefix.encode(),
            skew=0 if endpoint.topology == "single" else _SERVERS_SKEW,
        )
        remover = PendingRemover(self._batcher, self._commands.delete, self._tags, self._near)
        self._pending = PendingInvalidations(
            remover.remove_pending,
            counters,
            random.random,
            health_log.condition(PENDING_INVALIDATIONS),
            partial(health_log.once, INVALIDATIONS_DROPPED),
        )
        self._recovery = Recovery(
            self._pending,
            self._check_circuits,
            self._command_timeout,
            fails_open=self.fails_open,
        )
        reads: Reads = PlainReads(self._batcher, self._oversized)
        if self._near is not None:
            reads = NearReads(self._batcher, self._near, self._servers.has_unread, self._oversized)
        self.reads = RecoveringReads(reads, self._recovery)
        self.freshness = Freshness(
            ServerClock(self._batcher, clock),
            self._tags,
            self.reads.fetch_many,
            self._command_timeout,
            counters,
        )
        self._metadata = Metadata(
            self._batcher,
            self._commands.touch,
            bounded=self._bounded,
            tags=self._tags,
            freshness=self.freshness,
        )
        leases = LeaseContext(
            self._batcher,
            self._commands.publish,
            self._tags,
            options.loading_lease_timeout,
            random.random,
            self._command_timeout,
            notifier=NullNotifier() if self._near is None else self._near,
            clock=clock,
        )
        self.threads = LoaderThreads(options.loading_max_threads, counters)
        self.single_flight = SingleFlight(leases, self._pending.add, self._background_failed)
        self.writes = Writes(
            self._batcher,
            self._commands,
            single_flight=self.single_flight,
            near=self._near,
            recovery=self._recovery,
            tags=self._tags,
            check_circuits=self._check_circuits,
        )

        self.atomic = AtomicWrites(
            self._batcher,
            index=self._index,
            bound=options.max_size,
            on_evicted=self._evicted,
            single_flight=self.single_flight,
            near=self._near,
            recovery=self._recovery,
            check_circuits=self._check_circuits,
            counters=counters,
        )
        self.locks = Locks(
            self._batcher,
            options.key_prefix.encode(),
            LockCommands(self._index, options.max_size, self._evicted),
            self._check_circuits,
        )

    def __repr__(self) -> str:
        return f"<Engine {self._servers!r}>"

    @property
    def master(self) -> Address | None:
        """The address of the master that the Sentinels report; None without Sentinels."""
        return self._servers.master

    async def connect(self) -> None:
        """Connect, log in and ping, in one attempt within `connect_timeout`.

        Raises:
            CacheUnsupported: an option needs what the server, or the user's permissions, do not offer.
            CacheError: the attempt failed.
        """
        opening = Opening(self._index, self._scripts_refused) if self._bounded else PING
        await self._servers.connect(self._connect_timeout, opening)

    def _scripts_refused(self) -> None:
        self._health_log.once(SCRIPTS_REFUSED, code="NOPERM")

    def abandon(self) -> None:
        """Close every connection after the event loop was closed."""
        self._servers.abandon()

    async def close(self) -> None:
        """End every call and close every connection. A cancelled call leaves nothing open."""
        # Invalidations dropped here are logged; connections that close afterwards are not.
        self._pending.stop()
        self._health_log.end()
        self.single_flight.stop()
        self.locks.stop()
        self._servers.stop()
        await self.single_flight.stopped()
        await self.locks.stopped()
        await self._pending.stopped()
        await self._servers.stopped()

    def without_near(self) -> Engine:
        """Return this engine, except that it reads every value from the server."""
        engine = copy.copy(self)
        engine.reads = RecoveringReads(PlainReads(self._batcher, self._oversized), self._recovery)
        return engine

    @property
    def has_near(self) -> bool:
        """Whether there is a near cache."""
        return self._near is not None

    def call_on_loop(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop. See `CallerEngine`, which is used by other threads."""
        function(*args)

    def load_engine(self) -> Engine:
        """Return the engine that a load uses, which runs on the loop."""
        return self

    async def run_in_caller(self, function: Callable[[], T]) -> T:
        """Call a function in the caller's thread, which is the loop's; return its result."""
        return function()

    async def gather_outcomes(self, awaitables: Iterable[Awaitable[T]]) -> list[T | CapturedError]:
        """Await all; return the result or the exception of each."""
        return await gather_outcomes(awaitables)

    def result_not_stored(self, function: str, code: str) -> None:
        """Log, once for each function, that its result cannot be stored."""
        self._health_log.once(NOT_CACHED, function, code)

    def open_circuits_of(self, keys: Iterable[bytes]) -> Collection[bytes]:
        """Return those keys for whose server the circuit is open, and let circuits open from now on."""
        self._breakers.enabled = True
        if not self._counters.open_circuits:
            return ()
        return {key for key in keys if self._servers.is_circuit_open(key)}

    def check_circuit(self, key: bytes) -> None:
        """Check the circuit of a key's server, before a call that loads sends a request.

        Raises:
            CacheUnavailable: BREAKER_OPEN.
        """
        # As `open_circuits_of`, but faster: this is a hot path.
        self._breakers.enabled = True
        if self._counters.open_circuits and self._servers.is_circuit_open(key):
            raise self.circuit_open()

    def circuit_open(self) -> CacheError:
        """Return the error of a call whose server has an open circuit."""
        return CIRCUIT_OPEN._replace(server=self._server).error()

    def failed_open(self, code: str) -> None:
        """Log, once for each error code, that a failed call returns what it would with an empty cache."""
        self._health_log.once(FAILED_OPEN, code=code)

    def continue_without_server(self, error: CacheError) -> None:
        """Raise the error of a call that loads, if it may not load without the server."""
        if self.strict:
            raise error

    async def get_and_delete(self, key: bytes) -> bytes | None:
        """Remove a key; return the payload of its value, or None where there was no value.

        Raises:
            CacheOutcomeUnknown: the key was removed, but whether its value was still valid is not known.
        """
        since = self.loop.time()
        data: bytes | None = (await self.writes.delete(self._commands.get_and_delete, (key,)))[0]
        try:
            return await self.freshness.payload(data, since)
        except CacheError:
            raise UNKNOWN.error() from None

    async def delete_counted(self, keys: Sequence[bytes]) -> int:
        """Remove keys; return how many existed."""
        return sum(await self.writes.delete(self._commands.delete_counted, keys))

    async def delete(self, keys: Sequence[bytes]) -> int:
        """Remove keys; return how many existed, of which a removal that was sent twice may not know."""
        return sum(await self.writes.delete(self._commands.delete, keys))

    async def contains(self, key: bytes, is_readable: IsReadable) -> bool:
        """Return whether the key has a value that can be read."""
        contains = partial(self._metadata.contains, key, is_readable)
        return bool(await self._read_recovered(key, contains))

    async def touch(self, key: bytes, ttl: int, is_readable: IsReadable) -> bool:
        """Give the key a new TTL, in milliseconds; return whether it had a value that can be read."""

        async def touch() -> bool:
            return await self.writes.touch((key,), self._metadata.touch(key, ttl, is_readable))

        return bool(await self._read_recovered(key, touch))

    async def time_to_live(
        self, key: bytes, since: float | None = None, is_readable: IsReadable | None = None
    ) -> int | None:
        """Return the milliseconds until the value expires, a hundred years if it does not; None where there is none.

        Args:
            key: of the value.
            since: when the call began, where this is not its first request.
            is_readable: whether a payload is a value; None where the caller has read it.
        """
        since = self.loop.time() if since is None else since
        query = partial(self._metadata.time_to_live, key, since, is_readable)
        return await self._read_recovered(key, query, since)

    async def ping(self) -> None:
        """Make one round trip to the server."""
        await self._batcher.execute(PING, (), 16)

    async def clear(self, prefix: bytes, seconds: float | None = None) -> int:
        """Remove the keys with a prefix and no others; return how many existed.

        Args:
            prefix: of a namespace, or that of the cache, which may be empty if the cache is bounded.
            seconds: for everything; None for `command_timeout`.

        Raises:
            CacheUnsupported: there is neither a key prefix nor a bound to recognize the cache's keys by.
        """
        budget = self._command_timeout if seconds is None else seconds
        if len(prefix) > len(self._prefix.encode()):
            return await self._clear_namespace(prefix, budget)
        if not (self._prefix or self._bounded):
            problem = (
                "`clear` needs options.key_prefix or options.max_size to recognize the cache's keys"
            )
            raise CacheUnsupported("UNSUPPORTED", problem)
        try:
            if self._prefix:
                removed = await clear_prefix(
                    self._servers, budget, self._prefix, self._commands.delete_counted
                )
            else:
                removed = await clear_index(self._batcher, budget, self._index)
        except BaseException:
            self.writes.invalidate_unknown()
            raise
        self.writes.invalidate_all()
        return removed

    async def _clear_namespace(self, prefix: bytes, budget: float) -> int:
        """Remove the keys with a prefix.

        A load holds its lease in the key, so it cannot publish its result afterwards, whichever process loads.
        """
        try:
            return await clear_prefix(
                self._servers, budget, prefix.decode(), self._commands.delete_counted
            )
        finally:
            # At the end: a read before a key was removed may have made a local entry of it.
            self.writes.invalidate_prefix(prefix)

    async def next_keys(self, scan: KeyScan, prefix: bytes) -> list[bytes] | None:
        """Return the next page of a scan for the keys with a prefix; None after the last."""
        return await scan.next_page(self._servers, prefix, self._command_timeout)

    def _background_failed(self, function: str, error: str) -> None:
        self._health_log.once(REFRESH_FAILED, function, error)

    def _oversized(self) -> None:
        self._counters.unreadable += 1
        self._health_log.once(UNREADABLE, "", TOO_LARGE.code)

    def _evicted(self, count: int) -> None:
        self._counters.evictions += count
        self._health_log.once(EVICTIONS)

    def _check_circuits(self, keys: Iterable[bytes]) -> None:
        """Check the circuits of the keys' servers, before a call that does not load sends a request.

        Only where every call fails open: the other calls send their requests even while the circuit is open.

        Raises:
            CacheUnavailable: BREAKER_OPEN.
        """
        if self.fails_open and self.open_circuits_of(keys):
            raise self.circuit_open()

    async def _read_recovered(
        self, key: bytes, read: Callable[[], Awaitable[T]], since: float | None = None
    ) -> T | None:
        """Read something about a key; return None if the key was pending invalidation, and is removed by now."""
        budget = self._command_timeout if since is None else self.freshness.remaining(since)
        result, pending = await self._recovery.read((key,), read, budget)
        return None if pending else result
