"""Commands: how requests are encoded, and how replies become answers.

A command encodes all requests of its kind in a pipeline at once, so that it can merge them.
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
"""A key, its data, and its TTL in milliseconds."""


class UnexpectedReplyError(Exception):
    """A reply that does not fit the command: replies and requests no longer match on this connection."""


class Command(Protocol):
    """A kind of request. Its methods are pure functions, without I/O and state."""

    is_write: bool
    """Whether it changes data, so that the outcome is unknown if the reply is lost."""
    coalesces: bool = False
    """Whether requests with the same argument may share an answer."""
    reply_limit: tuple[int, int] = (64 * 1024, 64)
    """The maximum number of bytes and of elements in all replies of a pipeline, in addition to a value and two elements
    for each key."""
    merges: bool = False
    """Whether requests share a Redis command, so that an error for one of them is the error of all."""
    runs_once: bool = False
    """Whether it is never sent again after an attempt that may have been executed."""

    script: bytes | None = None
    """The Lua source of its EVALs, which may then be sent as EVALSHA; None to send every command as it is."""

    def encode(self, arguments: Sequence[Any]) -> list[CommandArgs]:
        """Encode all these requests as Redis commands; each has one reply."""
        ...

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """Return an answer or a `ServerReply` for each request.

        Raises:
            UnexpectedReplyError: the replies do not fit the commands.
        """
        ...

    def routing_key(self, argument: Any) -> bytes | None:
        """A key of the request, which determines the cluster node; None if any node can reply."""
        while argument and not isinstance(argument, bytes):
            argument = argument[0]
        return argument or None

    @property
    def per_key(self) -> Command:
        """The variant that does not merge requests, whose keys may be in different slots of a cluster."""
        return self

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """Whether the answer is correct even if an earlier attempt, whose reply was lost, was executed."""
        ...


class Script(Command):
    """A script on one key, called once for each request. It must be idempotent.

    The argument is (key, arguments of the script ...).

    Args:
        source: the Lua source.
        kinds: the types that its reply can have.
    """

    is_write = True

    def __init__(self, source: bytes, kinds: tuple[type, ...] = (int,)) -> None:
        self.script = self._source = source
        self._kinds = kinds

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        """One EVAL for each request."""
        return [(b"EVAL", self._source, 1, *argument) for argument in arguments]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """The replies, if they have one of the types."""
        for reply in replies:
            if not isinstance(reply, (ServerReply, *self._kinds)):
                raise UnexpectedReplyError
        return replies

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """The script is idempotent."""
        return True


class Executor(Protocol):
    """Sends requests to the server, or to the cluster node that has the key."""

    max_keys_per_request: int
    """The maximum number of keys of one request."""

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
        """See `Batcher.execute`."""
        ...


def expect_parts(reply: Any, count: int, kinds: frozenset[type]) -> Sequence[Any]:
    """Return the reply if it is a list of this length with elements of these types.

    Raises:
        UnexpectedReplyError: it is not.
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
    # EVALSHA requires SHA-1. It identifies the script, and protects nothing.
    return sha1(source, usedforsecurity=False).hexdigest().encode()
