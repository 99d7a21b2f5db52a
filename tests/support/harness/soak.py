"""A service under injected faults for any length of time, and the resources that it uses."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from async_redis_cache import AsyncRedisCache, CacheError, RedisCache
from harness.leaks import open_descriptors, tasks_left
from harness.proxy import Proxy
from harness.random_faults import Storm
from harness.servers import Server

TASKS, THREADS = 20, 4
KEYS = 300
LIMIT = 250
"""Milliseconds that a call may take."""
LEAVES_AT_ONCE = 0.1
"""The part of the calls of tasks that are cancelled before they are answered."""


@dataclass
class Taken:
    """What the process held of the machine at a moment."""

    seconds: float
    """Since the start."""
    resident: int
    """Bytes of memory."""
    blocks: int
    """Pieces of memory that Python holds: these tell a leak from a heap that has holes."""
    descriptors: int
    tasks: int
    threads: int


@dataclass
class Soaked:
    """What was seen of a soak."""

    at_rest: list[Taken] = field(default_factory=list[Taken])
    """Before it began, and after each round, when all caches were closed."""
    under_way: list[Taken] = field(default_factory=list[Taken])
    wrong: list[str] = field(default_factory=list[str])
    codes: Counter[str] = field(default_factory=Counter[str])
    """How the calls ended."""
    faults: Counter[str] = field(default_factory=Counter[str])


class Soak:
    """Rounds of a service that opens its caches, serves in bad weather, and closes them.

    Args:
        server: may be stopped and killed.
        seed: of all chances.
        interval: seconds between two looks at what is taken.
    """

    def __init__(self, server: Server, seed: int, interval: float) -> None:
        self.found = Soaked()
        self._server = server
        self._seed = seed
        self._interval = interval
        self._started = time.monotonic()

    def run(self, seconds: float, rounds: int) -> Soaked:
        """Go through so many rounds in about that time."""
        # What uvloop opens once, for the process, is none of ours.
        with RedisCache.from_url(self._server.url):
            pass
        self._rest(0)
        for number in range(rounds):
            with Proxy(self._server) as network:
                storm = Storm(self._server, network, self._seed + number)
                storm.start()
                try:
                    left = asyncio.run(self._round(network.url, seconds / rounds, number))
                finally:
                    storm.end()
            self.found.faults += storm.faults
            self._rest(left)
        return self.found

    async def _round(self, url: str, seconds: float, number: int) -> int:
        """How many tasks were left over."""
        ending = threading.Event()
        options: dict[str, Any] = {
            "key_prefix": "soak:",
            "command_timeout": LIMIT,
            "require_connection": False,
        }
        chances = [Random(f"{self._seed} {number} {who}") for who in range(TASKS + THREADS)]
        facade = RedisCache.from_url(url, **options)
        await asyncio.to_thread(facade.open, None)
        with ThreadPoolExecutor(THREADS) as threads:
            async with AsyncRedisCache.from_url(url, near_cache_enabled=True, **options) as cache:
                for chance in chances[TASKS:]:
                    threads.submit(self._call, facade, chance, ending)
                async with asyncio.TaskGroup() as group:
                    for chance in chances[:TASKS]:
                        group.create_task(self._ask(cache, chance, ending))
                    group.create_task(self._look(seconds, ending))
        await asyncio.to_thread(facade.close, None)
        await asyncio.get_running_loop().shutdown_default_executor()
        return len(tasks_left())

    async def _ask(self, cache: AsyncRedisCache, chance: Random, ending: threading.Event) -> None:
        while not ending.is_set():
            leaves = chance.random() < LEAVES_AT_ONCE
            name, key, call = _choice(cache, chance)
            try:
                async with asyncio.timeout(chance.uniform(0, 0.01) if leaves else None):
                    self._check(name, key, await call())
            except CacheError as error:
                self.found.codes[error.code] += 1
            except TimeoutError:
                self.found.codes["left"] += 1
            await asyncio.sleep(chance.uniform(0, 0.01))

    def _call(self, cache: RedisCache, chance: Random, ending: threading.Event) -> None:
        while not ending.wait(chance.uniform(0, 0.01)):
            name, key, call = _choice(cache, chance)
            try:
                self._check(name, key, call())
            except CacheError as error:
                self.found.codes[error.code] += 1

    def _check(self, name: str, key: str, found: Any) -> None:
        self.found.codes["OK"] += 1
        values: dict[str, Any] = found if name == "retrieve_many" else {key: found}
        if name in {"touch", "contains", "store_many"}:
            return
        for asked, value in values.items():
            # Every value tells whose it is.
            if value is not None and value[0] != asked:
                self.found.wrong.append(f"{name} gave {value} for {asked}")

    async def _look(self, seconds: float, ending: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            self.found.under_way.append(self._taken(len(asyncio.all_tasks())))
            await asyncio.sleep(min(self._interval, max(0.0, end - loop.time())))
        ending.set()

    def _rest(self, tasks: int) -> None:
        gc.collect()
        # What the C library keeps of what was freed is no leak, where it can be told to give it back.
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        self.found.at_rest.append(self._taken(tasks))

    def _taken(self, tasks: int) -> Taken:
        return Taken(
            round(time.monotonic() - self._started, 2),
            resident(),
            sys.getallocatedblocks(),
            len(open_descriptors()),
            tasks,
            threading.active_count(),
        )


def resident() -> int:
    """Bytes of memory of this process, where the system tells."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def _choice(cache: Any, chance: Random) -> tuple[str, str, Callable[[], Any]]:
    """Any of the things that a service asks a cache for: its name, its key, and the call."""
    key, *others = (f"key{chance.randrange(KEYS)}" for _ in range(10))
    value = [key, "x" * chance.choice((10, 100, 10_000))]
    calls: Iterator[tuple[str, Callable[[], Any]]] = iter(
        {
            "retrieve": lambda: cache.retrieve(None, key),
            "retrieve_many": lambda: cache.retrieve_many(None, [key, *others]),
            "load": lambda: cache.retrieve_or_load(None, key, lambda: value),
            "contains": lambda: cache.contains(None, key),
            "touch": lambda: cache.touch(None, key, 5_000),
            "store": lambda: cache.store(None, key, value, 5_000),
            "store_many": lambda: cache.store_many(None, {one: [one, ""] for one in others}, 5_000),
            "remove": lambda: cache.remove(None, key),
        }.items()
    )
    name, call = chance.choices([*calls], weights=[8, 2, 4, 1, 1, 3, 1, 1])[0]
    return name, key, call
