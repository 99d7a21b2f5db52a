"""One of many processes that read and write the same keys: `near_consistency.py <settings as JSON>`.

Prints "ready", waits for a line, works, and prints what it did. At the next line it reads all keys
until they are near, at the one after that it changes one. The last line says that everybody has
written all; then it prints what of its near cache is stale.

What it did: `writes`, each with its key, its stamp (None for a removal), when it was begun and when
acknowledged; `reads`, for each key and stamp when the last call began that was given it;
`absences`, when the machine ran something else; and its counters.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from random import Random
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache
from harness.clients import connect
from harness.loop_lag import MachineLag
from harness.near import all_news_is_in, link_through, near_options, stale_entries, trusted


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Crowd:
    """The tasks of this process, and what they have written and been told."""

    def __init__(self, cache: AsyncRedisCache, number: int, seconds: float, keys: int) -> None:
        self.writes: list[tuple[str, int | None, float, float]] = []
        self.reads: dict[tuple[str, int], float] = {}
        self._cache = cache
        self._number = number
        self._keys = [f"key{key}" for key in range(keys)]
        self._end = time.monotonic() + seconds

    async def read(self, seed: int) -> None:
        chance = Random(seed)
        while (began := time.monotonic()) < self._end:
            if chance.random() < 0.9:
                key = chance.choice(self._keys)
                self._told(began, {key: await self._cache.retrieve(None, key)})
            else:
                keys = chance.sample(self._keys, 10)
                self._told(began, await self._cache.retrieve_many(None, keys))
            await asyncio.sleep(chance.uniform(0, 0.002))

    async def write(self, seed: int) -> None:
        chance = Random(seed)
        while (began := time.monotonic()) < self._end:
            kind = chance.random()
            keys = chance.sample(self._keys, 5 if kind < 0.2 else 1)
            # A stamp that nobody else gives.
            stamp: int | None = (len(self.writes) * 100 + seed) * 100 + self._number
            if kind < 0.1:
                stamp = None
                await self._cache.remove_many(None, keys)
            elif kind < 0.2:
                await self._cache.store_many(None, dict.fromkeys(keys, stamp))
            else:
                await self._cache.store(None, keys[0], stamp)
            acknowledged = time.monotonic()
            self.writes += [(key, stamp, began, acknowledged) for key in keys]
            await asyncio.sleep(chance.uniform(0, 0.030))

    def _told(self, began: float, values: dict[str, Any]) -> None:
        for key, stamp in values.items():
            if stamp is not None:
                self.reads[key, stamp] = max(began, self.reads.get((key, stamp), 0.0))


async def main(
    *, url: str, link_port: int, prefix: str, number: int, seconds: float, keys: int
) -> None:
    options = near_options(prefix, near_cache_heartbeat=500, command_timeout=20_000)
    with connect(url) as raw, pytest.MonkeyPatch.context() as monkeypatch:
        link_through(link_port, monkeypatch)
        async with AsyncRedisCache.from_url(url, **options) as cache:
            await trusted(cache)
            say("ready")
            await asyncio.to_thread(sys.stdin.readline)
            crowd = Crowd(cache, number, seconds, keys)
            with MachineLag() as lag:
                async with asyncio.TaskGroup() as group:
                    for seed in range(4):
                        group.create_task(crowd.read(seed + 10 * number))
                    for seed in range(2):
                        group.create_task(crowd.write(seed + 10 * number))
            say(
                {
                    "writes": crowd.writes,
                    "reads": [(*what, began) for what, began in crowd.reads.items()],
                    "absences": lag._absences,
                    "stats": dataclasses.asdict(cache.stats()),
                }
            )
            await asyncio.to_thread(sys.stdin.readline)
            names = [f"key{key}" for key in range(keys)]
            # Entries that are about to be invalidated do not count.
            await all_news_is_in(cache, raw, prefix)
            while cache.stats().near_entries < keys:
                await trusted(cache)
                await cache.retrieve_many(None, names)
            say("holds")
            await asyncio.to_thread(sys.stdin.readline)
            await cache.store(None, names[number], number)
            say("changed")
            await asyncio.to_thread(sys.stdin.readline)
            entries = cache.stats().near_entries
            await all_news_is_in(cache, raw, prefix)
            say([entries, [key.decode() for key in stale_entries(cache, raw)]])


asyncio.run(main(**json.loads(sys.argv[1])))
