"""Faults of the simulated network and server."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from harness.simulated_network import Connection, Network
    from harness.simulated_server import SimulatedServer

__all__ = ["SimulatedFaults"]

_LOADING: Final = b"LOADING Redis is loading the dataset in memory"


class SimulatedFaults:
    """Bad, until it is told to clear up."""

    def __init__(self, network: Network, server: SimulatedServer) -> None:
        self._network = network
        self._server = server
        self._chance = network.chance
        self._mildness = self._chance.choice((0.02, 0.1, 0.4, 10.0))
        """Seconds between two events, on average; some runs have none."""

    async def blow(self) -> None:
        """Until cancelled."""
        kinds = [
            (3, self._reset),
            (3, self._cut_in_mid_reply),
            (3, self._swallow),
            (2, self._silence),
            (1, self._restart),
            (1, self._refuse),
            (1, self._trouble),
            (2, self._evict),
            (0.5, self._flush),
            (2, self._expire),
        ]
        weights = [weight for weight, _ in kinds]
        while True:
            await asyncio.sleep(self._chance.expovariate(1 / self._mildness))
            ((_, happen),) = self._chance.choices(kinds, weights)
            happen()

    def clear_up(self) -> None:
        """End what is bad for good."""
        self._back()
        self._no_trouble()
        self._network.refuses_until = 0
        self._network.is_calm = True
        for connection in self._network.connections:
            connection.loses = math.inf
            silent_until = max(connection.up.silent_until, connection.down.silent_until)
            if connection.mute or silent_until > self._network.now:
                connection.cut()

    def _one(self) -> Connection | None:
        alive = [one for one in self._network.connections if one.alive]
        return self._chance.choice(alive) if alive else None

    def _reset(self) -> None:
        if connection := self._one():
            connection.cut(reset=self._chance.random() < 0.7)

    def _cut_in_mid_reply(self) -> None:
        if connection := self._one():
            connection.loses = self._chance.randint(1, 60)

    def _swallow(self) -> None:
        """What is sent from now on is executed, and its replies never come."""
        if connection := self._one():
            connection.mute = True
            if self._chance.random() < 0.7:
                after = self._chance.choice((0.001, 0.01, 0.05))
                self._network.at(self._network.now + after, connection.cut)

    def _silence(self) -> None:
        if connection := self._one():
            length = self._chance.choice((0.05, 0.3, 0.8, math.inf))
            until = self._network.now + length
            for way in self._chance.choice(
                ((connection.up,), (connection.down,), (connection.up, connection.down))
            ):
                way.silent_until = max(way.silent_until, until)

    def _restart(self) -> None:
        if self._server.is_up:
            self._server.crash(loses_data=self._chance.random() < 0.7)
            away = self._chance.choice((0.01, 0.1, 0.6))
            self._network.at(self._network.now + away, self._back)

    def _back(self) -> None:
        self._server.is_up = True

    def _refuse(self) -> None:
        self._network.refuses_until = self._network.now + self._chance.choice((0.05, 0.5))

    def _trouble(self) -> None:
        if self._chance.random() < 0.5:
            self._server.trouble = _LOADING
        else:
            self._server.store.is_full = True
        after = self._chance.choice((0.01, 0.1, 0.4))
        self._network.at(self._network.now + after, self._no_trouble)

    def _no_trouble(self) -> None:
        self._server.trouble = None
        self._server.store.is_full = False

    def _evict(self) -> None:
        keys = sorted(self._server.store.data)
        if keys and self._server.is_up:
            key = self._chance.choice(keys)
            self._server.change(lambda: self._server.store.drop(key))

    def _flush(self) -> None:
        if self._server.is_up:
            self._server.change(self._server.store.flush)

    def _expire(self) -> None:
        if self._server.is_up:
            self._server.change(self._server.store.expire_due)
