"""Concurrent random changes and reads while a server refuses writes: no replaced value is read."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CacheTimeout
from harness import StartServer, await_until
from harness.apis import configured

if TYPE_CHECKING:
    from harness import Client, Server

pytestmark = pytest.mark.depends_on()

KEYS: tuple[str, ...] = ("a", "b", "c")
ROUNDS, STEPS, AT_ONCE = 6, 8, 5
OPTIONS: dict[str, Any] = {"key_prefix": "{model}:", "command_timeout": 300, "retries": 1}
WAYS: list[dict[str, Any]] = [
    {"fail_open": "always", "max_size": 0},
    {"fail_open": "always", "max_size": 100, "near_cache_enabled": True},
    {"fail_open": "loading", "max_size": 0, "near_cache_enabled": True},
]


class Model:
    """A cache whose values are numbers that rise with each change, and what may be read of each key at least.

    Args:
        cache: to be changed and read.
        seed: of the choices.
    """

    def __init__(self, cache: AsyncRedisCache, seed: int) -> None:
        self.cache = cache
        self.random = random.Random(seed)
        self.latest = 0
        self.least = Counter[str]()
        self.under_way: set[int] = set()

    async def change(self) -> None:
        """Change a key; from when that has been reported or is pending on, nothing older is right."""
        self.latest += 1
        number, key = self.latest, self.random.choice(KEYS)
        self.under_way.add(number)
        # Those under way may be executed in any order; all that have ended come before this one.
        replaced = min(self.under_way)
        kind = self.random.randrange(6)
        keys: tuple[str, ...] = KEYS[:2] if kind in {1, 2} else (key,)
        try:
            if kind == 0:
                await self.cache.store(None, key, number)
            elif kind == 1:
                await self.cache.store_many(None, {KEYS[0]: number, KEYS[1]: None}, tags=["tag"])
            elif kind == 2:
                await self.cache.remove_many(None, keys)
            elif kind == 3:
                await self.cache.remove(None, key)
            elif kind == 4:
                await self.cache.refresh(None, key, lambda: self.latest)
            else:
                await self.cache.store(None, key, number, tags=["tag"])
        except CacheError:
            if kind == 4:
                return  # It was raised before the loader was called.
        finally:
            self.under_way.discard(number)
        for changed in keys:
            self.least[changed] = max(self.least[changed], replaced)

    async def read(self) -> None:
        """Read a key in one of the ways there are."""
        key, least = self.random.choice(KEYS), self.least.copy()
        kind = self.random.randrange(3)
        try:
            if kind == 0:
                found = {key: await self.cache.retrieve(None, key)}
            elif kind == 1:
                found = await self.cache.retrieve_many(None, KEYS)
            else:
                load = self.cache.retrieve_or_load(None, key, lambda: self.latest)
                found = {key: await load}
        except CacheError:
            return
        for name, number in found.items():
            assert number is None or number >= least[name], (name, number, least)

    async def run(self) -> None:
        """Some steps, each of several calls at once."""
        for _ in range(STEPS):
            calls = (self.random.choice((self.change, self.read))() for _ in range(AT_ONCE))
            await asyncio.gather(*calls)


def refuse(raw: Client, how: str) -> None:
    if how == "READONLY":
        raw.replicaof("127.0.0.1", 1)  # No server listens there.
    elif how == "NOREPLICAS":
        raw.config_set("min-replicas-to-write", 1)
    else:
        raw.config_set("maxmemory", 1)


def accept(raw: Client) -> None:
    raw.replicaof("NO", "ONE")
    raw.config_set("min-replicas-to-write", 0)
    raw.config_set("maxmemory", 0)


@pytest.fixture
def server(private_server: StartServer) -> Server:
    return private_server()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
@pytest.mark.parametrize("how", ["NOREPLICAS", "READONLY", "OOM"])
async def test_no_replaced_value_is_read_while_changes_are_refused(
    server: Server, how: str, way: dict[str, Any]
) -> None:
    """Not while calls overlap, and when the server accepts changes again not by another process either."""
    raw = server.client()
    async with (
        configured(server.url, **OPTIONS, **way) as cache,
        configured(server.url, key_prefix=OPTIONS["key_prefix"], max_size=way["max_size"]) as other,
    ):
        model = Model(cache, seed=len(how))
        for _ in range(ROUNDS):
            await model.run()
            refuse(raw, how)
            await model.run()
            accept(raw)
            await await_until(lambda: cache.stats().pending_invalidations == 0)
            for reader in (cache, other):
                found: dict[str, int] | None = None
                while found is None:
                    # The short deadline may end a read while the machine stalls.
                    with contextlib.suppress(CacheTimeout):
                        found = await reader.retrieve_many(None, KEYS)
                for key, number in found.items():
                    assert number >= model.least[key]
        assert cache.stats().errors
