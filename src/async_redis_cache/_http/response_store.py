"""The stored responses of an application: records in a namespace, and loads that wait for a response."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from time import monotonic
from typing import Any, Final, NamedTuple

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheError,
    CacheStateError,
    Load,
    LoadOptions,
    Namespace,
    RedisCache,
    SyncNamespace,
)

from .cache_status import CacheStatus
from .messages import RECORDS, Record, Uncacheable
from .observers import OBSERVERS
from .response_log import warn_without_effect
from .response_options import Rule

__all__ = ["Lead", "Outcome", "ResponseStore", "Terms", "records_of", "sync_records_of"]

_SHORTEST: Final = 0.001
"""Seconds of the shortest TTL: a record that is to be validated each time it is used is stale at once."""
_STORING: Final = 0.02
"""Seconds by which a record expires before its response is stale, which more than storing it takes. Otherwise the server
would return a response to requests that must not be given it, and they would not wait for one another."""
_LONGEST: Final = 31_536_000
"""Seconds of a year. A response may claim more than the greatest TTL."""
_MOST_UNSHARED: Final = 10_000
_PAUSE: Final = 1.0
"""Seconds without reads after one has failed."""
_ALWAYS: Final = 1e-9
"""The share of the TTL after which a value is due for refresh."""


class Terms(NamedTuple):
    """How a record is loaded.

    Attributes:
        stale_seconds: for how long it is kept after it has become stale.
        wait_seconds: how long a request waits for the response that another request is about to store.
    """

    stale_seconds: float
    wait_seconds: float

    def options(self, refresh_at: float = 0) -> LoadOptions:
        """Return the options of a load."""
        wait = int(self.wait_seconds * 1000)
        # A stale response is served by the rules of HTTP only, so that no caller takes it because it waited too long.
        return {
            "refresh_at": refresh_at,
            # A load in the background would wait for the outcome of a request that has none.
            "early_refresh": 0,
            "stale_timeout": int(self.stale_seconds * 1000),
            "soft_timeout": wait,
            "hard_timeout": wait,
        }


class Outcome(NamedTuple):
    """What becomes of a load.

    Attributes:
        record: what is stored, and given to the requests that wait.
        fresh_seconds: for how long it is fresh; None for not storing it.
        tags: of the record.
    """

    record: Record
    fresh_seconds: float | None
    tags: Iterable[str] = ()


def records_of(cache: AsyncRedisCache, namespace: str) -> Namespace[Any]:
    """Return the records of the responses in a namespace.

    Raises:
        TypeError: the cache is another object, such as a `RedisCache`, whose methods cannot be awaited.
    """
    if not isinstance(cache, AsyncRedisCache):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"cache must be an AsyncRedisCache, not {type(cache).__name__}")
    return cache.namespace(namespace, serializer=RECORDS, long_keys="hash")


def sync_records_of(cache: RedisCache, namespace: str) -> SyncNamespace[Any]:
    """Do what `records_of` does, for a `RedisCache`.

    Raises:
        TypeError: the cache is another object, such as an `AsyncRedisCache`.
    """
    if not isinstance(cache, RedisCache):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"cache must be a RedisCache, not {type(cache).__name__}")
    return cache.namespace(namespace, serializer=RECORDS, long_keys="hash")


class Lead:
    """A load that waits for the response of the application, whose request must end it with `decide`.

    Args:
        run: runs the application; by default, the request that `join_or_lead` returns the lead to does.
        replaces: whether other requests may get the stored record still. It stays if the response cannot be stored.
    """

    def __init__(
        self, run: Callable[[Lead], Awaitable[None]] | None = None, *, replaces: bool = False
    ) -> None:
        self.replaces = replaces
        self.stale: Record | None = None
        """The record to be replaced."""
        self._run = run
        self.task: asyncio.Task[Record] | None = None
        """The load, if a request waits for it."""
        self._outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._begun = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether the load has ended without an outcome, since it took too long: nothing is stored."""
        return self.task is not None and self.task.done()

    @property
    def is_decided(self) -> bool:
        """Whether `decide` was called."""
        return self._outcome.done()

    def decide(self, record: Record, fresh_seconds: float | None, tags: Iterable[str] = ()) -> None:
        """End the load with a record, if it has not been decided. See `Outcome`."""
        if self.replaces and isinstance(record, Uncacheable):
            fresh_seconds = None
        if not self._outcome.done():
            self._outcome.set_result(Outcome(record, fresh_seconds, tags))

    async def begins(self, task: asyncio.Task[Record]) -> bool:
        """Wait until the load in this task calls its loader, or ends without; return whether it does."""
        self.task = task
        begun = asyncio.ensure_future(self._begun.wait())
        try:
            await asyncio.wait((task, begun), return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        return self._begun.is_set()

    async def ends(self) -> None:
        """Wait until the record is stored, or could not be."""
        if self.task is not None:
            await asyncio.wait((self.task,))

    async def load(self, load: Load[Record]) -> Record:
        """The loader: wait for the outcome."""
        self.stale = load.stale
        self._begun.set()
        if self._run is not None:
            await self._run(self)
        # A load that takes too long is cancelled, but its request goes on and ends with an outcome.
        await asyncio.wait((self._outcome,))
        outcome = self._outcome.result()
        if outcome.fresh_seconds is None:
            load.do_not_cache()
        else:
            seconds = max(_SHORTEST, outcome.fresh_seconds - _STORING)
            load.timeout = int(min(_LONGEST, seconds) * 1000)
            load.tags = {*load.tags, *outcome.tags}
        return outcome.record


class ResponseStore:
    """The responses of an application in a cache.

    Args:
        namespace: of records, with `RECORDS` as its serializer.
    """

    def __init__(self, namespace: Namespace[Any]) -> None:
        self._namespace = namespace
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unreachable_until = 0.0
        self._unshared: dict[str, float] = {}
        """Until when requests with `Authorization` do not wait for one another, by keys."""

    def observer(
        self, route_of: Callable[[Rule], str], rule: Rule
    ) -> Callable[[CacheStatus], None] | None:
        """Return what to call with how a response was handled; None if the cache has no observer.

        Args:
            route_of: returns the template or pattern of the route, of which there is a bounded number.
            rule: of the route.
        """
        if not OBSERVERS:
            return None
        namespace = self._namespace
        observe = OBSERVERS.get(namespace._cache)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        return None if observe is None else partial(observe, namespace.name, route_of(rule))

    def add_unshared(self, key: str, seconds: float) -> None:
        """Note that responses to requests with `Authorization` were not storable for this key."""
        if len(self._unshared) >= _MOST_UNSHARED:
            self._unshared.clear()
        self._unshared[key] = monotonic() + seconds

    def is_unshared(self, key: str) -> bool:
        """Return whether `add_unshared` was called for a key, and its time has not passed."""
        return monotonic() < self._unshared.get(key, 0)

    async def read(self, key: str) -> Record | None:
        """Return the record of a key, unless its response may no longer be served.

        None if there is none, and if the server did not reply: reads wait for a second then before they try it again, and
        only loads, which have the circuit breaker, tell whether it does.
        """
        if self._unreachable_until and monotonic() < self._unreachable_until:
            return None
        try:
            record: Record | None = await self._namespace.get(key)
        except (CacheStateError, CacheConfigError) as error:
            warn_without_effect(f"ResponseCache with namespace {self._namespace.name}", str(error))
            return None
        except CacheError:
            self._unreachable_until = monotonic() + _PAUSE
            return None
        self._unreachable_until = 0.0
        return record

    @property
    def is_reachable(self) -> bool:
        """Whether the last read succeeded."""
        return not self._unreachable_until

    async def join_or_lead(
        self, key: str, terms: Terms, *, replaces: bool = False
    ) -> Record | Lead:
        """Wait for the record that another request is about to store, in this process or in another.

        Args:
            key: of the record.
            terms: how it is loaded.
            replaces: whether to lead in any case, although a fresh record is stored.

        Returns:
            a `Lead` if there is no such request: then the caller has to run the application, and end the load.
        """
        lead = Lead(replaces=replaces)
        load = self._namespace.refresh if replaces else self._namespace.get_or_load
        task: asyncio.Task[Record] = self.start(load(key, lead.load, **terms.options()))
        try:
            return lead if await lead.begins(task) else await task
        except asyncio.CancelledError:
            lead.decide(Uncacheable("request"), None)
            task.cancel()
            raise
        except Exception:  # noqa: BLE001  that of an application belongs to the request that ran it
            # The load took too long, or failed in the process that led it, or in the background.
            return Uncacheable()

    async def refresh(self, key: str, terms: Terms, run: Callable[[Lead], Awaitable[None]]) -> None:
        """Start a load in the background, unless there is one, in this process or in another.

        Args:
            key: of a record.
            terms: how it is loaded.
            run: runs the application and ends the lead, which it is called with.
        """
        with contextlib.suppress(CacheError):
            await self._namespace.get_or_load(
                key, Lead(run).load, **terms.options(refresh_at=_ALWAYS)
            )

    async def put(self, key: str, outcome: Outcome, terms: Terms) -> None:
        """Store a record under a key that is not in use."""
        lead = Lead()
        lead.decide(*outcome)
        await self._namespace.get_or_load(key, lead.load, **terms.options())

    async def remove(self, key: str) -> None:
        """Remove the record of a key. A load in flight does not store its record.

        Raises:
            CacheError: the record may be there still.
        """
        await self._namespace.delete(key)

    async def remove_all(self, keys: Iterable[str]) -> None:
        """Remove the records of keys. Loads in flight do not store theirs.

        Raises:
            CacheError: some of the records may be there still.
        """
        await self._namespace.delete_many(keys)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in a task that `close` cancels. Its exception is not reported."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Loads report their errors, and the exception of an application belongs to its own request.
            task.exception()

    async def close(self) -> None:
        """End what runs in the background."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
