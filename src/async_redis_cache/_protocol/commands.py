"""The commands of all caches that read, and those of caches without a size limit that write."""

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
"""The reply of PTTL for a key that does not exist; also used if PTTL fails."""
_TOUCH_SCRIPT: Final = HEADER_SCRIPT + b"return (touched(KEYS[1], tonumber(ARGV[1])))"


class _Get(Command):
    """Get single keys, merged into one MGET, whose reply can be distinguished from that of another command."""

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
    """Get single keys, each with an MGET of its own."""

    merges = False

    def encode(self, arguments: Sequence[bytes]) -> list[CommandArgs]:
        return [(b"MGET", key) for key in arguments]

    def parse_replies(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else expect_parts(reply, 1, _DATA)[0]
            for reply in replies
        ]


class _Mget(Command):
    """Get several keys of one caller, with an MGET of its own."""

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
    """Get single keys with their TTLs in milliseconds, as PTTL replies."""

    def encode(self, arguments: Sequence[bytes]) -> list[CommandArgs]:
        return [(b"MGET", *arguments), *((b"PTTL", key) for key in arguments)]

    def parse_replies(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        data = super().parse_replies(arguments, replies[:1])
        return _with_ttl(data, replies[1:])

    @property
    def per_key(self) -> Command:
        return _GET_WITH_TTL_PER_KEY


class _GetWithTtlPerKey(_GetWithTtl):
    """Get single keys with their TTLs in milliseconds, each with an MGET of its own."""

    merges = False

    def encode(self, arguments: Sequence[bytes]) -> list[CommandArgs]:
        return [command for key in arguments for command in ((b"MGET", key), (b"PTTL", key))]

    def parse_replies(self, arguments: Sequence[bytes], replies: Sequence[Any]) -> Sequence[Any]:
        return [
            _with_ttl(_GET_PER_KEY.parse_replies([key], [data]), [ttl])[0]
            for key, data, ttl in zip(arguments, replies[::2], replies[1::2], strict=True)
        ]


class _MgetWithTtl(_Mget):
    """Get several keys of one caller with their TTLs in milliseconds."""

    def encode(self, arguments: Sequence[Sequence[bytes]]) -> list[CommandArgs]:
        return [command for keys in arguments for command in GET_WITH_TTL.encode(keys)]

    def parse_replies(
        self, arguments: Sequence[Sequence[bytes]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        answers: list[Any] = []
        start = 0
        for keys in arguments:
            (data,) = super().parse_replies([keys], replies[start : start + 1])
            ttls = replies[start + 1 : start + 1 + len(keys)]
            is_error = isinstance(data, ServerReply)
            answers.append(data if is_error else _with_ttl(data, ttls))
            start += 1 + len(keys)
        return answers


class _Scan(Command):
    """One step of a scan. The answer is [next cursor, keys]."""

    is_write = False
    # About a thousand keys of up to some hundred bytes.
    reply_limit = (4 * 1024 * 1024, 64 * 1024)

    def routing_key(self, argument: Sequence[Any]) -> None:
        """None: a scan is about a server, not a key."""

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        return [(b"SCAN", *argument) for argument in arguments]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        for reply in replies:
            if not isinstance(reply, ServerReply):
                cursor, keys = expect_parts(reply, 2, _STEP)
                # The cursor is sent back to the server unchanged.
                if not (isinstance(cursor, bytes) and _CURSOR.fullmatch(cursor)):
                    raise UnexpectedReplyError
                expect_parts(keys, len(keys), _KEYS)
        return replies

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        return True


class _SimpleCommand(Command):
    """A Redis command for each request. The argument contains its arguments, and the reply is the answer.

    Args:
        name: the Redis command.
        is_valid: whether a reply is valid for an argument.
        is_write: see `Command`.
    """

    def __init__(
        self, name: bytes, is_valid: Callable[[Sequence[Any], Any], bool], *, is_write: bool
    ) -> None:
        self.is_write = is_write
        self._name = name
        self._is_valid = is_valid

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        return [(self._name, *argument) for argument in arguments]

    def parse_replies(
        self, arguments: Sequence[Sequence[Any]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        for argument, reply in zip(arguments, replies, strict=True):
            if not (isinstance(reply, ServerReply) or self._is_valid(argument, reply)):
                raise UnexpectedReplyError
        return replies

    def retry_safe(self, argument: Sequence[Any], answer: Any) -> bool:
        return True


class _GetDel(_SimpleCommand):
    """Remove a key and answer with its value, which only the first attempt can."""

    def retry_safe(self, argument: Sequence[Any], answer: Any) -> bool:
        return answer is not None


class _UnlinkCount(_SimpleCommand):
    """Remove keys and answer with their number, which only the first attempt can."""

    def retry_safe(self, argument: Sequence[Any], answer: Any) -> bool:
        return bool(answer == len(argument))


class _CommandWithHeader(_SimpleCommand):
    """A command about a key, together with the header of its record.

    The answer is (reply of the command, first bytes of the data).
    """

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        headers: list[CommandArgs] = [
            (b"GETRANGE", key, 0, HEADER_BYTES - 1) for key, *_ in arguments
        ]
        return [*super().encode(arguments), *headers]

    def parse_replies(
        self, arguments: Sequence[Sequence[Any]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        answers = super().parse_replies(arguments, replies[: len(arguments)])
        headers = replies[len(arguments) :]
        if not _HEADER.issuperset(map(type, headers)):
            raise UnexpectedReplyError
        return [
            answer
            if isinstance(answer, ServerReply)
            else header
            if isinstance(header, ServerReply) and failure_of(header).address is not None
            else (answer, _WRONG_TYPE if isinstance(header, ServerReply) else header)
            for answer, header in zip(answers, headers, strict=True)
        ]


class _Time(_SimpleCommand):
    """Get the server's time, in seconds since the epoch."""

    def parse_replies(
        self, arguments: Sequence[Sequence[Any]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        return [
            reply if isinstance(reply, ServerReply) else int(reply[0]) + int(reply[1]) / 1_000_000
            for reply in super().parse_replies(arguments, replies)
        ]


class _TouchRecord(_SimpleCommand):
    """Set the TTL of a record. The answer is how many milliseconds it then remains on the server; 0 without a value."""

    script = _TOUCH_SCRIPT

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        return [(b"EVAL", _TOUCH_SCRIPT, 1, key, ttl) for key, ttl in arguments]


class _Set(Command):
    """Store values, each with a SET of its own."""

    is_write = True

    def encode(self, arguments: Sequence[Sequence[StoreItem]]) -> list[CommandArgs]:
        return [
            (b"SET", key, data, b"PX", ttl) for entries in arguments for key, data, ttl in entries
        ]

    def parse_replies(
        self, arguments: Sequence[Sequence[StoreItem]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        pending = iter(replies)
        answers: list[Any] = []
        for entries in arguments:
            own = [_expect_ok(next(pending)) for _ in entries]
            answers.append(next((error for error in own if error is not None), None))
        return answers

    def retry_safe(self, argument: Sequence[StoreItem], answer: Any) -> bool:
        return True


_DATA: Final[frozenset[type]] = frozenset({bytes, type(None)})
_TTL: Final[frozenset[type]] = frozenset({int, ServerReply})
_MOMENT: Final = re.compile(rb"[0-9]{1,12}")
"""Seconds or microseconds; more digits would be a clock that is thousands of years ahead."""
_CURSOR: Final = re.compile(rb"[0-9]{1,20}")
_WRONG_TYPE: Final = b"?"
"""Stands for the header of data that is not a string: the key exists, and holds no record."""
_HEADER: Final[frozenset[type]] = frozenset({bytes, ServerReply})
_STEP: Final[frozenset[type]] = frozenset({bytes, list})
_KEYS: Final[frozenset[type]] = frozenset({bytes})


def _with_ttl(data: Sequence[Any], ttls: Sequence[Any]) -> list[Any]:
    """Pairs of data and TTL, or the `ServerReply` for data that could not be read."""
    if not _TTL.issuperset(map(type, ttls)):
        raise UnexpectedReplyError
    if isinstance(data[0], ServerReply):
        return list(data)
    if ServerReply in map(type, ttls):
        ttls = [UNKNOWN_TTL if isinstance(ttl, ServerReply) else ttl for ttl in ttls]
    if min(ttls) < UNKNOWN_TTL:
        raise UnexpectedReplyError
    return list(zip(data, ttls, strict=True))


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
    # -1: the key does not expire; -2: it does not exist.
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
GETDEL: Final[Command] = _GetDel(b"GETDEL", _is_data, is_write=True)
UNLINK_COUNT: Final[Command] = _UnlinkCount(b"UNLINK", _is_count, is_write=True)
UNLINK: Final[Command] = _SimpleCommand(b"UNLINK", _is_count, is_write=True)
PEXPIRE: Final[Command] = _CommandWithHeader(b"PEXPIRE", _is_flag, is_write=True)
PTTL: Final[Command] = _CommandWithHeader(b"PTTL", _is_time, is_write=False)
TOUCH_RECORD: Final[Command] = _TouchRecord(b"EVAL", _is_time, is_write=True)
TIME: Final[Command] = _Time(b"TIME", _is_moment, is_write=False)
SCAN: Final[Command] = _Scan()
PING: Final[Command] = _SimpleCommand(b"PING", _is_pong, is_write=False)
