"""The verbs that read data, the same for every cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from async_redis_cache._common.failures import ServerReply

from .command import Command, MisreadError, Verb, expect_parts

__all__ = ["READ", "READ_MANY", "READ_MANY_WITH_LIFE", "READ_WITH_LIFE", "UNKNOWN_LIFE"]

UNKNOWN_LIFE: Final = -2
"""What PTTL says of a key that is not there, and we of one whose life it would not tell."""


class _Read(Verb):
    """Single keys, merged into one MGET, which also tells a stray reply from an answer."""

    changes = False
    joins = True
    merges = True

    def commands(self, arguments: Sequence[bytes]) -> list[Command]:
        return [(b"MGET", *arguments)]

    def answers(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        (reply,) = replies
        if isinstance(reply, ServerReply):
            return [reply] * len(arguments)
        return expect_parts(reply, len(arguments), _DATA)

    @property
    def apart(self) -> Verb:
        return _READ_APART

    def conclusive(self, argument: bytes, answer: Any) -> bool:
        return True


class _ReadApart(_Read):
    """Single keys, each with an MGET of its own."""

    merges = False

    def commands(self, arguments: Sequence[bytes]) -> list[Command]:
        return [(b"MGET", key) for key in arguments]

    def answers(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else expect_parts(reply, 1, _DATA)[0]
            for reply in replies
        ]


class _ReadMany(Verb):
    """Several keys of one caller, in one MGET of its own."""

    changes = False

    def commands(self, arguments: Sequence[Sequence[bytes]]) -> list[Command]:
        return [(b"MGET", *keys) for keys in arguments]

    def answers(
        self, arguments: Sequence[Sequence[bytes]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else expect_parts(reply, len(keys), _DATA)
            for keys, reply in zip(arguments, replies, strict=True)
        ]

    def conclusive(self, argument: Sequence[bytes], answer: Any) -> bool:
        return True


class _ReadWithLife(_Read):
    """Single keys, each with the milliseconds that it has left, as PTTL says it."""

    def commands(self, arguments: Sequence[bytes]) -> list[Command]:
        return [(b"MGET", *arguments), *((b"PTTL", key) for key in arguments)]

    def answers(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        data = super().answers(arguments, replies[:1])
        return _with_life(data, replies[1:])

    @property
    def apart(self) -> Verb:
        return _READ_WITH_LIFE_APART


class _ReadWithLifeApart(_ReadWithLife):
    """Single keys, each with an MGET of its own, and with the milliseconds that it has left."""

    merges = False

    def commands(self, arguments: Sequence[bytes]) -> list[Command]:
        return [command for key in arguments for command in ((b"MGET", key), (b"PTTL", key))]

    def answers(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            _with_life(_READ_APART.answers([key], [data]), [left])[0]
            for key, data, left in zip(arguments, replies[::2], replies[1::2], strict=True)
        ]


class _ReadManyWithLife(_ReadMany):
    """Several keys of one caller, each with the milliseconds that it has left."""

    def commands(self, arguments: Sequence[Sequence[bytes]]) -> list[Command]:
        return [command for keys in arguments for command in READ_WITH_LIFE.commands(keys)]

    def answers(
        self, arguments: Sequence[Sequence[bytes]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        answers: list[Any] = []
        start = 0
        for keys in arguments:
            (data,) = super().answers([keys], replies[start : start + 1])
            left = replies[start + 1 : start + 1 + len(keys)]
            refused = isinstance(data, ServerReply)
            answers.append(data if refused else _with_life(data, left))
            start += 1 + len(keys)
        return answers


_DATA: Final[frozenset[type]] = frozenset({bytes, type(None)})
_LIFE: Final[frozenset[type]] = frozenset({int, ServerReply})


def _with_life(data: Sequence[Any], left: Sequence[Any]) -> list[Any]:
    """Pairs of data and milliseconds; a `ServerReply` instead of a pair where there is no data."""
    if not _LIFE.issuperset(map(type, left)):
        raise MisreadError
    if isinstance(data[0], ServerReply):
        return list(data)
    if ServerReply in map(type, left):
        left = [UNKNOWN_LIFE if isinstance(life, ServerReply) else life for life in left]
    if min(left) < UNKNOWN_LIFE:
        raise MisreadError
    return list(zip(data, left, strict=True))


_READ_APART: Final[Verb] = _ReadApart()
_READ_WITH_LIFE_APART: Final[Verb] = _ReadWithLifeApart()
READ: Final[Verb] = _Read()
READ_MANY: Final[Verb] = _ReadMany()
READ_WITH_LIFE: Final[Verb] = _ReadWithLife()
READ_MANY_WITH_LIFE: Final[Verb] = _ReadManyWithLife()
