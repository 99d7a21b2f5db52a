"""The invalidation of a write arrives before the reply to an earlier read."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache._engine.near_cache import NearCache, PendingFill
from harness import Client, Proxy, Server, StartProxy, await_until
from harness.figures import report
from harness.near import all_news_is_in, link_through, near_of, stale_entries, trusted
from harness.run_length import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.depends_on()

Keeping = Literal["leased", "naive"]
WITH: dict[Keeping, str] = {"leased": "with pending fills", "naive": "without"}

PREFIX = "race:"
KEYS = 300
READERS = 40
WRITES = scaled(4_000, 40_000)
OWN_WRITES = scaled(50, 1_000)
MOST_ROUNDS = 10


@pytest.fixture(params=["leased", "naive"])
def keeping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Keeping:
    """The real near cache, and a naive one that stores every reply whatever came before."""

    def keep_always(
        near: NearCache, lease: PendingFill | None, data: bytes | None, left: int
    ) -> None:
        if lease is None:
            return
        near._pending_fills.pop(lease.key, None)
        if data is not None:
            lease.data = data
            lease.expires = lease.requested_at + (near._max_ttl if left < 0 else left / 1000)
            lease.size = len(data)
            near._keep(lease)

    chosen: Keeping = request.param
    if chosen == "naive":
        monkeypatch.setattr(NearCache, "fill", keep_always)
    return chosen


@pytest.fixture
def network(server: Server, proxy: StartProxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The way of the calls; the link takes a way of its own, on which nothing is slow."""
    link_through(server.port, monkeypatch)
    return proxy(server)


@pytest.fixture
async def cache(network: Proxy) -> AsyncIterator[AsyncRedisCache]:
    async with AsyncRedisCache.from_url(
        network.url,
        key_prefix=PREFIX,
        near_cache_enabled=True,
        max_connections=8,
    ) as cache:
        yield cache


@pytest.mark.parametrize("count", [1, 10])
async def test_invalidation_before_the_reply_prevents_the_fill(
    cache: AsyncRedisCache, network: Proxy, raw: Client, keeping: Keeping, count: int
) -> None:
    """19. A reply is delayed, the key is written and its invalidation arrives first: 0 stale entries.

    The proof: without pending fills, the old reply stays in the near cache.
    """
    keys = [f"key{number}" for number in range(count)]
    asked = await held_back(cache, network, raw, keys)
    told = cache.stats().near_invalidations
    write_all(raw, keys, b'"new"')
    await await_until(lambda: cache.stats().near_invalidations == told + count)
    network.heal()

    # It was right when it was asked for, and is given to whoever asked.
    assert await asked == dict.fromkeys(keys, "old")
    stale = stale_entries(cache, raw)
    figures = f"{WITH[keeping]}: {len(stale)} of {count} keys stale"
    report(19, figures, len(stale), proof=keeping == "naive")
    assert len(stale) == (count if keeping == "naive" else 0)
    assert near_of(cache)._pending_fills == {}
    now = "old" if keeping == "naive" else "new"
    assert await read(cache, keys) == dict.fromkeys(keys, now)


@pytest.mark.parametrize("lost", ["channel", "keys"])
async def test_lost_invalidation_prevents_the_fill(
    cache: AsyncRedisCache, network: Proxy, raw: Client, keeping: Keeping, lost: str
) -> None:
    """19. A reply is delayed while the channel is lost, or all keys are flushed: 0 stale entries.

    When the answer comes the link is armed again, and nobody has said that these keys changed.

    The proof: without pending fills, the old reply stays in the near cache.
    """
    keys = [f"key{number}" for number in range(10)]
    asked = await held_back(cache, network, raw, keys)
    if lost == "channel":
        raw.client_kill_filter(_id=near_link(raw))
        write_all(raw, keys, b'"new"')
    else:
        raw.flushdb()
    await await_until(lambda: cache.stats().near_flushes == 1)
    await trusted(cache)
    network.heal()
    assert await asked == dict.fromkeys(keys, "old")
    stale = stale_entries(cache, raw)
    told = f"{WITH[keeping]}, {lost} lost: {len(stale)} of {len(keys)} keys stale"
    report(19, told, len(stale), proof=keeping == "naive")
    assert len(stale) == (len(keys) if keeping == "naive" else 0)


async def held_back(
    cache: AsyncRedisCache, network: Proxy, raw: Client, keys: list[str]
) -> asyncio.Task[dict[str, Any]]:
    """A request for these keys that the server has executed; its reply is held back."""
    write_all(raw, keys, b'"old"')
    # News of that write, if it came later, would hide what is tested.
    await all_news_is_in(cache, raw, PREFIX)
    executed = _reads(raw)
    network.black_hole("to_client")
    asked = asyncio.create_task(read(cache, keys))
    await await_until(lambda: _reads(raw) > executed)
    return asked


async def read(cache: AsyncRedisCache, keys: list[str]) -> dict[str, Any]:
    """The values of these keys, asked for together where they are several."""
    if len(keys) == 1:
        return {keys[0]: await cache.retrieve(None, keys[0])}
    return await cache.retrieve_many(None, keys)


def write_all(raw: Client, keys: list[str], value: bytes) -> None:
    """Write them as another program does."""
    raw.mset({PREFIX + key: value for key in keys})


def near_link(raw: Client) -> str:
    """The link, as the server calls it."""
    (link,) = (client["id"] for client in raw.client_list() if "B" in client["flags"])
    return str(link)


class Readers:
    """Tasks that ask for any key, alone or with others, and now and then write one of their own."""

    def __init__(self, cache: AsyncRedisCache) -> None:
        self.old: list[str] = []
        self.closed = False
        self._cache = cache

    async def run(self, seed: int) -> None:
        chance = Random(seed)
        number = 0
        while not self.closed:
            kind = chance.random()
            if kind < 0.1:
                number += 1
                await self._write(f"own{seed}", number)
            elif kind < 0.2:
                await self._cache.retrieve(None, f"own{chance.randrange(READERS)}")
            elif kind < 0.7:
                await self._cache.retrieve(None, f"key{chance.randrange(KEYS)}")
            else:
                keys = [f"key{chance.randrange(KEYS)}" for _ in range(20)]
                await self._cache.retrieve_many(None, keys)
            # Who is answered near has not let anybody else run.
            await asyncio.sleep(chance.uniform(0, 0.002))

    async def _write(self, key: str, number: int) -> None:
        """Check that an awaited write is read back, whatever others read meanwhile."""
        await self._cache.store(None, key, number)
        found = await self._cache.retrieve(None, key)
        if found != number:
            self.old.append(f"{key} was {number}, and then {found}")


async def test_slow_replies_are_not_kept(
    cache: AsyncRedisCache, network: Proxy, raw: Client, keeping: Keeping
) -> None:
    """19. Hundreds of keys are written and read concurrently, with random reply delays: 0 stale entries.

    The proof: without pending fills, some entries stay stale.
    """
    stale: list[bytes] = []
    old: list[str] = []
    chance = Random(19)
    for _ in range(1 if keeping == "leased" else MOST_ROUNDS):
        readers = Readers(cache)
        network.delay(0, jitter=0.015, direction="to_client")
        async with asyncio.TaskGroup() as group:
            for seed in range(READERS):
                group.create_task(readers.run(seed))
            for number in range(WRITES // 10):
                some = (f"{PREFIX}key{chance.randrange(KEYS)}" for _ in range(10))
                raw.mset(dict.fromkeys(some, number))
                await asyncio.sleep(0.002)
            readers.closed = True
        network.heal()
        old += readers.old
        await all_news_is_in(cache, raw, PREFIX)
        stale = stale_entries(cache, raw)
        if stale:
            break
    stats = cache.stats()
    report(
        19,
        f"{WITH[keeping]}: {len(stale)} of {stats.near_entries} entries stale, {stats.near_hits} hits, "
        f"{stats.near_misses} misses, {stats.near_invalidations} invalidations",
        len(stale),
        proof=keeping == "naive",
    )
    assert stats.near_hits > KEYS
    assert stats.near_entries > 0
    if keeping == "naive":
        assert stale != []
        return
    assert stale == []
    assert old == []
    assert near_of(cache)._pending_fills == {}


@pytest.mark.not_with("debug", reason="it needs more to be served than debug mode can")
async def test_own_write_prevents_the_fill(
    server: Server, proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An awaited write is read back, though its invalidation is late and others read meanwhile."""
    calls, link = proxy(server), proxy(server)
    link_through(link.port, monkeypatch)
    old: list[str] = []
    async with AsyncRedisCache.from_url(
        calls.url,
        key_prefix=PREFIX,
        near_cache_enabled=True,
        max_connections=8,
    ) as cache:
        calls.delay(0, jitter=0.010, direction="to_client")
        link.delay(0.200, direction="to_client")

        async def write(key: str) -> None:
            asking = [asyncio.create_task(ask(key)) for _ in range(3)]
            for number in range(OWN_WRITES):
                await cache.store(None, key, number)
                found = await cache.retrieve(None, key)
                if found != number:
                    old.append(f"{key} was {number}, and then {found}")
            for task in asking:
                task.cancel()

        async def ask(key: str) -> None:
            while True:
                await cache.retrieve(None, key)
                await asyncio.sleep(0.001)

        await asyncio.gather(*(write(f"key{number}") for number in range(20)))
        assert cache.stats().near_hits > 0
    assert old == []


def _reads(raw: Client) -> int:
    """How many MGETs the server has executed."""
    statistics: dict[str, dict[str, int]] = raw.info("commandstats")
    return statistics.get("cmdstat_mget", {}).get("calls", 0)
