"""Connections in memory, with delays, fragmentation and losses."""

from __future__ import annotations

import heapq
import math
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from harness.simulated_transport import SimulatedTransport

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable

__all__ = ["Connection", "Network", "Peer"]

_LATENCIES: Final = (
    (0.75, 0.0001, 0.001),
    (0.95, 0.001, 0.008),
    (0.995, 0.008, 0.040),
    (1.0, 0.04, 0.25),
)
"""(up to this chance, from so many seconds, to so many)."""
_CALM: Final = 0.95


class Peer(Protocol):
    """The server's end of all connections."""

    is_up: bool

    def received(self, connection: Connection, data: bytes) -> None:
        """Bytes have come."""
        ...

    def left(self, connection: Connection) -> None:
        """The client has gone."""
        ...


class Network:
    """All that is under way, in the order in which it arrives."""

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self.loop = loop
        self.chance = chance
        self.now = loop.time()
        """The moment of what arrives just now, which may be before the loop comes to look."""
        self.connections: list[Connection] = []
        self.peer: Peer
        self.refuses_until = 0.0
        self.unplugged: set[str] = set()
        """Processes that have no way to the server any more."""
        self.is_calm = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def connected(self, process: str) -> Connection:
        """A new connection of a process."""
        connection = Connection(self, process, next(self._numbers))
        self.connections.append(connection)
        return connection

    def unplug(self, process: str, *, silently: bool) -> None:
        """From now on nothing that a process does leaves it; what it has sent may still arrive.

        Args:
            process: which.
            silently: so that the server does not even hear that its connections have ended.
        """
        self.unplugged.add(process)
        for connection in self.connections:
            if connection.process == process:
                if silently:
                    connection.up.silent_until = math.inf
                connection.transport.abort()

    def next_at(self) -> float:
        """See `Arrivals`."""
        if any(one.is_readable for one in self.connections):
            return self.now
        return self._due[0][0] if self._due else math.inf

    def at(self, moment: float, happen: Callable[[], None]) -> None:
        """Let this happen then."""
        heapq.heappush(self._due, (moment, next(self._numbers), happen))

    def settle(self, now: float) -> None:
        """Let happen what is due."""
        while self._due and self._due[0][0] <= now:
            self.now, _, happen = heapq.heappop(self._due)
            happen()
        self.now = max(self.now, now)

    def arrive(self, now: float) -> list[Callable[[], None]]:
        """See `Arrivals`."""
        self.settle(now)
        readable = [one.transport.read for one in self.connections if one.is_readable]
        self.chance.shuffle(readable)
        return readable

    def latency(self) -> float:
        """Seconds that something takes from one end to the other."""
        which = self.chance.random() * (_CALM if self.is_calm else 1)
        _, least, most = next(entry for entry in _LATENCIES if which <= entry[0])
        return self.chance.uniform(least, most)

    def pieces(self, data: bytes) -> list[bytes]:
        """The same, as it may arrive."""
        if len(data) < 2 or self.chance.random() > 0.15:
            return [data]
        cut = self.chance.randrange(1, len(data))
        return [data[:cut], data[cut:]]


class _Way:
    """One direction: what is sent first arrives first."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._last = 0.0
        self.silent_until = 0.0

    def send(self, happen: Callable[[], None], latency: float | None = None) -> None:
        network = self._network
        takes = network.latency() if latency is None else latency
        at = max(network.now + takes, self._last + 1e-9, self.silent_until)
        if at < math.inf:
            self._last = at
            network.at(at, happen)


class Connection:
    """Both ends of a connection, and what is between them.

    Attributes:
        process: whose it is.
        number: another for each.
        inbox: bytes that have arrived at the client and were not read.
        loses: after how many bytes of replies it ends; infinite where it does not.
        mute: whether replies are not sent any more.
    """

    def __init__(self, network: Network, process: str, number: int) -> None:
        self.network = network
        self.process = process
        self.number = number
        self.inbox = bytearray()
        self.ended: Exception | bool = False
        """Whether the client finds its end behind what has arrived; an error for a reset."""
        self.alive = True
        """Whether the server has it."""
        self.loses = math.inf
        self.mute = False
        self.up = _Way(network)
        self.down = _Way(network)
        self.transport = SimulatedTransport(self)

    @property
    def is_readable(self) -> bool:
        """Whether the client's loop is to read."""
        return bool(self.inbox or self.ended) and not self.transport.is_closing()

    def to_server(self, data: bytes) -> None:
        """Sent by the client."""
        for piece in self.network.pieces(data):
            self.up.send(partial(self._at_server, piece))

    def to_client(self, data: bytes, arrived: Callable[[float], None] | None = None) -> None:
        """Sent by the server; who wants to know is told when all of it is there."""
        if self.mute or not self.alive:
            return
        if len(data) > self.loses:
            data, arrived = data[: int(self.loses)], None
        self.loses -= len(data)
        pieces = self.network.pieces(data)
        for piece in pieces:
            told = arrived if piece is pieces[-1] else None
            self.down.send(partial(self._at_client, piece, told))
        if self.loses <= 0:
            self.cut()

    def cut(self, *, reset: bool = True) -> None:
        """The server, or somebody between, ends it."""
        if self.alive:
            self.alive = False
            self.network.peer.left(self)
            self.down.silent_until = min(self.down.silent_until, self.network.now + 1.0)
            end: Exception | bool = ConnectionResetError() if reset else True
            self.down.send(lambda: self._end(end))

    def client_left(self) -> None:
        """The client has ended it. What it has sent before may still arrive."""
        self.up.send(self._left)

    def _left(self) -> None:
        if self.alive:
            self.alive = False
            self.network.peer.left(self)

    def _at_server(self, data: bytes) -> None:
        if self.alive:
            self.network.peer.received(self, data)

    def _at_client(self, data: bytes, told: Callable[[float], None] | None) -> None:
        if not self.transport.is_closing():
            self.inbox += data
            if told is not None:
                told(self.network.now)

    def _end(self, end: Exception | bool) -> None:
        if isinstance(end, Exception) and self.network.chance.random() < 0.5:
            self.inbox.clear()  # A reset overtakes what was not read.
        self.ended = end
