"""One connection, driven by callbacks: bytes out, replies in, one exchange at a time.

redis-py connects, encrypts and logs in; then a protocol of ours takes over the connection's
transport. So no task ever owns a connection, a caller that is cancelled has nothing to leave
behind, and a dead peer is noticed when it dies and not when it is next used.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection as Connection

from async_redis_cache._common.failures import (
    LOST,
    TOO_LARGE,
    UNEXPECTED_REPLY,
    Failure,
    ServerReply,
)

from .reply_limits import ReplyLimits, ReplyTooLargeError

__all__ = [
    "NOTHING_YET",
    "Connection",
    "RedisConnection",
    "ReplyHandler",
    "RespProtocol",
    "pack",
]

pack: Final = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

NOTHING_YET: Final = object()
"""What the reader gives when a reply is not whole."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class RespProtocol(asyncio.Protocol):
    """The transport of a connection, and a reader of replies.

    Args:
        connection: connected and logged in by redis-py, and idle.
        is_exact: see `ReplyBounds`.
    """

    def __init__(self, connection: Connection, *, is_exact: bool = False) -> None:
        self.connection = connection
        # redis-py has no public way to the transport; the range of its versions in pyproject.toml
        # is the range that this was tested on.
        writer: Any = connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._transport: Any = writer.transport
        self._stream: asyncio.BaseProtocol = self._transport.get_protocol()
        reader: Any = hiredis.Reader(notEnoughData=NOTHING_YET, replyError=ServerReply)
        self._reader = ReplyLimits(reader, is_exact=is_exact)
        self._socket: Any = self._transport.get_extra_info("socket")
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)
        self._transport.set_protocol(self)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the server, as they were dialed."""
        connection: Any = self.connection
        return getattr(connection, "host", ""), getattr(connection, "port", 0)

    def is_closing(self) -> bool:
        """Whether it has ended, or is about to."""
        return bool(self._transport.is_closing())

    def has_unread(self) -> bool:
        """Whether the socket holds something that the loop has not read yet."""
        return bool(self._poll.poll(0))

    def abort(self) -> None:
        """End the connection now. What is not yet on its way is never sent, by the kernel neither.

        A polite close would send it later: a write that has timed out could then overwrite a
        newer one.
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def abandon(self) -> None:
        """End the connection though the loop is closed, which alone could close the transport."""
        # uvloop has closed its transports with the loop, and has neither of these. asyncio's keeps
        # the descriptor until it is collected, and has no other way to close it; nor has TLS above.
        with contextlib.suppress(OSError, TypeError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if (descriptor := getattr(self._socket, "_sock", None)) is not None:
            descriptor.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Let redis-py's stream know, or whoever closes it waits for ever; called by the loop."""
        # Without the reason, which nobody asks the stream for: asyncio would log that it was not.
        self._stream.connection_lost(None)


class ReplyHandler(Protocol):
    """What a wire is sent with, and whom it tells how it went: one of the two, once."""

    def on_replies(self, replies: list[Any]) -> bool:
        """All replies are here, in the order of the commands. Says whether they make sense."""
        ...

    def on_connection_lost(self, failure: Failure) -> None:
        """The connection ended first. What was sent may have been executed."""
        ...


class RedisConnection(RespProtocol):
    """A connection to the server that carries one exchange at a time.

    Args:
        connection: see `Takeover`.
        freed: called when an exchange has ended well and the next may begin.
        lost: called once, when the connection is gone.
        bytes_a_key: most bytes of replies for each key that an exchange is about.
    """

    def __init__(
        self,
        connection: Connection,
        freed: Callable[[RedisConnection], None],
        lost: Callable[[RedisConnection], None],
        *,
        bytes_a_key: int,
    ) -> None:
        super().__init__(connection, is_exact=True)
        self.has_served = False
        self.retires_at = math.inf
        """From when on nothing more is sent on it, by the loop's clock."""
        self.received = 0
        """Bytes of replies to the last exchange."""
        self._bytes_a_key = bytes_a_key
        self._freed = freed
        self._lost = lost
        self._errand: ReplyHandler | None = None
        self._expected = 0
        self._replies: list[Any] = []

    def send(
        self,
        payload: bytes,
        expected: int,
        errand: ReplyHandler,
        *,
        keys: int,
        more: tuple[int, int],
    ) -> None:
        """Send commands that have `expected` replies in all, and report to `errand`.

        Args:
            payload: the commands.
            expected: how many replies they have.
            errand: who is told.
            keys: how many keys they are about.
            more: how many bytes, and elements, the replies may have beside those of the keys.
        """
        self._errand = errand
        self._expected = expected
        self._replies = []
        self.received = 0
        most_bytes, elements = more
        self._reader.expect(keys * self._bytes_a_key + most_bytes, 2 * keys + elements)
        self._transport.write(payload)

    def abort(self) -> None:
        """End the connection now; nobody is told of what was under way."""
        self._errand = None
        super().abort()

    def drop(self) -> None:
        """End the connection now, as if the server had: whoever waits for it is told."""
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Collect replies; called by the loop."""
        errand = self._errand
        if errand is None:
            # A reply that nobody has asked for: it would be taken for the next one's.
            self.abort()
            return
        self.received += len(data)
        failure = UNEXPECTED_REPLY
        reader = self._reader
        replies = self._replies
        expected = self._expected
        try:
            reader.feed(data)
            while len(replies) < expected:
                reply = reader.gets()
                if reply is NOTHING_YET:
                    return
                replies.append(reply)
            whole = not reader.has_data()
        except ReplyTooLargeError:
            whole, failure = False, TOO_LARGE
        except Exception:  # noqa: BLE001  hiredis has errors of its own, and lets Python's through, of a key without a hash
            whole = False
        self._errand = None
        self._replies = []
        if whole and errand.on_replies(replies):
            self._freed(self)
        else:
            # Whose replies these are is not known any more, nor whose the next would be.
            self.abort()
            errand.on_connection_lost(failure)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report what is left undone; called by the loop, once."""
        super().connection_lost(exc)
        errand, self._errand = self._errand, None
        self._lost(self)
        if errand is not None:
            errand.on_connection_lost(LOST)
