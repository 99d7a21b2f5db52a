"""A TCP proxy between clients and a server, which injects network faults."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, TypeVar

from harness.addresses import LOOPBACK, free_port, tcp_url
from harness.relay import Cut, Direction, Ending, Link, LostReplies, NetworkFaults, Relay
from harness.servers import ATTEMPTS_TO_LISTEN

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine

    from harness.relay import Streams
    from harness.resp import Command
    from harness.servers import Server

PATIENCE_SECONDS = 10.0
_TURNS_TO_ACCEPT = 5
"""Turns of the loop after which an accepted connection has been handed over."""

T = TypeVar("T")


class Proxy:
    """A TCP port in front of a server.

    It runs in a thread and loop of its own, so it keeps running while a test blocks. Every method may be called
    from any other thread, and has taken effect when it returns. Faults apply to current and new connections until
    `heal`.
    """

    def __init__(self, server: Server, *, tls: ssl.SSLContext | None = None) -> None:
        """Create a proxy of `server`; with `tls`, use TLS towards the clients only."""
        self.server = server
        self._tls = tls
        self._port: int | None = None
        self._listener: asyncio.Server | None = None
        self._faults = NetworkFaults()
        self._relays: dict[Relay, asyncio.Task[None]] = {}
        self._opened = 0
        self._loop: asyncio.AbstractEventLoop
        self._closing: asyncio.Event
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start listening."""
        listening: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._live, args=(listening,), name="proxy", daemon=True
        )
        self._thread.start()
        listening.result(PATIENCE_SECONDS)

    def close(self) -> None:
        """End all connections and stop listening."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()
            self._thread = None

    @property
    def host(self) -> str:
        """The address of the port."""
        return LOOPBACK

    @property
    def port(self) -> int:
        """The port, the same after `refuse` and `heal`."""
        if self._port is None:
            raise RuntimeError("the proxy has not been started")
        return self._port

    @property
    def url(self) -> str:
        """Database 0 of the server through the proxy, logged in."""
        return self.login_url(*self.server.login)

    def login_url(self, username: str, password: str, database: int = 0) -> str:
        """The URL with another login."""
        tls = self._tls is not None or self.server.tls
        return tcp_url(self.port, username, password, database, tls=tls)

    @property
    def opened(self) -> int:
        """The number of connections accepted so far."""
        return self._opened

    @property
    def open_now(self) -> int:
        """The number of connections that are open on both sides."""
        return sum(not relay.client_has_left for relay in tuple(self._relays))

    @property
    def bytes_to_server(self) -> int:
        """The bytes forwarded to the server since the last `forget`."""
        return self._faults.to_server.bytes_carried

    @property
    def bytes_to_client(self) -> int:
        """The bytes forwarded to the clients since the last `forget`."""
        return self._faults.to_client.bytes_carried

    @property
    def commands(self) -> list[Command]:
        """The commands forwarded since the last `forget`, in order."""
        return list(self._faults.commands)

    @property
    def counts(self) -> Counter[str]:
        """The number of commands forwarded since the last `forget`, by name."""
        return Counter(self._faults.counts)

    def forget(self) -> None:
        """Reset all records except `opened` and `open_now`."""
        self._do(self._forget())

    def delay(
        self, seconds: float, jitter: float = 0.0, direction: Direction | None = None
    ) -> None:
        """Delay bytes by `seconds` and up to `jitter` more, in both directions or one."""
        for link in self._links(direction):
            link.delay, link.jitter = seconds, jitter

    def chop(self, size: int, pause: float = 0.001, direction: Direction | None = None) -> None:
        """Deliver in pieces of `size` bytes, far enough apart to be read one by one."""
        for link in self._links(direction):
            link.piece_bytes, link.piece_pause = size, pause

    def black_hole(self, direction: Direction | None = None) -> None:
        """Accept connections and bytes, but forward nothing, not even the ends of connections.

        With a direction, only that one is silent: a half-open connection.
        """
        for link in self._links(direction):
            link.flowing.clear()

    def refuse(self) -> None:
        """Refuse new connections; current ones stay."""
        self._do(self._refuse())

    def heal(self) -> None:
        """Remove all faults, listen again, and deliver what was held back."""
        self._do(self._heal())

    def cut(self, ending: Ending = "fin") -> None:
        """Close all current connections, with FIN or RST."""
        self._do(self._cut(ending))

    def cut_silently(self) -> None:
        """Stop forwarding on the current connections, like a middlebox that dropped them; new ones work."""
        self._do(self._cut_silently())

    def cut_replies_after(self, size: int, ending: Ending = "fin") -> None:
        """Forward `size` more bytes of replies, then close the connection that carried the last of them.

        With 0, the next reply is dropped whole. Happens once.
        """
        self._faults.cut = Cut(size, ending)

    def swallow_replies(
        self, times: int = 1, command: str | None = None, ending: Ending = "fin"
    ) -> None:
        """Let the server execute a pipeline, then close the connection instead of forwarding the replies.

        Applies to the next `times` pipelines with `command`, or with any command outside the handshake, once the
        whole pipeline has been executed.
        """
        self._faults.lost = LostReplies(times, command, b"", ending)

    def replace_replies(self, data: bytes, times: int = 1, command: str | None = None) -> None:
        """Like `lose_reply`, but the client gets `data` as the reply and the connection stays open."""
        self._faults.lost = LostReplies(times, command, data, None)

    def inject(self, data: bytes) -> int:
        """Send `data` to the client on every idle connection; returns their number."""
        return self._do(self._inject(data))

    def _live(self, listening: Future[None]) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._serve(listening))

    async def _serve(self, listening: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        try:
            await self._listen()
        except OSError as error:
            listening.set_exception(error)
            return
        listening.set_result(None)
        await self._closing.wait()
        await self._refuse()
        await self._cut("fin")

    async def _listen(self) -> None:
        for attempt in range(1, ATTEMPTS_TO_LISTEN + 1):
            port = self._port or free_port()
            try:
                self._listener = await asyncio.start_server(
                    self._accept, self.host, port, ssl=self._tls, backlog=1024
                )
            except OSError:
                if attempt == ATTEMPTS_TO_LISTEN:
                    raise
            else:
                self._port = port
                return

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._opened += 1
        relay = Relay(self._opened, self._faults, (reader, writer))
        task = self._loop.create_task(relay.run(self._connect))
        self._relays[relay] = task
        task.add_done_callback(lambda _: self._leave(relay))

    def _leave(self, relay: Relay) -> None:
        del self._relays[relay]
        relay.close()

    async def _connect(self) -> Streams:
        server = self.server
        # Who ends TLS here goes on without it, and a server that speaks it does not on its socket.
        if server.tcp and not (self._tls and server.tls):
            return await asyncio.open_connection(server.host, server.port)
        return await asyncio.open_unix_connection(server.socket_file)

    async def _refuse(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            for listening in listener.sockets:
                self._loop.remove_reader(listening)
            # What has been accepted belongs to nobody yet, and is forgotten where a listener closes now.
            for _ in range(_TURNS_TO_ACCEPT):
                await asyncio.sleep(0)
            listener.close()

    async def _heal(self) -> None:
        self._faults.cut = self._faults.lost = None
        for link in self._links(None):
            link.heal()
        if self._listener is None:
            await self._listen()

    async def _cut(self, ending: Ending) -> None:
        tasks = list(self._relays.values())
        for relay, task in self._relays.items():
            relay.ending = ending
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # The sockets are closed by the next turn of the loop.

    async def _cut_silently(self) -> None:
        for link in self._links(None):
            link.flowing.clear()
        self._faults = NetworkFaults()

    async def _inject(self, data: bytes) -> int:
        idle = [relay for relay in self._relays if relay.idle]
        for relay in idle:
            relay.inject(data)
        return len(idle)

    async def _forget(self) -> None:
        self._faults.commands.clear()
        self._faults.counts.clear()
        for link in self._links(None):
            link.bytes_carried = 0

    # On the way there

    def _links(self, direction: Direction | None) -> list[Link]:
        links = {"to_server": self._faults.to_server, "to_client": self._faults.to_client}
        return [link for name, link in links.items() if direction in (None, name)]

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)
