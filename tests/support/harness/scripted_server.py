"""A server that answers what the test tells it to, be it sense or nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from harness.addresses import LOOPBACK, tcp_url
from harness.resp import Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.resp import Command


class Endless(NamedTuple):
    """A reply without an end: how it begins, and what is sent again and again for as long as it is read."""

    begin: bytes
    block: bytes


Reply = bytes | Endless

GOOD: dict[str, bytes] = {
    "PING": b"+PONG\r\n",
    "SELECT": b"+OK\r\n",
    "SET": b"+OK\r\n",
    "MGET": b"*1\r\n$1\r\n1\r\n",
    "EVAL": b":0\r\n",
    "GETRANGE": b"$1\r\n1\r\n",
}


class ScriptedServer:
    """Listens on the running loop from `async with` on, and ends with it.

    Attributes:
        answers: what it says to a command, by its name; an answer is sent as it is. Commands that
            are not in here get no answer. A function is called with the command.
        commands: what it was asked.
        connections: how many it has accepted.
        open_now: how many of them have not ended.
    """

    def __init__(self, **answers: Reply | Callable[[Command], Reply]) -> None:
        self.answers: dict[str, Reply | Callable[[Command], Reply]] = {**GOOD, **answers}
        self.commands: list[Command] = []
        self.connections = 0
        self.open_now = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The same, as a cache takes it."""
        return tcp_url(self.port, "", "", 0, tls=False)

    def asked(self, name: str) -> int:
        """How many commands of this name it got."""
        return sum(command.name == name for command in self.commands)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_now += 1
        requests = Requests(self.connections)
        try:
            while data := await reader.read(65_536):
                for command in requests.feed(data):
                    self.commands.append(command)
                    answer = self.answers.get(command.name, b"")
                    reply = answer(command) if callable(answer) else answer
                    if isinstance(reply, bytes):
                        writer.write(reply)
                        continue
                    writer.write(reply.begin)
                    while True:
                        writer.write(reply.block)
                        await writer.drain()
        except ConnectionError:
            pass  # The client is gone, which is what some tests wait for.
        finally:
            self.open_now -= 1
            writer.transport.abort()
            # Whatever ended it is not for the loop to log, as Python 3.11 does where it was not asked for.
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class ScriptedThread(ScriptedServer):
    """The same on a loop and thread of its own, for tests that block."""

    def __enter__(self) -> Self:
        self._listens = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._live(),), daemon=True)
        self._thread.start()
        assert self._listens.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ends.set)
        self._thread.join()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends = asyncio.Event()
        async with self:
            self._listens.set()
            await self._ends.wait()
