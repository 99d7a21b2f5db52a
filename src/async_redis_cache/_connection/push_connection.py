"""One connection on which a server tells what happens, believed only while it is proven alive."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from hiredis import PushNotification

from async_redis_cache._common.failures import (
    LOST,
    UNEXPECTED_REPLY,
    Failure,
    ServerReply,
    failure_of,
)

from .reply_limits import ReplyTooLargeError
from .resp_protocol import NOTHING_YET, Connection, RespProtocol, pack

__all__ = ["Probe", "PushConnection", "PushHandler", "expecting", "refusal_in"]

_BACKLOG_BYTES: Final = 1024 * 1024
"""Most bytes of one message: one that is longer names some ten thousand keys, all changed in one
turn of the server. To drop everything costs less, and memory and the loop's time stay bounded."""

_BACKLOG_ELEMENTS: Final = 128 * 1024
"""The same of elements: keys have some bytes."""


class Probe(NamedTuple):
    """What a server is asked, and the sign of life is that it answers.

    Attributes:
        commands: sent together.
        heed: takes the replies, one to each; why they are no answer, where they are none.
        subscription: a command in front of them that is answered by messages alone.
    """

    commands: Sequence[tuple[bytes, ...]]
    on_reply: Callable[[Sequence[Any]], Failure | None]
    subscription: tuple[bytes, ...] = ()


def expecting(answer: bytes, *command: bytes) -> Probe:
    """A question that has one right answer."""

    def heed(replies: Sequence[Any]) -> Failure | None:
        return None if [answer] == replies else refusal_in(replies) or UNEXPECTED_REPLY

    return Probe((command,), heed)


def refusal_in(replies: Sequence[Any]) -> Failure | None:
    """Why the server refuses a command, if it does."""
    return next((failure_of(reply) for reply in replies if isinstance(reply, ServerReply)), None)


class PushHandler(Protocol):
    """Who is told what a link brings."""

    probe: Probe
    """What is asked with each heartbeat."""

    def on_event(self, message: list[Any]) -> None:
        """A message of the server that nobody asked for.

        Raises:
            LookupError, TypeError, ValueError: it makes no sense. The link is given up.
        """
        ...

    def on_reply(self, moment: float) -> None:
        """Everything that has happened has been told; by that moment this will be said again."""
        ...

    def on_lost(self) -> None:
        """From now on nothing is told."""
        ...


class PushConnection(RespProtocol):
    """One connection, from before it is armed until it is lost.

    Args:
        connection: see `Takeover`.
        hearer: who is told.
        clock: seconds.
        patience: how many of them a sign of life is good for.
        armed: called once, with the first sign of life.
        lost: called once, when the connection is gone, with the reason.
    """

    def __init__(
        self,
        connection: Connection,
        handler: PushHandler,
        clock: Callable[[], float],
        patience: float,
        *,
        active: Callable[[PushConnection], None],
        lost: Callable[[PushConnection, Failure], None],
    ) -> None:
        super().__init__(connection)
        self._handler = handler
        self._clock = clock
        self._patience = patience
        self._active = active
        self._is_active = False
        self._lost = lost
        self._failure = LOST
        self._alive_until = clock() + patience
        self._asked: deque[tuple[float, Probe]] = deque()
        self._replies: list[Any] = []
        """To the question that was asked first, as far as they are here."""
        self._reader.expect(_BACKLOG_BYTES, _BACKLOG_ELEMENTS)

    def send_probe(self, question: Probe) -> None:
        """Ask for a sign of life."""
        self._asked.append((self._clock(), question))
        commands = filter(None, (question.subscription, *question.commands))
        self._transport.write(b"".join(map(pack, commands)))

    def is_overdue(self) -> bool:
        """Whether the last sign of life is too old to believe in it."""
        return self._clock() >= self._alive_until

    def has_unread(self) -> bool:
        """Whether something has come that has not been passed on, half a message included."""
        return self._reader.received > 0 or super().has_unread()

    def abort(self) -> None:
        """End the link now: what it would have told is not told any more."""
        self._handler.on_lost()
        super().abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what is told; called by the loop."""
        reader = self._reader
        try:
            reader.feed(data)
            while not self.is_closing() and (message := reader.gets()) is not NOTHING_YET:
                reader.expect(_BACKLOG_BYTES, _BACKLOG_ELEMENTS)
                if isinstance(message, PushNotification):
                    self._handler.on_event(message)
                else:
                    self._answered(message)
        except ReplyTooLargeError:
            self.abort()
        except Exception:  # noqa: BLE001  whatever a server says, it must not end in the loop's own log
            self._failure = UNEXPECTED_REPLY
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop, once."""
        super().connection_lost(exc)
        self._handler.on_lost()
        self._lost(self, self._failure)

    def _answered(self, reply: object) -> None:
        self._replies.append(reply)
        asked_at, question = self._asked[0]
        if len(self._replies) < len(question.commands):
            return
        self._asked.popleft()
        replies, self._replies = self._replies, []
        failure = question.on_reply(replies)
        if failure is not None:
            self._failure = failure
            self.abort()
        elif self.is_overdue():
            # Late: what was given meanwhile was rightly withheld, and begins anew.
            self.abort()
        else:
            # From when it was asked, not from when we came to read the answer: that may be long
            # after, when the process was stopped or its loop was busy.
            self._alive_until = asked_at + self._patience
            self._handler.on_reply(self._alive_until)
            if not self._is_active:
                self._is_active = True
                self._active(self)
