"""Verbs that are a script on one key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from async_redis_cache._common.failures import ServerReply

from .command import Command, CommandArgs, UnexpectedReplyError

__all__ = ["Script"]


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
