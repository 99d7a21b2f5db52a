"""A master behind sentinels: discovered, followed through failovers, and left after a demotion."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis
from pip_services4_components.config import ConfigParams

from async_redis_cache import AsyncRedisCache, CacheConfigError, CacheError
from harness import await_until
from harness.apis import APIS, Api, new_cache
from harness.figures import in_time, report
from harness.near import near_of, trusted
from harness.sentinels import MASTER_NAME, Sentinels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from harness import Client, Flavour, Server

DOWN_AFTER_SECONDS = 0.5
PROMISE_SECONDS = DOWN_AFTER_SECONDS + 2
OURS_SECONDS = 1.5
"""Of it, on a busy machine, from when the sentinels agree: how long they take for that is theirs."""
TASKS = 20


class Callers:
    """Tasks that store and read their own key all the time, and note how it ended."""

    def __init__(self, cache: AsyncRedisCache) -> None:
        self._cache = cache
        self.stored = dict.fromkeys(range(TASKS), 0)
        """By task, the last number that was acknowledged."""
        self.served_at: dict[int, float] = {}
        """By task, when it was first served since that was asked."""
        self.wrong: list[object] = []
        self.late = 0.0
        """The longest that any call has taken, in seconds."""
        self._since = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(TASKS)]
        await self.all_served(time.monotonic())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def all_served(self, since: float, seconds: float = 30.0) -> float:
        """Wait until a call of each task, begun since then, was answered; how long that took."""
        self._since = since
        self.served_at = {}
        await await_until(lambda: len(self.served_at) == TASKS, seconds)
        return max(self.served_at.values()) - since

    async def _call(self, number: int) -> None:
        key, turn = f"key{number}", 0
        while True:
            turn += 1
            began = time.monotonic()
            try:
                await self._cache.store(None, key, turn)
                found = await self._cache.retrieve(None, key)
            except CacheError:
                pass
            except Exception as error:  # noqa: BLE001  each is a defect, and belongs into the report
                self.wrong.append(error)
            else:
                self.stored[number] = turn
                if began > self._since:
                    self.served_at.setdefault(number, time.monotonic())
                # A replica that was promoted may have missed the last of what was acknowledged.
                if found is not None and found != turn:
                    self.wrong.append((turn, found))
            self.late = max(self.late, time.monotonic() - began)
            await asyncio.sleep(0.001)


@pytest.fixture
def sentinels(flavour: Flavour) -> Iterator[Sentinels]:
    with Sentinels(flavour, down_after=int(DOWN_AFTER_SECONDS * 1000)) as sentinels:
        yield sentinels


@pytest.fixture
async def cache(sentinels: Sentinels) -> AsyncIterator[AsyncRedisCache]:
    async with AsyncRedisCache.from_url(
        sentinels.uri, near_cache_enabled=True, near_cache_heartbeat=100, key_prefix="s:"
    ) as cache:
        await trusted(cache)
        yield cache


async def back_in_time(callers: Callers, sentinels: Sentinels, old: Server, what: str) -> None:
    """See that all tasks are served as soon as is promised after the old master was lost just now."""
    lost_at = time.monotonic()

    async def agreed() -> float:
        await asyncio.to_thread(sentinels.new_master, old)
        return time.monotonic() - lost_at

    agreeing = asyncio.create_task(agreed())
    seconds = await callers.all_served(lost_at)
    agreement = await agreeing
    report(
        17,
        f"{what}: all served after {seconds:.2f} s, new master agreed on after {agreement:.2f} s",
    )
    assert in_time(seconds, max(PROMISE_SECONDS, agreement + OURS_SECONDS))


async def test_killed_master_is_replaced(sentinels: Sentinels, cache: AsyncRedisCache) -> None:
    """17. All tasks are served again within down-after + 2 s; no wrong value is returned, local entries included."""
    async with Callers(cache) as callers:
        old = sentinels.kill_master()
        await back_in_time(callers, sentinels, old, "master killed")
        await trusted(cache)
    assert callers.wrong == []
    assert sentinels.client(sentinels.new_master(old)).get("s:key0") is not None


async def test_stopped_master_that_resumes_is_not_used(
    sentinels: Sentinels, cache: AsyncRedisCache
) -> None:
    """17. A stopped master resumes with its connections open: they are closed, as its writes would be lost."""
    async with Callers(cache) as callers:
        old = sentinels.freeze_master()
        await back_in_time(callers, sentinels, old, "master stopped")
        new = sentinels.new_master(old)
        for sentinel in sentinels.sentinels:
            sentinel.kill()  # So it may believe to be the master when it is back.
        old.thaw()
        await await_until(lambda: sentinels.client(old).role()[0] == b"master")
        returned_at = time.monotonic()
        await callers.all_served(returned_at)
        before = sentinels.client(old).info("commandstats")
        await callers.all_served(time.monotonic())
        after = sentinels.client(old).info("commandstats")
        await trusted(cache)
    assert callers.wrong == []
    # It was asked for nothing any more, though it would have answered.
    assert calls_of(before) == calls_of(after)
    assert int(sentinels.client(new).get("s:key0") or 0) >= callers.stored[0] - 1


def calls_of(stats: dict[str, Any]) -> int:
    """How often a server was asked to read or to store."""
    return sum(
        stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]
        for name in ("eval", "evalsha", "mget", "pttl")
    )


async def test_read_only_master_gets_no_more_writes(sentinels: Sentinels) -> None:
    """17. A master was demoted without a notification: at its first READONLY all connections to it are closed."""
    old = sentinels.master()
    other = next(server for server in sentinels.nodes if server is not old)
    async with AsyncRedisCache.from_url(sentinels.uri, max_connections=8, retries=0) as cache:
        async with asyncio.timeout(60):
            while wires_of(cache) < 3:
                await asyncio.gather(*(_later(cache, turns) for turns in range(20)))
        for sentinel in sentinels.sentinels:
            sentinel.freeze()
        sentinels.client(other).replicaof("NO", "ONE")
        sentinels.client(old).replicaof(other.host, other.port)
        with pytest.raises(CacheError):
            await cache.store(None, "key", 1)
        assert wires_of(cache) == 0
        for sentinel in sentinels.sentinels:
            sentinel.thaw()


def wires_of(cache: AsyncRedisCache) -> int:
    """How many connections it has to the master."""
    found = re.search(r"<ConnectionPool (\d+) open", repr(cache))
    assert found is not None
    return int(found[1])


async def _later(cache: AsyncRedisCache, turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    await cache.contains(None, "key")


async def test_demoted_master_is_left(sentinels: Sentinels, cache: AsyncRedisCache) -> None:
    """17. A demoted master: its connections are closed, and the refused write is executed on the new master."""
    await cache.store(None, "key", "before")
    assert await cache.retrieve(None, "key") == "before"
    old = sentinels.master()
    # A loop that stood still meanwhile may read the old one's answers before the news.
    new = await asyncio.to_thread(sentinels.fail_over)
    # Until it has been told, it takes changes, which are lost then.
    await await_until(lambda: is_replica(sentinels.client(old)))
    assert await cache.store(None, "key", "after") == "after"
    assert await cache.retrieve(None, "key") == "after"
    assert sentinels.client(new).get("s:key") == b'"after"'
    await trusted(cache)
    sentinels.client(new).set("s:key", b'"behind our back"')
    await await_until(lambda: b"s:key" not in near_of(cache)._entries)
    assert await cache.retrieve(None, "key") == "behind our back"
    assert old is not new


def is_replica(client: Client) -> bool:
    """Whether its server is one; it closes connections as it becomes one."""
    try:
        return bool(client.role()[0] == b"slave")
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize("api", APIS)
async def test_by_configuration(sentinels: Sentinels, api: Api) -> None:
    """`connections.N.*` with `options.topology`, and some of the sentinels down."""
    sentinels.sentinels[0].kill()
    sentinels.sentinels[1].freeze()
    cache = configured_by_hosts(sentinels, api)
    await cache.open(None)
    try:
        assert await cache.store(None, "key", 1) == 1
        assert await cache.retrieve(None, "key") == 1
    finally:
        await cache.close(None)
        sentinels.sentinels[1].thaw()


def configured_by_hosts(
    sentinels: Sentinels, api: Api, master: str = MASTER_NAME
) -> AsyncRedisCache:
    cache = new_cache(api)
    config = ConfigParams.from_tuples(
        "options.topology", "sentinel", "options.sentinel_master", master
    )
    for number, (host, port) in enumerate(sentinels.addresses):
        config[f"connections.{number}.host"] = host
        config[f"connections.{number}.port"] = str(port)
    cache.configure(config)
    return cache


async def test_missing_master_name_raises(sentinels: Sentinels) -> None:
    """A mistake of configuration."""
    with pytest.raises(CacheConfigError) as caught:
        await configured_by_hosts(sentinels, "async", "").open("t")
    assert (caught.value.code, caught.value.trace_id) == ("BAD_OPTION", "t")
