"""A server in memory: executes commands one at a time and sends invalidations."""

from __future__ import annotations

from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

import hiredis

from harness.simulated_store import RefusedError, Status, Store

if TYPE_CHECKING:
    from harness.simulated_network import Connection, Network

__all__ = ["Executed", "SimulatedServer"]

_NOTHING: Final = object()
_LONGEST_TURN: Final = 0.0001


class Executed:
    """Whoever wants to know what the server does."""

    def executed(self, words: list[bytes], store: Store) -> None:
        """A command was executed; the store says which keys it has changed."""

    def news_arrived(self, process: str, at: float, changes: list[tuple[bytes, float]]) -> None:
        """A process could read by then that these keys had changed, each when it did."""


class SimulatedServer:
    """Serves all connections of a network.

    As Redis does, it executes what has arrived, and sends replies and news at the end of the turn: so
    all that it says is in the order in which it happened, and news may stand behind the reply to a
    command that came later.
    """

    def __init__(self, network: Network, witness: Executed) -> None:
        self.is_up = True
        self.store = Store()
        self.trouble: bytes | None = None
        """What it answers to all but PING, where that is an error."""
        self._network = network
        self._witness = witness
        self._readers: dict[Connection, Any] = {}
        self._replies: dict[Connection, bytearray] = {}
        self._told: dict[Connection, bytes] = {}
        """Who is told of changes, with the prefix of the keys."""
        self._news: list[tuple[bytes, float]] = []
        self._scripts: dict[bytes, bytes] = {}
        """The script cache: sources by digest."""
        self._in_turn = False

    def received(self, connection: Connection, data: bytes) -> None:
        """Execute what is whole."""
        if not self.is_up:
            return
        reader = self._readers.get(connection)
        if reader is None:
            reader = self._readers[connection] = hiredis.Reader(notEnoughData=_NOTHING)
        reader.feed(data)
        while (words := reader.gets()) is not _NOTHING:
            self._replies.setdefault(connection, bytearray()).extend(
                self._answer(connection, words)
            )
        self._end_turn_soon()

    def left(self, connection: Connection) -> None:
        """Forget a client."""
        self._readers.pop(connection, None)
        self._replies.pop(connection, None)
        self._told.pop(connection, None)

    def crash(self, *, loses_data: bool) -> None:
        """Go away."""
        self.is_up = False
        if loses_data:
            self.change(self.store.flush)
        self._news.clear()
        self._replies.clear()
        self._scripts.clear()
        for connection in tuple(self._network.connections):
            connection.cut()

    def change(self, change: Any) -> None:
        """Do something to the keys that no client has asked for."""
        self.store.now = self._network.now
        change()
        self._note([b"server"])
        self._end_turn_soon()

    def _answer(self, connection: Connection, words: list[bytes]) -> bytes:
        self.store.now = self._network.now
        name = words[0]
        if self.trouble is not None and name not in {b"CLIENT", b"PING"}:
            return b"-" + self.trouble + b"\r\n"
        if name == b"CLIENT":
            assert words[1:4] == [b"TRACKING", b"ON", b"BCAST"]
            self._told[connection] = words[5] if len(words) > 4 else b""
            return b"+OK\r\n"
        try:
            words = self._with_source(words)
            reply = self.store.execute(words)
        except RefusedError as error:
            # It has changed no more than what the store says.
            reply, words = error, [b"refused"]
        self._note(words)
        return _packed(reply)

    def _with_source(self, words: list[bytes]) -> list[bytes]:
        """The command, where EVALSHA has become an EVAL of the cached script."""
        name = words[0]
        if name == b"EVAL":
            digest = sha1(words[1], usedforsecurity=False).hexdigest().encode()
            self._scripts[digest] = words[1]
        elif name == b"EVALSHA":
            if words[1] not in self._scripts:
                raise RefusedError("NOSCRIPT No matching script. Please use EVAL.")
            return [b"EVAL", self._scripts[words[1]], *words[2:]]
        return words

    def _note(self, words: list[bytes]) -> None:
        self._witness.executed(words, self.store)
        self._news.extend((key, self._network.now) for key in self.store.changed)
        self.store.changed.clear()
        self.store.expired.clear()
        self.store.stored.clear()

    def _end_turn_soon(self) -> None:
        if not self._in_turn:
            self._in_turn = True
            takes = self._network.chance.random() * _LONGEST_TURN
            self._network.at(self._network.now + takes, self._end_turn)

    def _end_turn(self) -> None:
        self._in_turn = False
        news, self._news = self._news, []
        replies, self._replies = self._replies, {}
        for connection, prefix in tuple(self._told.items()):
            own = [change for change in news if change[0].startswith(prefix)]
            if own:
                keys = list(dict.fromkeys(key for key, _ in own))
                self._tell(connection, bytes(replies.pop(connection, b"")), keys, own)
        for connection, data in tuple(replies.items()):
            connection.to_client(bytes(data))

    def _tell(
        self,
        connection: Connection,
        before: bytes,
        keys: list[bytes],
        own: list[tuple[bytes, float]],
    ) -> None:
        def arrived(at: float) -> None:
            self._witness.news_arrived(connection.process, at, own)

        push = b">2\r\n$10\r\ninvalidate\r\n" + _packed(keys)
        connection.to_client(before + push, arrived)


def _packed(reply: Any) -> bytes:
    if isinstance(reply, Status):
        return b"+%b\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, RefusedError):
        return b"-%b\r\n" % str(reply).encode()
    if reply is None:
        return b"$-1\r\n"
    parts: list[Any] = reply
    return b"*%d\r\n" % len(parts) + b"".join(map(_packed, parts))
