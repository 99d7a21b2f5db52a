"""A connection that redis-py has made, driven from then on by callbacks of ours.

redis-py connects, encrypts and logs in; then a protocol of ours takes over the connection's
transport. So no task ever owns a connection, a caller that is cancelled has nothing to leave
behind, and a dead peer is noticed when it dies and not when it is next used.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import AbstractConnection as Connection

from async_redis_cache._common.failures import ServerReply

from .reply_limits import ReplyLimits

__all__ = ["NOTHING_YET", "Connection", "RespProtocol", "pack"]

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
