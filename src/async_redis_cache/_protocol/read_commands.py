"""The verbs that read data, the same for every cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from async_redis_cache._common.failures import ServerReply

from .command import Command, CommandArgs, UnexpectedReplyError, expect_parts

__all__ = ["GET", "GET_WITH_TTL", "MGET", "MGET_WITH_TTL", "UNKNOWN_TTL"]

UNKNOWN_TTL: Final = -2
"""What PTTL says of a key that is not there, and we of one whose life it would not tell."""


class _Get(Command):
    """Single keys, merged into one MGET, which also tells a stray reply from an answer."""

    is_write = False
    coalesces = True
    merges = True

    def encode(self, arguments: Sequence[bytes]) -> list[CommandArgs]:
        return [(b"MGET", *arguments)]

    def parse_replies(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        (reply,) = replies
        if isinstance(reply, ServerReply):
            return [reply] * len(arguments)
        return expect_parts(reply, len(arguments), _DATA)

    @property
    def per_key(self) -> Command:
        return _GET_PER_KEY

    def retry_safe(self, argument: bytes, answer: Any) -> bool:
        return True


class _GetPerKey(_Get):
    """Single keys, each with an MGET of its own."""

    merges = False

    def encode(self, arguments: Sequence[bytes]) -> list[CommandArgs]:
        return [(b"MGET", key) for key in arguments]

    def parse_replies(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else expect_parts(reply, 1, _DATA)[0]
            for reply in replies
        ]


class _Mget(Command):
    """Several keys of one caller, in one MGET of its own."""

    is_write = False

    def encode(self, arguments: Sequence[Sequence[bytes]]) -> list[CommandArgs]:
        return [(b"MGET", *keys) for keys in arguments]

    def parse_replies(
        self, arguments: Sequence[Sequence[bytes]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else expect_parts(reply, len(keys), _DATA)
            for keys, reply in zip(arguments, replies, strict=True)
        ]

    def retry_safe(self, argument: Sequence[bytes], answer: Any) -> bool:
        return True


class _GetWithTtl(_Get):
    """Single keys, each with the milliseconds that it has left, as PTTL says it."""

    def encode(self, arguments: Sequence[bytes]) -> list[CommandArgs]:
        return [(b"MGET", *arguments), *((b"PTTL", key) for key in arguments)]

    def parse_replies(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        data = super().parse_replies(arguments, replies[:1])
        return _with_ttl(data, replies[1:])

    @property
    def per_key(self) -> Command:
        return _GET_WITH_TTL_PER_KEY


class _GetWithTtlPerKey(_GetWithTtl):
    """Single keys, each with an MGET of its own, and with the milliseconds that it has left."""

    merges = False

    def encode(self, arguments: Sequence[bytes]) -> list[CommandArgs]:
        return [command for key in arguments for command in ((b"MGET", key), (b"PTTL", key))]

    def parse_replies(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            _with_ttl(_GET_PER_KEY.parse_replies([key], [data]), [left])[0]
            for key, data, left in zip(arguments, replies[::2], replies[1::2], strict=True)
        ]


class _MgetWithTtl(_Mget):
    """Several keys of one caller, each with the milliseconds that it has left."""

    def encode(self, arguments: Sequence[Sequence[bytes]]) -> list[CommandArgs]:
        return [command for keys in arguments for command in GET_WITH_TTL.encode(keys)]

    def parse_replies(
        self, arguments: Sequence[Sequence[bytes]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        answers: list[Any] = []
        start = 0
        for keys in arguments:
            (data,) = super().parse_replies([keys], replies[start : start + 1])
            left = replies[start + 1 : start + 1 + len(keys)]
            refused = isinstance(data, ServerReply)
            answers.append(data if refused else _with_ttl(data, left))
            start += 1 + len(keys)
        return answers


_DATA: Final[frozenset[type]] = frozenset({bytes, type(None)})
_TTL: Final[frozenset[type]] = frozenset({int, ServerReply})


def _with_ttl(data: Sequence[Any], left: Sequence[Any]) -> list[Any]:
    """Pairs of data and milliseconds; a `ServerReply` instead of a pair where there is no data."""
    if not _TTL.issuperset(map(type, left)):
        raise UnexpectedReplyError
    if isinstance(data[0], ServerReply):
        return list(data)
    if ServerReply in map(type, left):
        left = [UNKNOWN_TTL if isinstance(life, ServerReply) else life for life in left]
    if min(left) < UNKNOWN_TTL:
        raise UnexpectedReplyError
    return list(zip(data, left, strict=True))


_GET_PER_KEY: Final[Command] = _GetPerKey()
_GET_WITH_TTL_PER_KEY: Final[Command] = _GetWithTtlPerKey()
GET: Final[Command] = _Get()
MGET: Final[Command] = _Mget()
GET_WITH_TTL: Final[Command] = _GetWithTtl()
MGET_WITH_TTL: Final[Command] = _MgetWithTtl()
