"""Restarts in the simulation: caches are closed and reopened, and processes are killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from harness.simulated_calls import KEYS
from harness.simulated_history import ViolationError
from harness.simulated_invariants import nothing_left_of
from harness.simulated_loads import Source
from harness.simulated_loop import owned_by

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from harness.simulated_clients import Clients
    from harness.simulated_network import Network
    from harness.simulated_processes import Place, Process, Processes

__all__ = ["Fates"]

_BEGUN: Final = 0.1
"""Seconds within which a load is begun, or ended, without faults."""

_TURNS: Final = 8
"""Of the loop, within which callers hear that their cache was closed, and what they have asked for ends."""


class Fates:
    """Befall processes, each of which is followed by another in its place.

    Args:
        network: on which they are connected.
        processes: begins them.
        clients: of them all.
    """

    def __init__(self, network: Network, processes: Processes, clients: Clients) -> None:
        self._network = network
        self._chance = network.chance
        self._processes = processes
        self._clients = clients

    def move_in(self, place: Place) -> None:
        """Let clients of a process come."""
        place.clients = [
            self._clients.loop.create_task(self._clients.act(place))
            for _ in range(self._chance.randint(2, 4))
        ]

    async def befall(self, places: list[Place]) -> None:
        """Some of them, until there is no more to come; in many runs that is soon."""
        kinds: list[tuple[float, Callable[[Place], Coroutine[Any, Any, None]]]] = [
            (2, self._close_and_open),
            (1, self._replace),
            (2, self._kill),
        ]
        weights = [weight for weight, _ in kinds]
        for _ in range(self._chance.choice((0, 0, 1, 2, 3))):
            await asyncio.sleep(self._chance.uniform(0, 0.3))
            ((_, happen),) = self._chance.choices(kinds, weights)
            await happen(self._chance.choice(places))

    async def _close_and_open(self, place: Place) -> None:
        await self._closed(place.process)
        await self._pause()
        place.process = await self._processes.opened_again(place.process)

    async def _replace(self, place: Place) -> None:
        """Another cache takes over, before this one is closed or thereafter."""
        before = place.process
        if self._chance.random() < 0.5:
            place.process = await self._processes.begun()
            await self._closed(before)
        else:
            await self._closed(before)
            await self._pause()
            place.process = await self._processes.begun()

    async def _closed(self, process: Process) -> None:
        # Marked before it begins to be, since callers may be refused before it has ended.
        with owned_by(process):
            closing = self._clients.loop.create_task(self._close(process))
        if self._chance.random() < 0.2:
            await asyncio.wait((closing,), timeout=self._chance.choice((0, 0.00002, 0.0001)))
            closing.cancel()
        await asyncio.wait((closing,))
        if not closing.cancelled():
            closing.result()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        nothing_left_of(process, self._network, self._clients.loop)

    async def _close(self, process: Process) -> None:
        process.ended = True
        await process.cache.close(None)

    async def die_loading(self, place: Place, other: Place) -> None:
        """All is well, but who loads dies, and others wait for that load: as long as the right lasts.

        Raises:
            ViolationError: they wait for longer.
        """
        dying, loop = place.process, self._clients.loop
        await dying.cache.remove(None, KEYS[0])
        slow = Source(self._clients, dying, takes=0.4)
        place.clients = [loop.create_task(self._clients.load_one(slow, KEYS[0]))]
        await asyncio.sleep(_BEGUN)
        await self._killed(place)
        begun = loop.time()
        await self._clients.load_one(Source(self._clients, other.process, takes=0), KEYS[0])
        limit = dying.options["loading_lease_timeout"] / 1000 + _BEGUN
        if loop.time() - begun > limit + loop.stalled(begun, loop.time()):
            raise ViolationError(
                f"{other.process.name} has waited since {begun} for {dying.name}, which was dead"
            )

    async def _kill(self, place: Place) -> None:
        await self._killed(place)
        await self._pause()
        place.process = await self._processes.begun()
        self.move_in(place)

    async def _killed(self, place: Place) -> None:
        """It is gone between two turns, with all that it was about to do."""
        killed = place.process
        self._network.unplug(killed.name, silently=self._chance.random() < 0.3)
        # From here on nobody else can notice how it ends.
        killed.ended = True
        clients = place.clients
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for client in clients:
            if not client.cancelled():
                client.result()
        await self._closed(killed)

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.choice((0, 0.001, 0.02, 0.2)))
