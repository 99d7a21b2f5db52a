"""Some processes with a cache each, one server, bad weather between; and what must be true of it all."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from async_redis_cache import CacheError, _single
from harness.doors import configured
from harness.simulated_clients import PREFIX, Clients, Process
from harness.simulated_judge import Judge
from harness.simulated_loop import SimulatedLoop, simulated
from harness.simulated_network import Network
from harness.simulated_rest import at_rest, nothing_left
from harness.simulated_server import SimulatedServer
from harness.simulated_transport import Poll, SimulatedDialer
from harness.simulated_weather import Weather
from harness.simulated_witness import ViolationError, Witness

if TYPE_CHECKING:
    import random

__all__ = ["World", "replay"]

_LONGEST: Final = 60.0
"""Seconds that a run takes at the most."""
_QUIET: Final = 1.7
"""Seconds after the weather within which everything is well again: all pauses are shorter."""


class World:
    """One run.

    Args:
        loop: simulated.
        chance: decides what is done.
    """

    def __init__(self, loop: SimulatedLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.witness = Witness()
        self.network = Network(loop, chance)
        self.server = SimulatedServer(self.network, self.witness)
        self.network.peer = self.server
        loop.listen_to(self.network)
        self.weather = Weather(self.network, self.server)
        self.processes: list[Process] = []
        self.clients = Clients(loop, chance, self.witness)
        self._bound = chance.choice((0, 0, 2, 50))

    async def run(self) -> None:
        """From the first call to the last close."""
        try:
            async with asyncio.timeout(_LONGEST):
                await self._run()
        except TimeoutError:
            raise ViolationError(
                f"some calls have no end: {sorted(self.clients.under_way)}"
            ) from None

    async def _run(self) -> None:
        for number in range(self.chance.choice((1, 2, 2, 3))):
            self.processes.append(await self._started(f"process{number}"))
        storm = self.loop.create_task(self.weather.blow())
        clients = [
            self.loop.create_task(self.clients.act(process))
            for process in self.processes
            for _ in range(self.chance.randint(2, 4))
        ]
        try:
            await asyncio.gather(*clients)
        finally:
            for task in (storm, *clients):
                task.cancel()
            await asyncio.gather(storm, *clients, return_exceptions=True)
        self.weather.clear_up()
        await asyncio.sleep(_QUIET)
        for process in self.processes:
            await at_rest(self.clients, self.server.store, process)
        for process in self.processes:
            await process.cache.close(None)
        await asyncio.sleep(0.5)
        nothing_left(self.network, self.witness, self.loop)

    async def _started(self, name: str) -> Process:
        chance = self.chance
        near = chance.random() < 0.7
        heartbeat = chance.choice((80, 250))
        stale = chance.choice((0, 0, 300))
        options: dict[str, Any] = {
            "key_prefix": PREFIX,
            "max_size": self._bound,
            "command_timeout": chance.choice((150, 400)),
            "connect_timeout": 200,
            "require_connection": False,
            "retries": chance.choice((0, 1, 3)),
            "max_connections": chance.choice((1, 2, 4)),
            "max_connection_age": chance.choice((0, 0, 300)),
            "near_cache_enabled": near,
            "near_cache_heartbeat": heartbeat,
            "near_cache_max_size": chance.choice((2, 100)),
            "loading_lease_timeout": chance.choice((100, 300)),
            "loading_hard_timeout": 500,
            "loading_stale_timeout": stale,
            "loading_soft_timeout": chance.choice((0, 20)),
            "loading_refresh_at": chance.choice((0, 0.3)),
            "loading_missing_timeout": chance.choice((0, 100)),
        }
        cache = configured(f"redis://{name}:6379", **options)
        lag = 2 * heartbeat / 1000 if near else 0.0
        tags = f"{PREFIX}\0tag:".encode()
        judge = Judge(name, self.witness, tags, lag)
        process = Process(name, cache, judge, options, stale=stale / 1000)
        await cache.open(None)
        self._note_absences(process)
        return process

    def _note_absences(self, process: Process) -> None:
        engine = process.engine
        go_on_after = engine.go_on_after

        def noted(error: CacheError) -> None:
            process.judge.without_server.append(self.loop.time())
            go_on_after(error)

        engine.go_on_after = noted


def replay(seed: int) -> list[str]:
    """Run a seed; what its calls gave.

    Raises:
        ViolationError: a promise was broken.
    """
    network: list[Network] = []
    with simulated(seed, lambda: Poll(network[0])) as (loop, chance):
        asyncio.set_event_loop(loop)
        world = World(loop, chance)
        network.append(world.network)
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        try:
            with patch.object(_single, "Dialer", partial(SimulatedDialer, world.network)):
                loop.run_until_complete(world.run())
        except Exception as error:
            error.add_note(f"replay it: ARC_SEED={seed} pytest tests/test_simulation.py")
            raise
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            asyncio.set_event_loop(None)
            loop.close()
        if failures:
            raise ViolationError(f"the loop was told of {failures}")
    return world.clients.outcomes
