"""Connects to one Sentinel, also to one that refuses HELLO: an old one, or one behind a proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from async_redis_cache._common.errors import (
    CacheConfigError,
    CachePermissionError,
    CacheServerError,
    CacheUnsupported,
)
from async_redis_cache._common.failures import Failure
from async_redis_cache._connection.connection import Connection
from async_redis_cache._connection.connector import Connector

__all__ = ["SentinelConnector"]

_REFUSED: Final = {CacheConfigError, CachePermissionError, CacheServerError, CacheUnsupported}
"""The kinds of failures by which servers and proxies refuse HELLO. A rejected login is none of them."""


class SentinelConnector:
    """Connects with RESP3, and with RESP2 and AUTH if the Sentinel refuses HELLO.

    A RESP2 connection cannot subscribe and send other commands, so it only polls. RESP3 is tried for every
    connection, since a Sentinel may have been upgraded.

    Args:
        make_connector: makes a connector, given the RESP version.
    """

    def __init__(self, make_connector: Callable[[int], Connector]) -> None:
        self._resp3 = make_connector(3)
        self._resp2 = make_connector(2)
        self._opened_by: dict[Connection, Connector] = {}
        self.on_protocol: Callable[[int], None]
        """Called with the RESP version of a connection before that is returned."""

    async def open_connection(self) -> Connection | Failure:
        """Return a connection, or why there is none."""
        protocol, connector = 3, self._resp3
        outcome = await connector.open_connection()
        if isinstance(outcome, Failure) and outcome.kind in _REFUSED:
            protocol, connector = 2, self._resp2
            outcome = await connector.open_connection()
        if not isinstance(outcome, Failure):
            self._opened_by[outcome] = connector
            self.on_protocol(protocol)
        return outcome

    async def close_idle(self) -> None:
        """Close connections whose login failed or was cancelled."""
        await self._resp3.close_idle()
        await self._resp2.close_idle()

    async def discard_connection(self, connection: Connection) -> None:
        """Close a connection that will not be used again."""
        await self._opened_by.pop(connection).discard_connection(connection)
