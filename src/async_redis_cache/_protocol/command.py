"""What is said to the server: how calls become commands, and replies become answers.

A verb sees the calls of one exchange that are of its kind, so it can merge them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from typing import Any, Protocol

from async_redis_cache._common.failures import ServerReply

__all__ = [
    "Command",
    "CommandArgs",
    "Executor",
    "Script",
    "StoreItem",
    "UnexpectedReplyError",
    "as_evalsha",
    "expect_parts",
]

CommandArgs = tuple[bytes | int, ...]
StoreItem = tuple[bytes, bytes, int]
"""A key, its data, and its life in milliseconds."""


class UnexpectedReplyError(Exception):
    """A reply that cannot be one to what was asked: the connection is out of step."""


class Command(Protocol):
    """One kind of call. Its functions are pure: nothing here does I/O or keeps state."""

    is_write: bool
    """Whether it changes the server, so that a lost reply leaves the outcome unknown."""
    coalesces: bool = False
    """Whether calls with the same argument may share one answer."""
    reply_limit: tuple[int, int] = (64 * 1024, 64)
    """Most bytes, and elements, that its replies may have in an exchange, beside a value, and two elements, for
    each key."""
    merges: bool = False
    """Whether calls share a command, so that what one is refused for is refused to all."""

    script: bytes | None = None
    """The Lua source of the EVALs among its commands, which may be sent as EVALSHA instead."""

    def encode(self, arguments: Sequence[Any]) -> list[CommandArgs]:
        """The commands for all these calls; each has one reply."""
        ...

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """An answer, or a `ServerReply`, for each call.

        Raises:
            MisreadError: the replies are not of the form that these commands have.
        """
        ...

    def key(self, argument: Any) -> bytes | None:
        """A key that a call is about, by which its server is found; None where any server will do."""
        while argument and not isinstance(argument, bytes):
            argument = argument[0]
        return argument or None

    @property
    def per_key(self) -> Command:
        """The same, for calls whose keys may be in different slots of a cluster."""
        return self

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """Whether the answer is right although an earlier try, whose reply was lost, may have run."""
        ...


class Script(Command):
    """A script on one key, one call each. A second run of the same call does no more than the first.

    The argument is (key, what the script takes ...).

    Args:
        source: in Lua.
        kinds: of replies that it can give.
    """

    is_write = True

    def __init__(self, source: bytes, kinds: tuple[type, ...] = (int,)) -> None:
        self.script = self._source = source
        self._kinds = kinds

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        """One EVAL a call."""
        return [(b"EVAL", self._source, 1, *argument) for argument in arguments]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """The replies as they are."""
        for reply in replies:
            if not isinstance(reply, (ServerReply, *self._kinds)):
                raise UnexpectedReplyError
        return replies

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """Which of two runs has answered makes no difference."""
        return True


class Executor(Protocol):
    """Who asks the server."""

    max_keys_per_request: int
    """Most keys that one call may be about."""

    def execute(
        self,
        command: Command,
        argument: Any,
        size: int,
        *,
        keys: int = 1,
        budget: float | None = None,
        retries: int | None = None,
    ) -> asyncio.Future[Any]:
        """See `Batcher.ask`."""
        ...


def expect_parts(reply: Any, count: int, kinds: frozenset[type]) -> Sequence[Any]:
    """The reply, if it is a list of so many, all of these types.

    Raises:
        MisreadError: it is not.
    """
    if not isinstance(reply, list):
        raise UnexpectedReplyError
    parts: list[Any] = reply  # pyright: ignore[reportUnknownVariableType]
    if len(parts) != count or not kinds.issuperset(map(type, parts)):
        raise UnexpectedReplyError
    return parts


def as_evalsha(command: CommandArgs) -> CommandArgs:
    """Replace the source in an EVAL by its digest. Other commands are returned unchanged."""
    name, source, *arguments = command if len(command) > 1 else (*command, b"")
    if name != b"EVAL" or not isinstance(source, bytes):
        return command
    return (b"EVALSHA", _digest_of(source), *arguments)


@cache
def _digest_of(source: bytes) -> bytes:
    # SHA-1 is what EVALSHA takes: the name of a script, and no protection.
    return sha1(source, usedforsecurity=False).hexdigest().encode()
