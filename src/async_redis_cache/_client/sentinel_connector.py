"""How a server is connected to where sentinels know which it is: the master, or a replica of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from async_redis_cache._common.endpoint import Address, Endpoint
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.hosts import parse_address
from async_redis_cache._common.options import Options
from async_redis_cache._connection.connection import Connection
from async_redis_cache._connection.connector import Connector, fields_of, verify_master

from .sentinel import UNKNOWN, Sentinels, sentinel_connectors

__all__ = ["MasterConnector", "ReplicaConnector"]

_SECOND: Final = 1000
T = TypeVar("T")


class _SentinelConnectors:
    """Several dialers; who has made a connection also ends it."""

    def __init__(self, connectors: Sequence[Connector]) -> None:
        self._connectors = list(connectors)
        self._connected_by: dict[Connection, Connector] = {}

    async def close_idle(self) -> None:
        """Close what is kept of attempts that came to nothing."""
        for dialer in {*self._connectors, *self._connected_by.values()}:
            await dialer.close_idle()

    async def discard_connection(self, connection: Connection) -> None:
        """Give back a connection that is not to be used again."""
        await self._connected_by.pop(connection).discard_connection(connection)

    async def _remember(self, dialer: Connector) -> Connection | Failure:
        outcome = await dialer.open_connection()
        if not isinstance(outcome, Failure):
            self._connected_by[outcome] = dialer
        return outcome


class MasterConnector(_SentinelConnectors):
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
        super().__init__(())
        self._sentinels = sentinels
        self._endpoint = endpoint
        self._options = options
        self._protocol = protocol
        self._timeout = options.connect_timeout / _SECOND
        self._place: Address | None = None

    async def open_connection(self) -> Connection | Failure:
        """A connection to the master, or why there is none."""
        try:
            async with asyncio.timeout(self._timeout):
                place = await self._sentinels.master()
                if isinstance(place, Failure):
                    return place
                # Whoever dials is stopped when the sentinels name another.
                return await self._remember(self._connector_to(place))
        except TimeoutError:
            return UNKNOWN

    def _connector_to(self, place: Address) -> Connector:
        if self._place != place:
            endpoint = self._endpoint.at(place)
            dialer = Connector(
                endpoint, self._options, protocol=self._protocol, verify=verify_master
            )
            self._place, self._connectors = place, [dialer]
        return self._connectors[0]


class ReplicaConnector(_SentinelConnectors):
    """Connects to one of the replicas that the sentinels find well, by chance.

    Args:
        endpoint: the sentinels, the master's name, and who we are there.
        options: time limits, TLS, and who we are to the sentinels.
    """

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        super().__init__(sentinel_connectors(endpoint, options))
        self._endpoint = endpoint
        self._options = options
        self._timeout = options.connect_timeout / _SECOND

    async def open_connection(self) -> Connection | Failure:
        """A connection to a replica, or why there is none."""
        command = ("SENTINEL", "REPLICAS", self._endpoint.master)
        try:
            async with asyncio.timeout(self._timeout):
                places = await _first_answer(self._connectors, command, _replicas_in)
                if not places:
                    return UNKNOWN
                place = random.choice(places)  # noqa: S311  no secret
                return await self._remember(Connector(self._endpoint.at(place), self._options))
        except TimeoutError:
            return UNKNOWN


async def _first_answer(
    sentinels: Sequence[Connector], command: Sequence[str], read: Callable[[Any], T | None]
) -> T | None:
    """What the first sentinel says that says something."""
    pending = {asyncio.ensure_future(sentinel.send_command(*command)) for sentinel in sentinels}
    try:
        while pending:
            answered, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for one in answered:
                if (answer := read(one.result())) is not None:
                    return answer
        return None
    finally:
        for one in pending:
            one.cancel()
        if pending:
            await asyncio.wait(pending)


def _replicas_in(answer: Any) -> list[Address] | None:
    """Those that follow the master, and answer."""
    if not isinstance(answer, list):
        return None
    flats: list[Any] = answer  # pyright: ignore[reportUnknownVariableType]
    try:
        return [
            parse_address(replica[b"ip"], replica[b"port"])
            for replica in map(fields_of, flats)
            if replica[b"flags"] == b"slave" and replica[b"master-link-status"] == b"ok"
        ]
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
