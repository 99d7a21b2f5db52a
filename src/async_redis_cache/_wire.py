"""One connection, driven by callbacks: bytes out, replies in, one exchange at a time.

redis-py connects, encrypts and logs in; then this protocol takes over the connection's transport.
So no task ever owns a connection, a caller that is cancelled has nothing to leave behind, and a
dead peer is noticed when it dies and not when it is next used.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection as Connection

from ._failures import LOST, MISREAD, Failure, ServerReply

__all__ = ["Connection", "Errand", "Wire", "pack"]

pack: Final = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]

_NOTHING_YET: Final = object()
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Errand(Protocol):
    """What a wire is sent with, and whom it tells how it went: one of the two, once."""

    def answered(self, replies: list[Any]) -> bool:
        """All replies are here, in the order of the commands. Says whether they make sense."""
        ...

    def broken(self, failure: Failure) -> None:
        """The connection ended first. What was sent may have been executed."""
        ...


class Wire(asyncio.Protocol):
    """A connection to the server that carries one exchange at a time.

    Args:
        connection: connected and logged in by redis-py, and idle.
        freed: called when an exchange has ended well and the next may begin.
        lost: called once, when the connection is gone.
    """

    def __init__(
        self,
        connection: Connection,
        freed: Callable[[Wire], None],
        lost: Callable[[Wire], None],
    ) -> None:
        self.connection = connection
        self.has_served = False
        self.received = 0
        """Bytes of replies to the last exchange."""
        self._freed = freed
        self._lost = lost
        # redis-py has no public way to the transport; the range of its versions in pyproject.toml
        # is the range that this was tested on.
        writer: Any = connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._transport: Any = writer.transport
        self._stream: asyncio.BaseProtocol = self._transport.get_protocol()
        self._reader: Any = hiredis.Reader(notEnoughData=_NOTHING_YET, replyError=ServerReply)
        self._errand: Errand | None = None
        self._expected = 0
        self._replies: list[Any] = []
        self._socket: Any = self._transport.get_extra_info("socket")
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)
        self._transport.set_protocol(self)

    def is_closing(self) -> bool:
        """Whether it has ended, or is about to."""
        return bool(self._transport.is_closing())

    def has_unread(self) -> bool:
        """Whether the socket holds something that the loop has not read yet.

        On an idle connection that may be a reply that nobody has asked for, which would be taken
        for the next one's, or the peer's farewell, or, under TLS, just a session ticket. When the
        loop has read it, we know.
        """
        return bool(self._poll.poll(0))

    def send(self, payload: bytes, expected: int, errand: Errand) -> None:
        """Send commands that have `expected` replies in all, and report to `errand`."""
        self._errand = errand
        self._expected = expected
        self._replies = []
        self.received = 0
        self._transport.write(payload)

    def abort(self) -> None:
        """End the connection now. What is not yet on its way is never sent, by the kernel neither.

        A polite close would send it later: a write that has timed out could then overwrite a
        newer one.
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._errand = None
        self._transport.abort()

    def abandon(self) -> None:
        """End the connection though the loop is closed, which alone could close the transport."""
        # uvloop has closed its transports with the loop, and has neither of these. asyncio's keeps
        # the descriptor until it is collected, and has no other way to close it.
        with contextlib.suppress(OSError, TypeError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if (descriptor := getattr(self._transport, "_sock", None)) is not None:
            descriptor.close()

    def data_received(self, data: bytes) -> None:
        """Collect replies; called by the loop."""
        errand = self._errand
        if errand is None:
            # A reply that nobody has asked for: it would be taken for the next one's.
            self.abort()
            return
        self.received += len(data)
        reader = self._reader
        replies = self._replies
        expected = self._expected
        try:
            reader.feed(data)
            while len(replies) < expected:
                reply = reader.gets()
                if reply is _NOTHING_YET:
                    return
                replies.append(reply)
            whole = not reader.has_data()
        except hiredis.HiredisError:
            whole = False
        self._errand = None
        self._replies = []
        if whole and errand.answered(replies):
            self._freed(self)
        else:
            # Whose replies these are is not known any more, nor whose the next would be.
            self.abort()
            errand.broken(MISREAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report what is left undone; called by the loop, once."""
        # Let redis-py's stream know, or whoever closes it waits for ever.
        self._stream.connection_lost(exc)
        errand, self._errand = self._errand, None
        self._lost(self)
        if errand is not None:
            errand.broken(LOST)
