"""Several simulated processes, one server, and the faults between them.

A run is checked during its calls and once more at its end.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from async_redis_cache._client import standalone as _single
from harness.simulated_clients import Clients
from harness.simulated_faults import SimulatedFaults
from harness.simulated_history import ViolationError, Witness
from harness.simulated_invariants import at_rest, nothing_left
from harness.simulated_loop import SimulatedLoop, simulated
from harness.simulated_network import Network
from harness.simulated_processes import Place, Processes
from harness.simulated_restarts import Fates
from harness.simulated_server import SimulatedServer
from harness.simulated_transport import Poll, SimulatedDialer

if TYPE_CHECKING:
    import random

__all__ = ["World", "replay"]

_LONGEST: Final = 60.0
"""Seconds that a run takes at the most."""
_QUIET: Final = 1.7
"""Seconds after the weather within which everything is well again: all pauses are shorter."""

_DEATH_CHANCE: Final = 0.3
"""That one dies while it loads, when all is well."""


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
        self.faults = SimulatedFaults(self.network, self.server)
        self.places: list[Place] = []
        self.clients = Clients(loop, chance, self.witness)
        self.processes = Processes(loop, chance, self.witness)
        self.fates = Fates(self.network, self.processes, self.clients)

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
        for _ in range(self.chance.choice((1, 2, 2, 3))):
            process = await self.processes.begun()
            self.places.append(Place(process, deeds_left=self.chance.randint(20, 60)))
        storm = self.loop.create_task(self.faults.blow())
        fates = self.loop.create_task(self.fates.befall(self.places))
        for place in self.places:
            self.fates.move_in(place)
        try:
            while await _some_end(fates, *(one for place in self.places for one in place.clients)):
                """Others may have come in their place."""
        finally:
            tasks = (storm, fates, *(one for place in self.places for one in place.clients))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.faults.clear_up()
        await asyncio.sleep(_QUIET)
        for place in self.places:
            await at_rest(self.clients, self.server.store, place.process)
        if len(self.places) > 1 and self.chance.random() < _DEATH_CHANCE:
            await self.fates.die_loading(*self.places[:2])
        for place in self.places:
            await place.process.cache.close(None)
        await asyncio.sleep(0.5)
        nothing_left(self.network, self.witness, self.loop)


async def _some_end(*tasks: asyncio.Task[None]) -> bool:
    """Wait until some of these have ended, and as promised; whether any had not."""
    pending = [task for task in tasks if not task.done()]
    if pending:
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
    return bool(pending)


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
            with patch.object(_single, "Connector", partial(SimulatedDialer, world.network)):
                loop.run_until_complete(world.run())
        except Exception as error:
            error.add_note(f"replay it: ARC_SEED={seed} pytest tests/faults/test_simulation.py")
            raise
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
            asyncio.set_event_loop(None)
            loop.close()
        if failures:
            raise ViolationError(f"the loop was told of {failures}")
    return world.clients.outcomes
