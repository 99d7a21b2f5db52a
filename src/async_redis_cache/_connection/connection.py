"""One connection, driven by callbacks: bytes out, replies in, one exchange at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from async_redis_cache._common.failures import LOST, TOO_LARGE, UNEXPECTED_REPLY, Failure

from .reply_limits import ReplyTooLargeError
from .resp_protocol import NOTHING_YET, Connection, RespProtocol

__all__ = ["RedisConnection", "ReplyHandler"]


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
