"""While a key is loaded: who waits, changes by others, cancellation, and what is stored."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheError,
    CacheOverloaded,
    CacheStats,
    CacheTimeout,
    LoadOptions,
)
from async_redis_cache._engine.load_lease import LoadLease
from async_redis_cache._engine.load_source import LoadResult, LoadSpec
from async_redis_cache._protocol.command import Command
from async_redis_cache._protocol.commands import PEXPIRE, PTTL
from async_redis_cache._protocol.record import VALUE
from harness import Client, Server, await_until
from harness.apis import configured, until_gone
from harness.figures import report

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")


class Gate:
    """A loader that gives what the origin had when it was called, once it may."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.begun = 0
        self.cancelled = 0
        self.opened = asyncio.Event()

    async def load(self) -> object:
        self.begun += 1
        found = self.value
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return found

    async def loading(self, times: int = 1) -> None:
        await await_until(lambda: self.begun >= times)


STALE: LoadOptions = {"stale_timeout": 60_000}


async def made_stale(cache: AsyncRedisCache) -> None:
    """Store a stale value, for callers that accept one."""
    await cache.retrieve_or_load(None, "key", lambda: "old", 1, **STALE)
    await until_gone(cache, "key")


@pytest.mark.depends_on("server", "storage", "near")
async def test_a_thousand_callers_share_one_load(server: Server, storage: dict[str, Any]) -> None:
    """21. 1,000 callers of two caches request a missing key: the loader runs once, and all receive its value."""
    async with configured(server.url, **storage) as one, configured(server.url, **storage) as two:
        gate = Gate({"n": 1})
        calls = [
            asyncio.create_task(cache.retrieve_or_load(None, "key", gate.load))
            for cache in (one, two)
            for _ in range(500)
        ]
        await gate.loading()
        gate.opened.set()
        values = await asyncio.gather(*calls)
        assert gate.begun == 1
        assert values == [{"n": 1}] * 1000
        assert len({id(value) for value in values}) == 1000
        loads = one.stats().loads + two.stats().loads
        report(21, f"{len(values)} callers, {loads} load", loads)
        assert loads == 1


@pytest.mark.depends_on("server", "storage", "near")
async def test_placeholder_is_a_miss_for_readers(server: Server, storage: dict[str, Any]) -> None:
    """A key that is being loaded has no value for any method, and is not called unreadable."""
    async with configured(server.url, **storage) as one, configured(server.url, **storage) as two:
        gate = Gate(1)
        call = asyncio.create_task(one.retrieve_or_load(None, "key", gate.load))
        await gate.loading()
        assert await two.retrieve(None, "key") is None
        assert await two.retrieve_many(None, ["key"]) == {}
        assert not await two.contains(None, "key")
        assert await two.time_to_live(None, "key") is None
        assert not await two.touch(None, "key", 60_000)
        assert two.stats().unreadable == 0
        gate.opened.set()
        assert await call == 1
        assert await two.retrieve(None, "key") == 1


CHANGES: dict[str, Callable[[AsyncRedisCache], Awaitable[Any]]] = {
    "store": lambda cache: cache.store(None, "key", "new"),
    "store_many": lambda cache: cache.store_many(None, {"key": "new"}),
    "store None": lambda cache: cache.store(None, "key", None),
    "remove": lambda cache: cache.remove(None, "key"),
    "remove_many": lambda cache: cache.remove_many(None, ["key", "other"]),
    "clear": lambda cache: cache.clear(None),
}


@pytest.mark.parametrize("own", [True, False], ids=["own", "another's"])
@pytest.mark.parametrize("change", CHANGES)
async def test_superseded_load_is_not_stored(
    server: Server, storage: dict[str, Any], change: str, own: bool
) -> None:
    """A change during a load wins; earlier callers get the load, later ones do not."""
    async with configured(server.url, **storage) as one, configured(server.url, **storage) as two:
        old, new = Gate("old"), Gate("new")
        before = asyncio.create_task(one.retrieve_or_load(None, "key", old.load))
        await old.loading()
        assert await CHANGES[change](one if own else two) != "old"
        after = asyncio.create_task(one.retrieve_or_load(None, "key", new.load))
        new.opened.set()
        assert await after == "new"
        old.opened.set()
        assert await before == "old"
        assert await two.retrieve(None, "key") == "new"
        assert (one.stats().superseded_loads, old.begun) == (1, 1)


async def test_refused_change_supersedes_the_load_too(
    server: Server, storage: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value known to be old is not stored, though no command has ended the lease on the server."""
    async with configured(server.url, **storage) as cache:
        gate = Gate("old")
        call = asyncio.create_task(cache.retrieve_or_load(None, "key", gate.load))
        await gate.loading()

        def refuse(*_: Any, **__: Any) -> Any:
            raise CacheOverloaded("OVERLOADED", "")

        with monkeypatch.context() as patch:
            patch.setattr(cache._lifecycle.ready().engine._batcher, "execute", refuse)
            with pytest.raises(CacheOverloaded):
                await cache.store(None, "key", "new")
        gate.opened.set()
        assert await call == "old"
        assert await cache.retrieve(None, "key") is None
        assert cache.stats().superseded_loads == 1


async def test_reader_of_a_newer_value_does_not_join_the_older_load(
    server: Server, storage: dict[str, Any]
) -> None:
    """Not even if the newer value was loaded by another process and is too old for the reader."""
    async with configured(server.url, **storage) as one, configured(server.url, **storage) as two:
        old, new = Gate("old"), Gate("new")
        before = asyncio.create_task(one.retrieve_or_load(None, "key", old.load))
        await old.loading()
        await two.refresh(None, "key", lambda: "newer", 1, **STALE)
        await until_gone(two, "key")
        after = asyncio.create_task(one.retrieve_or_load(None, "key", new.load))
        await new.loading()
        old.opened.set()
        new.opened.set()
        assert [await before, await after] == ["old", "new"]


@pytest.mark.parametrize(
    "command", [("SET", "load:key", '"new"'), ("DEL", "load:key"), ("FLUSHDB",)]
)
async def test_change_of_another_program_supersedes_the_load(
    server: Server, raw: Client, storage: dict[str, Any], command: tuple[str, ...]
) -> None:
    """Changes by programs without leases supersede the load, too."""
    async with configured(server.url, **storage) as cache:
        gate = Gate("old")
        call = asyncio.create_task(cache.retrieve_or_load(None, "key", gate.load))
        await gate.loading()
        raw.execute_command(*command)
        gate.opened.set()
        assert await call == "old"
        assert await cache.retrieve(None, "key") == ("new" if command[0] == "SET" else None)


@pytest.mark.parametrize("leaving", range(8), ids=lambda leaving: f"{leaving:03b}")
@pytest.mark.parametrize("moment", ["at once", "loading"])
async def test_cancelled_caller_cancels_no_other(server: Server, leaving: int, moment: str) -> None:
    """21. Any of three callers can be cancelled: the others receive the value; after the last, the load is cancelled."""
    async with configured(server.url, loading_lease_timeout=60_000) as cache:
        gate = Gate(1)
        calls = [
            asyncio.create_task(cache.retrieve_or_load(None, "key", gate.load)) for _ in range(3)
        ]
        if moment == "loading":
            await gate.loading()
        gone = [call for at, call in enumerate(calls) if leaving >> at & 1]
        staying = [call for call in calls if call not in gone]
        for call in gone:
            call.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert all(call.cancelled() for call in gone)
        if staying:
            await gate.loading()
            gate.opened.set()
            assert await asyncio.gather(*staying) == [1] * len(staying)
            assert (gate.begun, gate.cancelled) == (1, 0)
        elif moment == "loading":
            await await_until(lambda: gate.cancelled == 1)
        # The lease was given back: nobody waits the minute for it.
        async with asyncio.timeout(60):
            assert await cache.retrieve_or_load(None, "key", lambda: 1) == 1


async def test_cancelled_joiner_does_not_end_a_detached_load(server: Server) -> None:
    """A load without waiters from the start goes on when its joiners are cancelled."""
    async with configured(server.url, loading_lease_timeout=60_000) as cache:
        ahead, own = Gate("new"), Gate("own")
        await made_stale(cache)
        assert await cache.retrieve_or_load(None, "key", ahead.load, **STALE) == "old"
        await ahead.loading()
        joining = asyncio.create_task(cache.retrieve_or_load(None, "key", own.load))
        (flight,) = cache._lifecycle.ready().engine.single_flight._in_flight.values()
        await await_until(lambda: flight.waiting)
        joining.cancel()
        await asyncio.wait((joining,))
        ahead.opened.set()
        await asyncio.wait((flight.task,))
        assert await cache.retrieve(None, "key") == "new"
        assert (ahead.cancelled, own.begun) == (0, 0)


class FixedSource:
    """A `LoadSource` whose loader returns 1, and that accepts everything stored."""

    counters = CacheStats()

    async def call_loader(self) -> LoadResult:
        return LoadResult(VALUE, b"1", 60_000, 0, is_kept=True)

    async def accepts(self, data: bytes, since: float) -> bool:
        return True

    def may_change_tags(self) -> bool:
        return False

    def on_decided(self) -> None:
        pass

    def waits_for_others(self) -> bool:
        return False

    def idle_time(self) -> float:
        return 0.0

    def loader_name(self) -> str:
        return "fixed"


async def test_caller_loads_when_a_detached_load_was_handed_over(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same turn of the loop, as when one pipeline answers both: there is no load to join."""
    async with configured(server.url) as cache:
        loading = cache._lifecycle.ready().engine.single_flight
        wanted = LoadSpec(FixedSource(), b"", 5.0)
        answered = asyncio.get_running_loop().create_future()

        async def come() -> Any:
            await answered
            return await loading.load(b"key", wanted)

        async def lose(*_: Any, **__: Any) -> bool:
            patch.undo()
            answered.set_result(None)
            return False

        coming = asyncio.create_task(come())
        with monkeypatch.context() as patch:
            patch.setattr(LoadLease, "acquire", lose)
            loading.refresh_in_background(b"key", wanted)
            found = await coming
        assert isinstance(found, LoadResult)
        assert await cache.retrieve(None, "key") == 1


async def test_abandoned_load_is_not_counted_as_failed(server: Server) -> None:
    """Cancellation says nothing about the origin: the next caller may load at once."""
    async with configured(server.url, loading_lease_timeout=60_000) as cache:
        first, second = Gate("first"), Gate("second")
        await made_stale(cache)
        leaving = asyncio.create_task(cache.retrieve_or_load(None, "key", first.load))
        await first.loading()
        leaving.cancel()
        async with asyncio.timeout(60):
            while not second.begun:
                value = await cache.retrieve_or_load(None, "key", second.load, **STALE)
                assert value == "old"
        second.opened.set()


async def test_error_is_raised_in_all_waiting_callers(server: Server) -> None:
    """21. An error of the loader is raised in every caller that shares the load."""
    begun = asyncio.Event()

    async def fail() -> None:
        await begun.wait()
        raise LookupError("kettle")

    async with configured(server.url) as cache:

        def call() -> asyncio.Task[None]:
            return asyncio.create_task(cache.retrieve_or_load(None, "key", fail))

        calls = [call()]
        # A caller that has read before the lease was acquired may wait for that in a load of its own.
        await await_until(lambda: cache.stats().loads == 1)
        calls += [call() for _ in range(2)]
        await await_until(lambda: cache.stats().misses == 3)
        begun.set()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [LookupError] * 3
        assert (cache.stats().loads, cache.stats().load_failures) == (1, 1)


async def test_load_ends_at_the_hard_timeout(server: Server) -> None:
    """After `loading.hard_timeout` all waiters get LOAD_TIMEOUT, and the key can be loaded again."""
    options = {"loading_hard_timeout": 300, "loading_lease_timeout": 60_000}
    async with configured(server.url, **options) as cache:
        gate = Gate(1)
        calls = [cache.retrieve_or_load("t", "key", gate.load) for _ in range(3)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, CacheTimeout)
            assert (error.code, error.trace_id) == ("LOAD_TIMEOUT", "t")
        assert (gate.begun, gate.cancelled) == (1, 1)
        async with asyncio.timeout(60):
            assert await cache.retrieve_or_load(None, "key", lambda: 2) == 2


async def test_load_beyond_its_hard_timeout_is_not_joined(server: Server) -> None:
    """Later callers load with a hard timeout of their own."""
    may_end = asyncio.Event()

    async def stubborn() -> Any:
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()

    async with configured(server.url, loading_hard_timeout=300) as cache:
        await made_stale(cache)
        assert await cache.retrieve_or_load(None, "key", stubborn, **STALE) == "old"
        (flight,) = cache._lifecycle.ready().engine.single_flight._in_flight.values()
        await await_until(lambda: flight.expired)
        try:
            with pytest.raises(CacheTimeout, match="hard_timeout"):
                async with asyncio.timeout(60):
                    await cache.retrieve_or_load(None, "key", stubborn)
        finally:
            may_end.set()


async def test_load_beyond_its_hard_timeout_releases_the_key(server: Server) -> None:
    """Others load it once the lease has expired, which is not renewed; the first result is not stored."""
    may_end = asyncio.Event()
    ended = False

    async def stubborn() -> int:
        nonlocal ended
        while not may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await may_end.wait()
        ended = True
        return 1

    options: dict[str, Any] = {"loading_lease_timeout": 400}
    async with (
        configured(server.url, loading_hard_timeout=300, **options) as one,
        configured(server.url, **options) as two,
    ):
        try:
            with pytest.raises(CacheTimeout, match="hard_timeout"):
                await one.retrieve_or_load(None, "key", stubborn)
            async with asyncio.timeout(60):
                assert await two.retrieve_or_load(None, "key", lambda: 2) == 2
            assert not ended
        finally:
            may_end.set()
        await await_until(lambda: one.stats().superseded_loads == 1)
        assert await two.retrieve(None, "key") == 2


async def test_waiting_process_polls_at_intervals(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without notifications: soon, then less often; not in each turn, and not only when the lease ends."""
    options = {"loading_lease_timeout": 60_000, "max_size": 0}
    looks = 0
    look = LoadLease._is_held

    async def counted(right: LoadLease, budget: float) -> bool:
        nonlocal looks
        looks += 1
        return await look(right, budget)

    async with configured(server.url, **options) as one, configured(server.url, **options) as two:
        gate = Gate(1)
        holder = asyncio.create_task(one.retrieve_or_load(None, "key", gate.load))
        await gate.loading()
        monkeypatch.setattr(LoadLease, "_is_held", counted)
        waiter = asyncio.create_task(two.retrieve_or_load(None, "key", lambda: 2))
        await await_until(lambda: looks > 3)
        since, before = time.monotonic(), looks
        assert (await asyncio.wait((waiter,), timeout=0.3))[0] == set()
        # A slow machine looks less often.
        assert looks - before < 10 + (time.monotonic() - since) / 0.025
        gate.opened.set()
        assert [await holder, await waiter] == [1, 1]


async def test_long_load_renews_its_lease(server: Server, raw: Client) -> None:
    """A lease is renewed while its load runs: no other process begins one."""
    # Renewed every 1.2 s: a machine that stalls for twice as long does not end it.
    options = {"loading_lease_timeout": 3_600, "max_size": 0}
    async with configured(server.url, **options) as one, configured(server.url, **options) as two:
        gate, other = Gate(1), Gate(2)
        first = asyncio.create_task(one.retrieve_or_load(None, "key", gate.load))
        await gate.loading()
        waiting = asyncio.create_task(two.retrieve_or_load(None, "key", other.load))
        renewed = {raw.get("key")}
        # Three times, which is longer than the first lease lasts.
        while len(renewed) < 4 and not other.begun:
            renewed.add(raw.get("key"))
            await asyncio.sleep(0.01)
        assert None not in renewed
        gate.opened.set()
        assert list(await asyncio.gather(first, waiting)) == [1, 1]
        assert other.begun == 0


@pytest.mark.no_leaks
async def test_closing_ends_every_load(server: Server) -> None:
    """Waiters of a load get NOT_OPENED when the cache is closed, and no load keeps running."""
    gate = Gate(1)
    async with configured(server.url) as cache:
        calls = [
            asyncio.create_task(cache.retrieve_or_load(None, f"{at % 2}", gate.load))
            for at in range(4)
        ]
        await gate.loading(2)
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [error.code for error in errors if isinstance(error, CacheError)] == ["NOT_OPENED"] * 4
    assert gate.cancelled == 2


@pytest.mark.parametrize("is_there", [False, True])
async def test_lease_may_expire_between_two_commands(
    server: Server, storage: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    """PTTL has seen a placeholder, and GETRANGE nothing: that is no value; an empty one is."""
    options = {**storage, "serializer": "raw"}
    async with configured(server.url, **options) as cache:
        if is_there:
            await cache.store(None, "key", b"", 60_000)
        batcher = cache._lifecycle.ready().engine._batcher
        ask = batcher.execute

        def torn(operation: Command, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
            if operation in {PTTL, PEXPIRE}:
                torn = asyncio.get_running_loop().create_future()
                torn.set_result((1, b""))
                return torn
            return ask(operation, *args, **kwargs)

        monkeypatch.setattr(batcher, "execute", torn)
        assert await cache.contains(None, "key") is is_there
        opened = cache._lifecycle.ready()
        left = opened.engine.time_to_live(opened.codec.wire_key("key"))
        assert await left == (1 if is_there else None)
        assert await cache.touch(None, "key") is is_there
