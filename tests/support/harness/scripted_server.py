"""A server in the test process that sends scripted replies, valid or not."""

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
    """A reply that never ends: its beginning, and a block that is repeated for as long as the client reads."""

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
    """Listens on the running loop inside its `async with` block.

    Attributes:
        answers: replies by the name of the command, sent as they are; a function is called with the command.
            A command without an entry gets no reply, but EVALSHA gets that of EVAL.
        commands: the commands received so far.
        connections: the number of connections accepted so far.
        open_now: the number of connections that are open.
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
        """The port that it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The URL for a cache."""
        return tcp_url(self.port, "", "", 0, tls=False)

    def asked(self, name: str) -> int:
        """The number of commands of this name received so far."""
        return sum(command.name == name for command in self.commands)

    def _answer_to(self, name: str) -> Reply | Callable[[Command], Reply]:
        if name == "EVALSHA" and name not in self.answers:
            name = "EVAL"
        return self.answers.get(name, b"")

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
                    answer = self._answer_to(command.name)
                    reply = answer(command) if callable(answer) else answer
                    if isinstance(reply, bytes):
                        writer.write(reply)
                        continue
                    writer.write(reply.begin)
                    while True:
                        writer.write(reply.block)
                        await writer.drain()
        except ConnectionError:
            pass  # The client has disconnected, which some tests wait for.
        finally:
            self.open_now -= 1
            writer.transport.abort()
            # Retrieve the exception, which Python 3.11 logs otherwise.
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class ScriptedThread(ScriptedServer):
    """A `ScriptedServer` on a loop and thread of its own, for tests that block."""

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
