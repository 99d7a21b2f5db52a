"""How a server is connected to where sentinels know which it is."""

from __future__ import annotations

import asyncio

from async_redis_cache._common.endpoint import Address, Endpoint
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.options import Options
from async_redis_cache._connection.connection import Connection
from async_redis_cache._connection.connector import Connector, verify_master

from .sentinel import UNKNOWN, Sentinels

__all__ = ["MasterConnector"]


class MasterConnector:
    """Connects to the master that the sentinels name.

    Args:
        sentinels: say which it is.
        endpoint: who we are there.
        options: time limits and TLS.
        protocol: which version of RESP the connections speak.
    """

    def __init__(
        self, sentinels: Sentinels, endpoint: Endpoint, options: Options, *, protocol: int = 2
    ) -> None:
        self._sentinels = sentinels
        self._endpoint = endpoint
        self._options = options
        self._protocol = protocol
        self._timeout = options.connect_seconds
        self._current: tuple[Address, Connector] | None = None
        """The address of the master, and the connector to it."""
        self._connected_by: dict[Connection, Connector] = {}

    async def open_connection(self) -> Connection | Failure:
        """A connection to the master, or why there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                place = await self._sentinels.master()
                if isinstance(place, Failure):
                    return place
                # `PushChannel` and `ConnectionPool` cancel this attempt when the master changes.
                connector = self._connector_to(place)
                outcome = await connector.open_connection()
                if not isinstance(outcome, Failure):
                    self._connected_by[outcome] = connector
                return outcome
        except TimeoutError:
            return UNKNOWN

    async def close_idle(self) -> None:
        """Close what is kept of attempts that came to nothing."""
        connectors = {*self._connected_by.values()}
        if self._current is not None:
            connectors.add(self._current[1])
        for connector in connectors:
            await connector.close_idle()

    async def discard_connection(self, connection: Connection) -> None:
        """Give back a connection that is not to be used again."""
        await self._connected_by.pop(connection).discard_connection(connection)

    def _connector_to(self, place: Address) -> Connector:
        if self._current is None or self._current[0] != place:
            connector = Connector(
                self._endpoint.at(place),
                self._options,
                protocol=self._protocol,
                verify=verify_master,
            )
            self._current = place, connector
        return self._current[1]
