"""`lock` behind Sentinels."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache
from harness import await_until
from harness.sentinels import Sentinels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Flavour

pytestmark = pytest.mark.depends_on("server")


@pytest.fixture
def sentinels(flavour: Flavour) -> Iterator[Sentinels]:
    with Sentinels(flavour, down_after=500) as sentinels:
        yield sentinels


async def test_lock_survives_an_ordered_failover(sentinels: Sentinels) -> None:
    """A lock that the replicas have is renewed at the new master, which refuses it to others; the next number is greater."""
    async with AsyncRedisCache.from_url(sentinels.uri, key_prefix="s:", max_size=5) as cache:
        jobs = cache.namespace("job")
        async with jobs.lock("a", 60) as lock:
            key = "s:\x00lock:job:a"
            # A failover does not wait for a replica that has not received the lock: then it is lost.
            replicas = [sentinels.client(replica) for replica in sentinels.replicas()]
            await await_until(lambda: all(replica.get(key) for replica in replicas))
            master = sentinels.client(await asyncio.to_thread(sentinels.fail_over))
            assert lock._hold is not None
            # A renewal that is not waited for: its period is 20 seconds.
            argument = (key.encode(), lock._hold.token, 60_000)
            locks = cache._lifecycle.ready().engine.locks

            async def is_renewed() -> bool:
                before = master.get(key)
                await locks._execute(locks._commands.renew, argument)
                return master.get(key) != before

            async with asyncio.timeout(60):
                while not await is_renewed():
                    pass
            number = lock.fencing_number
            lock.raise_if_lost()
        await await_until(lambda: (master.get(key) or b"").split()[1] == b"0")
        async with jobs.lock("a", wait=0) as lock:
            assert lock.fencing_number > number
