"""The simulated processes, each with a cache, from open to close or death."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from harness.apis import configured
from harness.simulated_checker import Call, Judge
from harness.simulated_loop import SimulatedLoop, owned_by

if TYPE_CHECKING:
    import asyncio
    import random

    from async_redis_cache import AsyncRedisCache, CacheError
    from harness.simulated_history import Witness

__all__ = ["PREFIX", "Place", "Process", "Processes"]

PREFIX: Final = "p:"


@dataclass(eq=False)
class Process:
    """A process while it has its cache open; who opens it again is another one here."""

    name: str
    cache: AsyncRedisCache
    judge: Judge
    options: dict[str, Any]
    engine: Any = None
    ended: bool = False
    """Whether its cache has been closed, or is being closed."""
    calls: set[Call] = field(default_factory=set[Call])
    """Those under way."""

    @property
    def stale(self) -> float:
        """Seconds for which it gives what is stale."""
        seconds: float = self.options["loading_stale_timeout"] / 1000
        return seconds


@dataclass(eq=False)
class Place:
    """Where a process runs, or the one that has come after it."""

    process: Process
    deeds_left: int
    """What its clients still do, all together."""
    clients: list[asyncio.Task[None]] = field(default_factory=list["asyncio.Task[None]"])


class Processes:
    """Begins processes.

    Args:
        loop: simulated.
        chance: decides how they are configured.
        witness: of what happens on the server.
    """

    def __init__(self, loop: SimulatedLoop, chance: random.Random, witness: Witness) -> None:
        self._loop = loop
        self._chance = chance
        self._witness = witness
        self._numbers = count()
        self._bound = chance.choice((0, 0, 2, 50))

    async def begun(self) -> Process:
        """A new one."""
        name = f"process{next(self._numbers)}"
        options = self._options()
        return await self._opened(name, configured(f"redis://{name}:6379", **options), options)

    async def opened_again(self, process: Process) -> Process:
        """One whose cache was closed."""
        return await self._opened(process.name, process.cache, process.options)

    async def _opened(self, name: str, cache: AsyncRedisCache, options: dict[str, Any]) -> Process:
        near, heartbeat = options["near_cache_enabled"], options["near_cache_heartbeat"]
        lag = 2 * heartbeat / 1000 if near else 0.0
        tags = f"{PREFIX}\0tag:".encode()
        judge = Judge(name, self._witness, tags, lag, self._loop.time())
        process = Process(name, cache, judge, options)
        with owned_by(process):
            await cache.open(None)
        process.engine = cache._lifecycle.engine()
        self._note_absences(process)
        return process

    def _note_absences(self, process: Process) -> None:
        engine = process.engine
        continue_without_server = engine.continue_without_server

        def noted(error: CacheError) -> None:
            process.judge.without_server.append(self._loop.time())
            continue_without_server(error)

        engine.continue_without_server = noted

    def _options(self) -> dict[str, Any]:
        chance = self._chance
        return {
            "key_prefix": PREFIX,
            "max_size": self._bound,
            "command_timeout": chance.choice((150, 400)),
            "connect_timeout": 200,
            "require_connection": False,
            "retries": chance.choice((0, 1, 3)),
            "max_connections": chance.choice((1, 2, 4)),
            "max_connection_age": chance.choice((0, 0, 300)),
            "near_cache_enabled": chance.random() < 0.7,
            "near_cache_heartbeat": chance.choice((80, 250)),
            "near_cache_max_size": chance.choice((2, 100)),
            "loading_lease_timeout": chance.choice((100, 300)),
            "loading_hard_timeout": 500,
            "loading_stale_timeout": chance.choice((0, 0, 300)),
            "loading_soft_timeout": chance.choice((0, 20)),
            "loading_refresh_at": chance.choice((0, 0.3)),
            "loading_missing_timeout": chance.choice((0, 100)),
        }
