"""The client's ends of connections in memory: for the loop, for polling and for connecting."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from async_redis_cache._common.errors import CacheUnavailable
from async_redis_cache._common.failures import Failure

if TYPE_CHECKING:
    from async_redis_cache._common.endpoint import Endpoint
    from async_redis_cache._common.options import Options
    from harness.simulated_network import Connection, Network

__all__ = ["Poll", "SimulatedDialer", "SimulatedTransport"]

_REFUSED: Final = Failure(
    CacheUnavailable, "CONNECT_FAILED", "could not connect: simulated", retryable=True
)
_SHORT_READ_CHANCE: Final = 0.2


class SimulatedTransport(asyncio.Transport):
    """The client's end, as the loop has it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        # Who has connected owns what comes of it.
        self._context = copy_context()
        self._protocol: Any = asyncio.Protocol()
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Its socket."""
        return self if name == "socket" else default

    def fileno(self) -> int:
        """The connection's number, by which it is polled."""
        return self._connection.number

    def setsockopt(self, *_: object) -> None:
        """An end without a good-bye is all that there is here."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is told from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told now."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        """Whether it has ended or is about to."""
        return self._closing

    def write(self, data: Any) -> None:
        """Send."""
        if not self._closing:
            self._connection.network.settle(self._connection.network.loop.time())
            self._connection.to_server(bytes(data))

    def abort(self) -> None:
        """End it now; who is told hears of it in the loop's next turn."""
        self._close(None)

    def read(self) -> None:
        """For whom it has connected."""
        self._context.run(self._read)

    def _read(self) -> None:
        """Read what has arrived, or a part of it, as a socket gives it."""
        connection = self._connection
        if self._closing or not connection.is_readable:
            return
        size = len(connection.inbox)
        if not size:
            error = connection.ended
            self._close(error if isinstance(error, Exception) else None)
            return
        chance = connection.network.chance
        if chance.random() < _SHORT_READ_CHANCE:
            size = chance.randint(1, size)
        data = bytes(connection.inbox[:size])
        del connection.inbox[:size]
        self._protocol.data_received(data)

    def _close(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._connection.network.loop.call_soon(self._lost, error)
            self._connection.network.settle(self._connection.network.loop.time())
            self._connection.client_left()

    def _lost(self, error: Exception | None) -> None:
        self._connection.network.connections.remove(self._connection)
        self._protocol.connection_lost(error)


class Poll:
    """Stands for `select.poll`: what has arrived, whether the loop has looked or not."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._number = -1

    def register(self, number: int, _: int) -> None:
        """Whom to look at."""
        self._number = number

    def poll(self, _: int) -> list[Any]:
        """Whether there is something to read."""
        self._network.settle(self._network.loop.time())
        return [
            one
            for one in self._network.connections
            if one.number == self._number and one.is_readable
        ]


class _Dialed:
    """What the library knows of a connection of redis-py."""

    def __init__(self, connection: Connection) -> None:
        self._writer = connection
        self._reader = asyncio.StreamReader()  # Its end has not come.
        self.number = connection.number
        self.host, self.port = connection.process, 6379


class SimulatedDialer:
    """Connects in memory; see `Dialer`."""

    def __init__(
        self, network: Network, endpoint: Endpoint, options: Options, *, protocol: int = 2
    ) -> None:
        self._network = network
        self._process = endpoint.host
        self._timeout = options.connect_timeout / 1000
        self.protocol = protocol

    async def open_connection(self) -> Any:
        """A connection that is logged in, or why there is none."""
        network = self._network
        begun = network.loop.time()
        takes = network.latency() + network.latency()
        silent = network.chance.random() < 0.02 and not network.is_calm
        await asyncio.sleep(self._timeout if silent else min(takes, self._timeout))
        late = takes > self._timeout or silent
        unplugged = self._process in network.unplugged
        if late or unplugged or not network.peer.is_up or network.refuses_until > begun:
            return _REFUSED
        return _Dialed(network.connected(self._process))

    async def close_idle(self) -> None:
        """Nothing is kept here."""

    async def discard_connection(self, connection: Any) -> None:
        """End it, as `Dialer` does."""
        connection._writer.transport.abort()
        await asyncio.sleep(0)
