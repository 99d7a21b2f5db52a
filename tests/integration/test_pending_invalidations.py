"""Changes that fail while the server is unreachable: the values that they would have replaced are not returned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheError,
    CacheServerError,
    CacheTimeout,
    CacheUnavailable,
)
from async_redis_cache._engine.writes import WriteCommands
from harness import Client, Proxy, Server, StartProxy, await_until
from harness.apis import configured
from harness.loading import PREFIX
from harness.waiting import PATIENCE_SECONDS, POLL_SECONDS

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")

DEADLINE = 200
CHANGES: dict[str, Callable[[AsyncRedisCache], Any]] = {
    "store": lambda cache: cache.store(None, "key", "new"),
    "store None": lambda cache: cache.store(None, "key", None),
    "store_many": lambda cache: cache.store_many(None, {"key": "new"}),
    "store with tags": lambda cache: cache.store(None, "key", "new", tags=["a"]),
    "remove": lambda cache: cache.remove(None, "key"),
    "remove_many": lambda cache: cache.remove_many(None, ["key"]),
    "invalidate_tags": lambda cache: cache.invalidate_tags(None, "tag"),
}


async def load() -> str:
    return "new"


READS: dict[str, Callable[[AsyncRedisCache], Any]] = {
    "retrieve": lambda cache: cache.retrieve(None, "key"),
    "retrieve_many": lambda cache: cache.retrieve_many(None, ["key"]),
    "retrieve_entry": lambda cache: cache.retrieve_entry(None, "key"),
    "retrieve_or_load": lambda cache: cache.retrieve_or_load(None, "key", load),
    "retrieve_or_load_many": lambda cache: cache.retrieve_or_load_many(
        None, ["key"], lambda keys: dict.fromkeys(keys, "new")
    ),
    "contains": lambda cache: cache.contains(None, "key"),
    "touch": lambda cache: cache.touch(None, "key"),
    "time_to_live": lambda cache: cache.time_to_live(None, "key"),
}


@pytest.fixture
def network(server: Server, proxy: StartProxy) -> Proxy:
    """Between the cache and the server."""
    return proxy(server)


@pytest.fixture
def deadline() -> int:
    """The command timeout in milliseconds, short: changes that are to fail try for that long."""
    return DEADLINE


undisturbed = pytest.mark.parametrize("deadline", [100 * DEADLINE])
"""A deadline at which nothing fails, however busy the machine is."""


@pytest.fixture
async def cache(
    network: Proxy, storage: dict[str, Any], deadline: int
) -> AsyncIterator[AsyncRedisCache]:
    """An open cache; its key holds an old value with a tag."""
    # Stored by a cache with the default deadlines: on a busy machine, a short one may end the store.
    async with configured(network.server.url, **storage) as setting_up:
        await setting_up.store(None, "key", "old", tags=["tag"])
    options = {"command_timeout": deadline, "connect_timeout": 5 * deadline, **storage}
    async with configured(network.url, **options) as cache:
        yield cache


async def failed(cache: AsyncRedisCache, network: Proxy, change: str) -> None:
    """Let a change fail while the network refuses connections."""
    network.refuse()
    network.cut()
    with pytest.raises(CacheError):
        await CHANGES[change](cache)
    assert cache.stats().pending_invalidations == 1


async def read_in_the_end(cache: AsyncRedisCache) -> object:
    """What the key holds; on a busy machine, the short deadline may end a read."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(CacheUnavailable, CacheTimeout):
                return await cache.retrieve(None, "key")


@pytest.mark.parametrize("change", CHANGES)
async def test_failed_change_is_retried_until_it_succeeds(
    change: str, cache: AsyncRedisCache, network: Proxy, raw: Client
) -> None:
    """By itself, soon after the server is back: for other processes too."""
    await failed(cache, network, change)
    network.heal()
    await await_until(lambda: cache.stats().pending_invalidations == 0)
    assert await read_in_the_end(cache) is None
    assert change == "invalidate_tags" or raw.get(f"{PREFIX}key") is None


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("change", ["store", "remove", "invalidate_tags"])
async def test_pending_key_is_not_read(
    change: str, read: str, cache: AsyncRedisCache, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that comes before that makes it good first."""
    debts = cache._lifecycle.ready().engine._pending

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(debts, "_flush_until_done", never)
    await failed(cache, network, change)
    network.heal()

    async with asyncio.timeout(PATIENCE_SECONDS):
        # A call that loads may go on without the server at first.
        while cache.stats().pending_invalidations:
            with contextlib.suppress(CacheUnavailable, CacheTimeout):
                found = await READS[read](cache)
                assert "old" not in str(found)
                assert found is not True
            await asyncio.sleep(POLL_SECONDS)


@undisturbed
async def test_pending_key_is_not_read_while_retries_fail(
    cache: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server takes reads and no removals, as a replica: the key cannot be read."""
    engine = cache._lifecycle.ready().engine

    async def refused(keys: Sequence[bytes]) -> dict[bytes, CacheError]:
        return {key: CacheUnavailable("MASTERDOWN", "") for key in keys}

    monkeypatch.setattr(engine._pending, "_remove", refused)
    engine.writes.failed((f"{PREFIX}key".encode(),), CacheUnavailable("CONNECTION_LOST", ""))
    with pytest.raises(CacheUnavailable):
        await cache.retrieve(None, "key")
    assert await cache.retrieve(None, "another") is None
    assert await cache.retrieve_or_load(None, "key", load) == "new"
    assert cache.stats().pending_invalidations == 1


@pytest.mark.parametrize("ending", ["refused", "cancelled"])
async def test_refused_change_clears_no_pending_invalidation(
    cache: AsyncRedisCache, network: Proxy, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Stored anew in vain, the key is still to be removed."""
    engine = cache._lifecycle.ready().engine

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(engine._pending, "_flush_until_done", never)
    await failed(cache, network, "store")
    network.heal()
    ask = engine._batcher.execute

    def in_vain(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        if ending == "refused":
            answer.set_exception(CacheServerError("OOM", "no room"))
        else:
            answer.cancel()
        return answer

    monkeypatch.setattr(engine._batcher, "execute", in_vain)
    with pytest.raises(CacheServerError if ending == "refused" else asyncio.CancelledError):
        await cache.store(None, "key", "newer")
    monkeypatch.setattr(engine._batcher, "execute", ask)
    assert cache.stats().pending_invalidations == 1
    assert await read_in_the_end(cache) is None
    assert cache.stats().pending_invalidations == 0


async def test_later_change_clears_the_pending_invalidation(
    cache: AsyncRedisCache, network: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value stored meanwhile stays."""
    debts = cache._lifecycle.ready().engine._pending

    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(debts, "_flush_until_done", never)
    await failed(cache, network, "remove")
    network.heal()
    for _ in range(50):
        try:
            await cache.store(None, "key", "newer")
        except (CacheUnavailable, CacheTimeout):
            continue
        break
    assert cache.stats().pending_invalidations == 0
    assert await read_in_the_end(cache) == "newer"


@undisturbed
async def test_pending_invalidations_are_bounded(cache: AsyncRedisCache) -> None:
    """The latest 10,000."""
    engine = cache._lifecycle.ready().engine
    engine._pending.add(
        (f"k{n}".encode() for n in range(10_010)), CacheUnavailable("CONNECTION_LOST", "")
    )
    assert cache.stats().pending_invalidations == 10_000
    assert b"k9" not in engine._pending.keys
    assert b"k10009" in engine._pending.keys


@undisturbed
async def test_value_read_during_the_flush_is_not_returned(
    cache: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has sent the old value, and removes it before the reply arrives."""
    engine = cache._lifecycle.ready().engine
    key = f"{PREFIX}key".encode()
    ask = engine._batcher.execute

    def late(*args: Any, **kwargs: Any) -> Any:
        asked = ask(*args, **kwargs)

        async def arrive() -> Any:
            answer = await asked
            monkeypatch.undo()
            await engine._pending.flush((key,), 20)
            return answer

        return asyncio.get_running_loop().create_task(arrive())

    with pytest.MonkeyPatch.context() as patch:
        # Or, on a busy machine, what is removed in the background would be late, and wait for itself.
        patch.setattr("async_redis_cache._engine.pending_invalidations._FIRST_PAUSE", 60.0)
        for operation in READS.values():
            await cache.store(None, "key", "old")
            engine.writes.failed((key,), CacheUnavailable("CONNECTION_LOST", ""))
            monkeypatch.setattr(engine._batcher, "execute", late)
            found = await operation(cache)
            assert "old" not in str(found)
            assert found in (None, False, {}, "new", {"key": "new"}) or found.status == "missing"


@undisturbed
async def test_concurrent_readers_share_one_flush(
    cache: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it fails, again and again; and a change waits for the one under way."""
    engine = cache._lifecycle.ready().engine
    debts = engine._pending
    flush = debts._remove
    key = f"{PREFIX}key".encode()
    removals = 0
    fails = True

    async def remove(keys: Sequence[bytes]) -> Mapping[bytes, CacheError]:
        nonlocal removals
        removals += 1
        await asyncio.sleep(0.01)
        if fails:
            return {key: CacheUnavailable("CONNECTION_LOST", "") for key in keys}
        return await flush(keys)

    monkeypatch.setattr(debts, "_remove", remove)
    engine.writes.failed((key,), CacheUnavailable("CONNECTION_LOST", ""))
    for _ in range(3):
        asked = [cache.retrieve(None, "key") for _ in range(20)]
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(end) for end in ends} == {CacheUnavailable}
    assert 3 <= removals < 20
    fails = False
    reading = [asyncio.create_task(cache.retrieve(None, "key")) for _ in range(5)]
    await await_until(lambda: key in debts.flushes)
    await cache.store(None, "key", "newer")
    assert await asyncio.gather(*reading) == [None] * 5
    assert await cache.retrieve(None, "key") == "newer"


@undisturbed
async def test_change_that_fails_during_a_flush_is_pending(
    cache: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may make it after that removal: the key is removed once more."""
    engine = cache._lifecycle.ready().engine
    key = f"{PREFIX}key".encode()
    failure = CacheUnavailable("CONNECTION_LOST", "")
    removed: list[asyncio.Event] = []

    async def remove(_: Sequence[bytes]) -> dict[bytes, CacheError]:
        removed.append(asyncio.Event())
        await removed[-1].wait()
        return {}

    monkeypatch.setattr(engine._pending, "_remove", remove)
    engine.writes.failed((key,), failure)
    await await_until(lambda: len(removed) == 1)
    engine.writes.failed((key,), failure)
    removed[0].set()
    await await_until(lambda: len(removed) == 2)
    assert cache.stats().pending_invalidations == 1
    removed[1].set()
    await await_until(lambda: cache.stats().pending_invalidations == 0)


@undisturbed
async def test_close_drops_pending_invalidations(cache: AsyncRedisCache) -> None:
    """Nor does it count what it can make good no more."""
    engine = cache._lifecycle.ready().engine
    failure = CacheUnavailable("CONNECTION_LOST", "")
    engine.writes.failed((b"key",), failure)
    assert cache.stats().pending_invalidations == 1
    await cache.close(None)
    engine.writes.failed((b"key",), failure)
    assert cache.stats().pending_invalidations == 0


@pytest.mark.parametrize("bound", [0, 10], ids=["unbounded", "bounded"])
def test_retry_succeeds_when_an_earlier_try_was_executed(bound: int) -> None:
    """A retry that finds nothing follows a try whose reply was lost."""
    assert WriteCommands.of(b"index", bound, lambda _: None).delete.retry_safe((b"key",), 0)
