"""One connection through the proxy: its two directions and their faults."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter, deque
from dataclasses import dataclass, field
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Literal

from harness.resp import Command, Replies, Requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Direction = Literal["to_server", "to_client"]
Ending = Literal["fin", "rst"]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

GREETINGS = frozenset({"AUTH", "CLIENT", "HELLO", "READONLY", "SELECT"})
TRANSACTION = {"MULTI": True, "EXEC": False, "DISCARD": False}
RECORDED_COMMANDS = 100_000
CHUNK_BYTES = 65_536
CHUNKS_UNDER_WAY = 16
RESET_ON_CLOSE = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

_random = SystemRandom()


class Link:
    """One direction of all connections."""

    def __init__(self) -> None:
        self.bytes_carried = 0
        self.flowing = asyncio.Event()
        self.heal()

    def heal(self) -> None:
        """Forward everything at once and whole, starting with what was held back."""
        self.delay = 0.0
        self.jitter = 0.0
        self.piece_bytes = CHUNK_BYTES
        self.piece_pause = 0.0
        self.flowing.set()

    def latency(self) -> float:
        """The delay of bytes that arrive now."""
        return self.delay + self.jitter * _random.random()


@dataclass
class LostReplies:
    """Pipelines that the server executes and whose replies the client does not get."""

    times: int
    command: str | None
    instead: bytes
    ending: Ending | None

    def takes(self, name: str) -> bool:
        """Whether the replies to the pipeline of this command are dropped; counts it if so."""
        wanted = name == self.command if self.command else name not in GREETINGS
        if wanted and self.times:
            self.times -= 1
            return True
        return False


@dataclass
class Cut:
    """Closes the connection that carries the last of a number of bytes of replies."""

    after_bytes: int
    ending: Ending


@dataclass
class NetworkFaults:
    """The faults and records that all connections of a proxy share."""

    to_server: Link = field(default_factory=Link)
    to_client: Link = field(default_factory=Link)
    cut: Cut | None = None
    lost: LostReplies | None = None
    commands: deque[Command] = field(default_factory=lambda: deque(maxlen=RECORDED_COMMANDS))
    counts: Counter[str] = field(default_factory=Counter[str])


class Relay:
    """The two sockets of one connection, and the replies that are still expected."""

    def __init__(self, number: int, faults: NetworkFaults, client: Streams) -> None:
        self.client_has_left = False
        self.ending: Ending = "rst"
        self._faults = faults
        self._client = client
        self._ends = [client]
        self._requests = Requests(number)
        self._replies = Replies()
        self._owed = 0
        self._in_transaction = False
        self._losing: LostReplies | None = None

    @property
    def idle(self) -> bool:
        """Whether every forwarded command has its reply, and nothing is partly sent."""
        return self._owed <= 0 and not self._in_transaction and not self._requests.half_sent

    def inject(self, data: bytes) -> None:
        """Send the client bytes that the server did not send."""
        self._client[1].write(data)

    async def run(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        """Forward bytes in both directions until one side, a fault or a cancellation ends it."""
        with contextlib.suppress(OSError):  # The server may not be running.
            self._ends.append(await connect())
            for _, writer in self._ends:
                # Then `drain` returns when the kernel has it all, and a cut is exact. Over TLS, asyncio
                # takes as much as the limit for too much, and with none would wait for ever.
                over_tls = writer.get_extra_info("sslcontext") is not None
                writer.transport.set_write_buffer_limits(high=int(over_tls), low=0)
            self.ending = await self._carry_both_ways(*self._ends)

    def close(self) -> None:
        """Close the sockets now, with FIN or RST, whatever is still to be written.

        Not a part of `run`, of which nothing is executed when it is cancelled early.
        """
        for _, writer in self._ends:
            with contextlib.suppress(OSError):  # The peer may have closed it before.
                if self.ending == "rst":
                    socket = writer.get_extra_info("socket")
                    if socket is not None:  # Under TLS, the peer may have ended it.
                        socket.setsockopt(*RESET_ON_CLOSE)
                elif writer.can_write_eof():
                    writer.write_eof()
            writer.transport.abort()

    async def _carry_both_ways(self, client: Streams, server: Streams) -> Ending:
        up, down = self._faults.to_server, self._faults.to_client
        ways = [
            asyncio.create_task(self._carry(client[0], server[1], up, self._look_at_request)),
            asyncio.create_task(self._carry(server[0], client[1], down, self._look_at_reply)),
        ]
        try:
            ended, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            return ended.pop().result()
        finally:
            await _cancel(*ways)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        link: Link,
        look_at: Callable[[bytes], tuple[bytes, Ending | None]],
    ) -> Ending:
        """Carry one direction, and tell how it ended."""
        clock = asyncio.get_running_loop().time
        arrivals: asyncio.Queue[tuple[float, bytes | Ending]] = asyncio.Queue(CHUNKS_UNDER_WAY)
        receiving = asyncio.create_task(self._receive(source, link, arrivals))
        try:
            while True:
                due, arrival = await arrivals.get()
                await asyncio.sleep(due - clock())
                await link.flowing.wait()
                if isinstance(arrival, str):
                    return arrival
                data, ending = look_at(arrival)
                link.bytes_carried += len(data)  # Before the client can read them.
                for start in range(0, len(data), link.piece_bytes):
                    target.write(data[start : start + link.piece_bytes])
                    await target.drain()
                    await asyncio.sleep(link.piece_pause)
                if ending:
                    return ending
        except OSError:
            return "rst"
        finally:
            await _cancel(receiving)

    async def _receive(
        self,
        source: asyncio.StreamReader,
        link: Link,
        arrivals: asyncio.Queue[tuple[float, bytes | Ending]],
    ) -> None:
        """Take in what arrives and when it is due, so that a delay does not slow the flow."""
        clock = asyncio.get_running_loop().time
        due = 0.0
        ending: Ending = "fin"
        try:
            while data := await source.read(CHUNK_BYTES):
                due = max(due, clock() + link.latency())
                await arrivals.put((due, data))
        except OSError:
            ending = "rst"
        if source is self._client[0]:
            self.client_has_left = True
        await arrivals.put((max(due, clock() + link.latency()), ending))

    def _look_at_request(self, data: bytes) -> tuple[bytes, Ending | None]:
        faults = self._faults
        for command in self._requests.feed(data):
            faults.commands.append(command)
            faults.counts[command.name] += 1
            self._owed += 1
            if command.name in TRANSACTION:
                self._in_transaction = TRANSACTION[command.name]
            if faults.lost and not self._losing and faults.lost.takes(command.name):
                self._losing = faults.lost
        return data, None

    def _look_at_reply(self, data: bytes) -> tuple[bytes, Ending | None]:
        self._owed -= self._replies.count(data)
        if self._losing:
            if not self.idle:
                return b"", None
            lost, self._losing = self._losing, None
            return lost.instead, lost.ending
        cut = self._faults.cut
        if cut and len(data) >= cut.after_bytes:
            self._faults.cut = None
            return data[: cut.after_bytes], cut.ending
        if cut:
            cut.after_bytes -= len(data)
        return data, None


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
