"""One connection to the server, driven by callbacks, with one pipeline in flight at a time.

redis-py connects, negotiates TLS and logs in; then a protocol of this module takes over the transport. So no task owns
a connection, a cancelled caller cannot leave one in an undefined state, and a connection that the peer closes is
noticed at once instead of at its next use.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
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

from .platforms import RESET_ON_CLOSE, unread_check
from .redis_py import release_streams
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
"""Returned by the parser while a reply is incomplete."""


class RespProtocol(asyncio.Protocol):
    """The transport of a connection and the parser of its replies.

    Args:
        underlying: the connection of redis-py, logged in and idle.
        is_exact: see `ReplyLimits`.
    """

    def __init__(self, underlying: Connection, *, is_exact: bool = False) -> None:
        self.underlying = underlying
        # redis-py has no public access to the transport. Every version that pyproject.toml allows was tested.
        writer: Any = underlying._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        self._transport: Any = writer.transport
        self._stream: asyncio.BaseProtocol = self._transport.get_protocol()
        reader: Any = hiredis.Reader(notEnoughData=NOTHING_YET, replyError=ServerReply)
        self._reader = ReplyLimits(reader, is_exact=is_exact)
        self._socket: Any = self._transport.get_extra_info("socket")
        self._unread = unread_check(self._socket)
        self._transport.set_protocol(self)
        stream: Any = underlying._reader  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        if stream.at_eof():
            # The event loop has told redis-py only that the peer has closed it, and would never tell this protocol.
            self._transport.abort()

    @property
    def address(self) -> tuple[str, int]:
        """The host and port of the server, as given to redis-py."""
        underlying: Any = self.underlying
        return getattr(underlying, "host", ""), getattr(underlying, "port", 0)

    def is_closing(self) -> bool:
        """Whether the connection is closed or closing."""
        return bool(self._transport.is_closing())

    def has_unread(self) -> bool:
        """Whether the socket has data that the event loop has not read yet."""
        return bool(self._unread())

    def abort(self) -> None:
        """Reset the connection now, so that unsent data is discarded by the kernel too.

        An orderly close would still send it, and a write that has timed out could overwrite a newer one.
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    def abandon(self) -> None:
        """Close the socket when the event loop is already closed, and cannot close the transport."""
        # uvloop closes its transports with the loop, and its sockets have neither method. asyncio's transports, TLS
        # included, keep the descriptor open until they are collected, and offer no other way to close it.
        with contextlib.suppress(OSError, TypeError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if (descriptor := getattr(self._socket, "_sock", None)) is not None:
            descriptor.close()
        release_streams(self.underlying)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Notify the stream of redis-py, or closing it would wait forever. Called by the event loop."""
        # Without the exception: nothing retrieves it from the stream, and asyncio would log that.
        self._stream.connection_lost(None)


class ReplyHandler(Protocol):
    """Receives the outcome of one pipeline: exactly one of the two methods is called, once."""

    def on_replies(self, replies: list[Any]) -> bool:
        """Take all replies, in the order of the commands; return False if they do not fit the commands."""
        ...

    def on_connection_lost(self, failure: Failure) -> None:
        """The connection ended before all replies were read. The commands may have been executed."""
        ...


class RedisConnection(RespProtocol):
    """A connection that carries one pipeline at a time.

    Args:
        underlying: see `RespProtocol`.
        on_free: called when a pipeline has succeeded and the next may be sent.
        on_lost: called once, when the connection has ended.
        max_bytes_per_key: limit on the bytes of replies, for each key of a pipeline.
    """

    def __init__(
        self,
        underlying: Connection,
        on_free: Callable[[RedisConnection], None],
        on_lost: Callable[[RedisConnection], None],
        *,
        max_bytes_per_key: int,
    ) -> None:
        super().__init__(underlying, is_exact=True)
        self.has_served = False
        self.retires_at = math.inf
        """Time on the event loop's clock from which the connection is not used any more."""
        self.received_bytes = 0
        """Bytes of replies to the last pipeline."""
        self._max_bytes_per_key = max_bytes_per_key
        self._on_free = on_free
        self._on_lost = on_lost
        self._handler: ReplyHandler | None = None
        self._expected = 0
        self._replies: list[Any] = []

    @property
    def is_busy(self) -> bool:
        """Whether replies to a pipeline are still to come."""
        return self._handler is not None

    def send(
        self,
        payload: bytes,
        expected: int,
        handler: ReplyHandler,
        *,
        keys: int,
        extra: tuple[int, int],
    ) -> None:
        """Send a pipeline.

        Args:
            payload: the encoded commands.
            expected: number of replies.
            handler: receives the outcome.
            keys: number of keys in the commands.
            extra: bytes and elements that the replies may have in addition to those of the keys.
        """
        self._handler = handler
        self._expected = expected
        self._replies = []
        self.received_bytes = 0
        extra_bytes, extra_elements = extra
        self._reader.expect(keys * self._max_bytes_per_key + extra_bytes, 2 * keys + extra_elements)
        self._transport.write(payload)

    def abort(self) -> None:
        """Reset the connection without calling the handler of the pipeline in flight."""
        self._handler = None
        super().abort()

    def drop(self) -> None:
        """Reset the connection as if the server had: the handler of the pipeline in flight is called."""
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Collect replies. Called by the event loop."""
        handler = self._handler
        if handler is None:
            # An unsolicited reply: it would be taken for the first reply to the next pipeline.
            self.abort()
            return
        self.received_bytes += len(data)
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
            is_complete = not reader.has_data()
        except ReplyTooLargeError:
            is_complete, failure = False, TOO_LARGE
        except Exception:  # noqa: BLE001  errors of hiredis, and Python's for an unhashable key
            is_complete = False
        self._handler = None
        self._replies = []
        if is_complete and handler.on_replies(replies):
            self._on_free(self)
        else:
            # Replies can no longer be assigned to commands on this connection.
            self.abort()
            handler.on_connection_lost(failure)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end to the owner and to the pipeline in flight. Called by the event loop, once."""
        super().connection_lost(exc)
        handler, self._handler = self._handler, None
        self._on_lost(self)
        if handler is not None:
            handler.on_connection_lost(LOST)
