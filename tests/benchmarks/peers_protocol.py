"""The physical limit: asyncio and hiredis, and nothing that a user needs beside them.

One connection, written by hand: no pool, no deadline, no retry, no reconnecting, no serializer, and
a caller that is cancelled puts everyone behind it out of step. What a client of asyncio can reach.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import hiredis

from .servers import Target
from .workloads import EXPIRY_MS, PROTOCOL, Operation

_pack = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]


class _Wire(asyncio.Protocol):
    """Replies go to the callers in the order of their commands.

    A command on an idle connection is written at once, all others of one turn of the loop together.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = self.loop.create_future()
        self._reader = hiredis.Reader()
        self._waiting = deque[asyncio.Future[Any]]()
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.pool = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)

    def execute(self, *command: str | bytes | float) -> asyncio.Future[Any]:
        packed = _pack(command)
        if not self._waiting:
            self.pool.write(packed)
        else:
            if not self._unsent:
                self.loop.call_soon(self._send)
            self._unsent.append(packed)
        reply: asyncio.Future[Any] = self.loop.create_future()
        self._waiting.append(reply)
        return reply

    def _send(self) -> None:
        self.pool.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._waiting.popleft().set_result(reply)


class Protocol:
    """Bytes in and bytes out, all callers on one connection."""

    name = PROTOCOL
    operations = frozenset({Operation.RETRIEVE_HIT})

    async def open(self, server: Target) -> None:
        loop = asyncio.get_running_loop()
        _, self._wire = await loop.create_connection(_Wire, server.host, server.port)

    async def close(self) -> None:
        self._wire.pool.close()
        await self._wire.closed

    def store(self, key: str, value: object) -> Awaitable[object]:
        assert isinstance(value, bytes)
        return self._wire.execute("SET", key, value, "PX", EXPIRY_MS)

    def retrieve(self, key: str) -> Awaitable[object]:
        return self._wire.execute("GET", key)

    def remove(self, key: str) -> Awaitable[object]:
        return self._wire.execute("GETDEL", key)

    async def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        return dict(zip(keys, await self._wire.execute("MGET", *keys), strict=True))

    async def fill(self, values: Mapping[str, object]) -> object:
        return await asyncio.gather(*(self.store(key, value) for key, value in values.items()))
