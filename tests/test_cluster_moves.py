"""What slots that move must not hide: keys from `clear`, changes from a near cache."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache._cluster import Cluster as Client
from harness import await_until
from harness.clusters import Cluster
from harness.near import near_of, trusted
from harness.slots import key_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from async_redis_cache._verbs import Asker
    from harness import Flavour

pytest_plugins = ["cluster_fixtures"]

OPTIONS: dict[str, Any] = {"max_size": 0, "command_timeout": 10_000}


class After:
    """Asks a server when something has been done first."""

    def __init__(self, asker: Asker, act: Callable[[], object]) -> None:
        self._asker = asker
        self._act = act
        self.keys_a_call = asker.keys_a_call

    def ask(self, *arguments: Any, **options: Any) -> asyncio.Future[Any]:
        """See `Batcher.ask`."""
        self._act()
        return self._asker.ask(*arguments, **options)


async def test_clear_sees_what_has_moved(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that move from a node that is scanned last to one that has been scanned are removed too."""
    first, *_, last = cluster.masters()
    slot = cluster.slots(last)[0]
    keys = [f"p:{key_in(slot, f':{number}')}" for number in range(20)]
    askers_of: Any = vars(Client)["askers"].fget

    def move() -> None:
        if cluster.node_of(keys[0]) is last:
            cluster.move([slot], first)

    def with_a_move(self: Client) -> Sequence[Asker]:
        *before, scanned_last = askers_of(self)
        return [*before, After(scanned_last, move)]

    async with AsyncRedisCache.from_url(cluster.uri, key_prefix="p:", **OPTIONS) as cache:
        for key in keys:
            cluster.client(last).set(key, "1")
        monkeypatch.setattr(Client, "askers", property(with_a_move))
        assert await cache.clear(None) == len(keys)
    assert cluster.node_of(keys[0]) is first
    assert [cluster.client(node).dbsize() for node in cluster.masters()] == [0, 0, 0]


async def test_near_values_of_a_node_that_has_just_joined(flavour: Flavour) -> None:
    """18. It has no slot but one that moves, so nobody names it: what is read there is not near yet."""
    with Cluster(flavour, spares=1) as cluster:
        joined = cluster.nodes[-1]
        slot = cluster.slots(cluster.masters()[0])[0]
        key = key_in(slot)
        async with AsyncRedisCache.from_url(
            cluster.uri, near_cache_enabled=True, near_cache_heartbeat=100, **OPTIONS
        ) as cache:
            await trusted(cache)
            await cache.store(None, key, "one", 600_000)
            while key.encode() not in near_of(cache)._entries:
                assert await cache.retrieve(None, key) == "one"
            move = cluster.moving(joined, slot)
            move.begin()
            move.take_keys(key)
            # The move itself is news, so it is asked for there.
            await await_until(lambda: key.encode() not in near_of(cache)._entries)
            for _ in range(20):
                assert await cache.retrieve(None, key) == "one"
            # Nor do those who are asked whose the slots are.
            servers: Any = cache._lifecycle.ready().engine._servers
            await servers.moves(asyncio.get_running_loop().time() + 5)
            for _ in range(20):
                assert await cache.retrieve(None, key) == "one"
            cluster.tell(joined, ("ASKING",), ("SET", key, '"two"'))
            await await_until(lambda: key.encode() not in near_of(cache)._entries)
            assert await cache.retrieve(None, key) == "two"
            move.end()
            await trusted(cache)
            while key.encode() not in near_of(cache)._entries:
                assert await cache.retrieve(None, key) == "two"
            cluster.client(joined).set(key, '"three"')
            await await_until(lambda: key.encode() not in near_of(cache)._entries)
            assert await cache.retrieve(None, key) == "three"
