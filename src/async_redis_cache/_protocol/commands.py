"""The verbs of every cache that do not read data, and those that change a cache without a bound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from async_redis_cache._common.failures import ServerReply, failure_of

from .command import Command, CommandArgs, StoreItem, UnexpectedReplyError, expect_parts
from .record import HEADER_BYTES, HEADER_SCRIPT

__all__ = [
    "GET",
    "GETDEL",
    "GET_WITH_TTL",
    "MGET",
    "MGET_WITH_TTL",
    "PEXPIRE",
    "PING",
    "PTTL",
    "SCAN",
    "SET",
    "TIME",
    "TOUCH_RECORD",
    "UNKNOWN_TTL",
    "UNLINK",
    "UNLINK_COUNT",
]


UNKNOWN_TTL: Final = -2
"""What PTTL says of a key that is not there, and we of one whose life it would not tell."""
_TOUCH_SCRIPT: Final = HEADER_SCRIPT + b"return (touched(KEYS[1], tonumber(ARGV[1])))"


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


class _Scan(Command):
    """Steps of a scan: [the next cursor, the keys found]."""

    is_write = False
    # A thousand keys at a time, or some more, and their names.
    reply_limit = (4 * 1024 * 1024, 64 * 1024)

    def key(self, argument: Sequence[Any]) -> None:
        """A server is scanned."""

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        return [(b"SCAN", *argument) for argument in arguments]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        for reply in replies:
            if not isinstance(reply, ServerReply):
                cursor, keys = expect_parts(reply, 2, _STEP)
                # The cursor goes back to the server as it is.
                if not (isinstance(cursor, bytes) and _CURSOR.fullmatch(cursor)):
                    raise UnexpectedReplyError
                expect_parts(keys, len(keys), _KEYS)
        return replies

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        return True


class _SimpleCommand(Command):
    """Calls that are not merged: the argument holds the command's arguments, the reply answers.

    Args:
        name: the command.
        can_be: whether a reply can be one to this argument.
        changes: see `Verb`.
    """

    def __init__(
        self, name: bytes, can_be: Callable[[Sequence[Any], Any], bool], *, changes: bool
    ) -> None:
        self.is_write = changes
        self._name = name
        self._can_be = can_be

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        return [(self._name, *argument) for argument in arguments]

    def parse_replies(
        self, arguments: Sequence[Sequence[Any]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        for argument, reply in zip(arguments, replies, strict=True):
            if not (isinstance(reply, ServerReply) or self._can_be(argument, reply)):
                raise UnexpectedReplyError
        return replies

    def retry_safe(self, argument: Sequence[Any], answer: Any) -> bool:
        return True


class _GetDel(_SimpleCommand):
    """Removal that answers with what was removed, which only the first try can."""

    def retry_safe(self, argument: Sequence[Any], answer: Any) -> bool:
        return answer is not None


class _UnlinkCount(_SimpleCommand):
    """Removal that counts, which only the first try can."""

    def retry_safe(self, argument: Sequence[Any], answer: Any) -> bool:
        return bool(answer == len(argument))


class _CommandWithHeader(_SimpleCommand):
    """One whose answer is for a value, together with the head of what stands there.

    An answer is (what the command says, the first bytes of the data).
    """

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        heads: list[CommandArgs] = [
            (b"GETRANGE", key, 0, HEADER_BYTES - 1) for key, *_ in arguments
        ]
        return [*super().encode(arguments), *heads]

    def parse_replies(
        self, arguments: Sequence[Sequence[Any]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        answers = super().parse_replies(arguments, replies[: len(arguments)])
        heads = replies[len(arguments) :]
        if not _HEADER.issuperset(map(type, heads)):
            raise UnexpectedReplyError
        return [
            answer
            if isinstance(answer, ServerReply)
            else head
            if isinstance(head, ServerReply) and failure_of(head).address is not None
            else (answer, _WRONG_TYPE if isinstance(head, ServerReply) else head)
            for answer, head in zip(answers, heads, strict=True)
        ]


class _Time(_SimpleCommand):
    """The server's time, in seconds since the epoch."""

    def parse_replies(
        self, arguments: Sequence[Sequence[Any]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else int(reply[0]) + int(reply[1]) / 1_000_000
            for reply in super().parse_replies(arguments, replies)
        ]


class _TouchRecord(_SimpleCommand):
    """A new life for a record: for how many milliseconds it stays, 0 where there is no value."""

    script = _TOUCH_SCRIPT

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        return [(b"EVAL", _TOUCH_SCRIPT, 1, key, life) for key, life in arguments]


class _Set(Command):
    """Entries, each with its expiry: one SET an entry."""

    is_write = True

    def encode(self, arguments: Sequence[Sequence[StoreItem]]) -> list[CommandArgs]:
        return [
            (b"SET", key, data, b"PX", life) for entries in arguments for key, data, life in entries
        ]

    def parse_replies(
        self, arguments: Sequence[Sequence[StoreItem]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        pending = iter(replies)
        answers: list[Any] = []
        for entries in arguments:
            own = [_expect_ok(next(pending)) for _ in entries]
            answers.append(next((one for one in own if one is not None), None))
        return answers

    def retry_safe(self, argument: Sequence[StoreItem], answer: Any) -> bool:
        return True


_DATA: Final[frozenset[type]] = frozenset({bytes, type(None)})
_TTL: Final[frozenset[type]] = frozenset({int, ServerReply})
_MOMENT: Final = re.compile(rb"[0-9]{1,12}")
"""A number of seconds, or of microseconds: a clock that is ahead by thousands of years is none."""
_CURSOR: Final = re.compile(rb"[0-9]{1,20}")
_WRONG_TYPE: Final = b"?"
"""Stands for the head of what another program keeps there and is no string: it is there, and no record."""
_HEADER: Final[frozenset[type]] = frozenset({bytes, ServerReply})
_STEP: Final[frozenset[type]] = frozenset({bytes, list})
_KEYS: Final[frozenset[type]] = frozenset({bytes})


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


def _expect_ok(reply: Any) -> ServerReply | None:
    if isinstance(reply, ServerReply):
        return reply
    if reply != b"OK":
        raise UnexpectedReplyError
    return None


def _is_number(reply: Any, least: int, most: float) -> bool:
    return isinstance(reply, int) and least <= reply <= most


def _is_flag(_: Sequence[Any], reply: Any) -> bool:
    return _is_number(reply, 0, 1)


def _is_count(keys: Sequence[Any], reply: Any) -> bool:
    return _is_number(reply, 0, len(keys))


def _is_time(_: Sequence[Any], reply: Any) -> bool:
    # -1: it never expires; -2: there is none.
    return _is_number(reply, -2, math.inf)


def _is_data(_: Sequence[Any], reply: Any) -> bool:
    return reply is None or isinstance(reply, bytes)


def _is_moment(_: Sequence[Any], reply: Any) -> bool:
    return (
        isinstance(reply, list)
        and len(reply) == 2  # pyright: ignore[reportUnknownArgumentType]
        and all(isinstance(part, bytes) and _MOMENT.fullmatch(part) for part in reply)  # pyright: ignore[reportUnknownVariableType]
    )


def _is_pong(_: Sequence[Any], reply: Any) -> bool:
    return bool(reply == b"PONG")


_GET_PER_KEY: Final[Command] = _GetPerKey()
_GET_WITH_TTL_PER_KEY: Final[Command] = _GetWithTtlPerKey()
GET: Final[Command] = _Get()
MGET: Final[Command] = _Mget()
GET_WITH_TTL: Final[Command] = _GetWithTtl()
MGET_WITH_TTL: Final[Command] = _MgetWithTtl()
SET: Final[Command] = _Set()
GETDEL: Final[Command] = _GetDel(b"GETDEL", _is_data, changes=True)
UNLINK_COUNT: Final[Command] = _UnlinkCount(b"UNLINK", _is_count, changes=True)
UNLINK: Final[Command] = _SimpleCommand(b"UNLINK", _is_count, changes=True)
PEXPIRE: Final[Command] = _CommandWithHeader(b"PEXPIRE", _is_flag, changes=True)
PTTL: Final[Command] = _CommandWithHeader(b"PTTL", _is_time, changes=False)
TOUCH_RECORD: Final[Command] = _TouchRecord(b"EVAL", _is_time, changes=True)
TIME: Final[Command] = _Time(b"TIME", _is_moment, changes=False)
SCAN: Final[Command] = _Scan()
PING: Final[Command] = _SimpleCommand(b"PING", _is_pong, changes=False)
