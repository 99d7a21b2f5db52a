"""The verbs of a cache that is bounded in size: the bound is kept on the server, atomically.

Beside the values stands an index, a sorted set of this cache's keys scored by the moment they
expire, in milliseconds of the server's clock, with fractions that keep what was stored first in
front of what was stored next. Whatever changes a value changes the index in the
same script, so the bound holds whenever nobody is inside one, whoever stores from wherever. One
script serves all calls of an exchange: a script a value would cost the server more than twice.

A key that something else removed (another program, the server's own eviction) stays in the index
until it would have expired, and counts until then: there may be fewer values than the bound, never
more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

from async_redis_cache._common.errors import CacheUnsupported
from async_redis_cache._common.failures import ServerReply, failure_of

from .command import Command, CommandArgs, StoreItem, UnexpectedReplyError, expect_parts
from .record import HEADER_SCRIPT

__all__ = [
    "INDEX_SUFFIX",
    "STORE_SCRIPT",
    "BoundedRemove",
    "BoundedStore",
    "BoundedTouch",
    "Opening",
    "Sweep",
]

INDEX_SUFFIX: Final = b"\x00index"
"""Behind the prefix, the index's key. No key of a user can hold a control character."""

# Each script asks for the index first: were it something else, the error would come after a change.
# The SETs come before all other changes: when memory is short, the server refuses the first change,
# and nothing has happened. Lua's unpack takes some thousands of values at the most.
STORE_SCRIPT: Final = b"""
local index, bound, n = KEYS[1], tonumber(ARGV[1]), #KEYS - 1
redis.call('ZCARD', index)
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local members = {}
for i = 1, n do
  local life = ARGV[2 * i]
  redis.call('SET', KEYS[i + 1], ARGV[2 * i + 1], 'PX', life)
  members[2 * i - 1] = now + life + i / 1000
  members[2 * i] = KEYS[i + 1]
end
for i = 1, #members, 1000 do
  redis.call('ZADD', index, unpack(members, i, math.min(i + 999, #members)))
end
redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%d', now))
local excess, evicted = redis.call('ZCARD', index) - bound, 0
if excess > 0 then
  local out = redis.call('ZPOPMIN', index, excess)
  for i = 1, #out, 2 do evicted = evicted + redis.call('UNLINK', out[i]) end
end
local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')
if last[2] then redis.call('PEXPIREAT', index, math.ceil(last[2])) end
return evicted
"""

_REMOVE: Final = b"""
redis.call('ZCARD', KEYS[1])
local answers = {}
for i = 2, #KEYS do
  answers[i - 1] = redis.pcall(ARGV[1], KEYS[i])
  redis.call('ZREM', KEYS[1], KEYS[i])
end
return answers
"""

_TOUCH: Final = (
    HEADER_SCRIPT
    + b"""
redis.call('ZCARD', KEYS[1])
local answers = {}
for i = 2, #KEYS do
  local stays, tagged = touched(KEYS[i], tonumber(ARGV[i - 1]))
  answers[i - 1] = stays > 0 and (tagged and 2 or 1) or 0
  if stays > 0 then
    redis.call('ZADD', KEYS[1], 'XX', now() + stays, KEYS[i])
    if redis.call('PTTL', KEYS[1]) < stays then redis.call('PEXPIRE', KEYS[1], stays) end
  end
end
return answers
"""
)

# Called without arguments none of them does anything: the error tells whether there is such a command.
_LACKS: Final = b"""
local lacking = {}
for name in string.gmatch(ARGV[1], '%a+') do
  local reply = redis.pcall(name)
  if type(reply) == 'table' and reply.err and string.find(string.lower(tostring(reply.err)), 'unknown') then lacking[#lacking + 1] = name end
end
return lacking
"""

_SWEEP: Final = b"""
local out = redis.call('ZPOPMIN', KEYS[1], ARGV[1])
local removed = 0
for i = 1, #out, 2 do removed = removed + redis.call('UNLINK', out[i]) end
return {removed, redis.call('ZCARD', KEYS[1])}
"""


class BoundedStore(Command):
    """Entries, their index and the eviction of what is too much, in one script.

    Args:
        index: the index's key.
        bound: most values.
        evicted: called with the number of values that a script evicted. The reply is all that
            knows, and its calls may have been cancelled.
    """

    script = STORE_SCRIPT
    is_write = True
    merges = True

    def __init__(self, index: bytes, bound: int, evicted: Callable[[int], None]) -> None:
        self._index = index
        self._bound = bound
        self._evicted = evicted

    def encode(self, arguments: Sequence[Sequence[StoreItem]]) -> list[CommandArgs]:
        """One script for the entries of all calls."""
        entries = list(chain.from_iterable(arguments))
        keys = [entry[0] for entry in entries]
        flat: Iterable[bytes | int] = chain.from_iterable((life, data) for _, data, life in entries)
        return [(b"EVAL", STORE_SCRIPT, len(keys) + 1, self._index, *keys, self._bound, *flat)]

    def parse_replies(
        self, arguments: Sequence[Sequence[StoreItem]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        """None for each call, or why it failed."""
        (reply,) = replies
        if isinstance(reply, ServerReply):
            return [reply] * len(arguments)
        if type(reply) is not int or reply < 0:
            raise UnexpectedReplyError
        if reply:
            self._evicted(reply)
        return [None] * len(arguments)

    def retry_safe(self, argument: Sequence[StoreItem], answer: Any) -> bool:
        """Storing twice is storing."""
        return True


class BoundedRemove(Command):
    """Keys out of the cache and its index.

    Args:
        index: the index's key.
        command: GETDEL, to answer with the value of each call's only key; UNLINK, to count.
        heeded: whether the caller cares for the answer, which only the first try can give.
    """

    script = _REMOVE
    is_write = True
    merges = True

    def __init__(self, index: bytes, command: bytes, *, heeded: bool = True) -> None:
        self._index = index
        self._command = command
        self._heeded = heeded

    def encode(self, arguments: Sequence[Sequence[bytes]]) -> list[CommandArgs]:
        """One script for the keys of all calls."""
        keys = list(chain.from_iterable(arguments))
        return [(b"EVAL", _REMOVE, len(keys) + 1, self._index, *keys, self._command)]

    def parse_replies(
        self, arguments: Sequence[Sequence[bytes]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        """The removed value, or how many were removed, for each call."""
        kinds = _DATA if self._command == b"GETDEL" else _NUMBERS
        parts = _parts(replies, sum(map(len, arguments)), kinds)
        if isinstance(parts, ServerReply):
            return [parts] * len(arguments)
        pending = iter(parts)
        answers: list[Any] = []
        for keys in arguments:
            own = [next(pending) for _ in keys]
            failed = next((one for one in own if isinstance(one, ServerReply)), None)
            if failed is not None or self._command == b"GETDEL":
                answers.append(failed or own[0])
            else:
                answers.append(sum(own))
        return answers

    def retry_safe(self, argument: Sequence[bytes], answer: Any) -> bool:
        """Only the first try can say what was there."""
        if not self._heeded:
            return True
        if self._command == b"GETDEL":
            return answer is not None
        return bool(answer == len(argument))


class BoundedTouch(Command):
    """A new life for a value, in the index too, and the data whose life it is."""

    script = _TOUCH
    is_write = True
    merges = True

    def __init__(self, index: bytes) -> None:
        self._index = index

    def encode(self, arguments: Sequence[tuple[bytes, int]]) -> list[CommandArgs]:
        """One script for all calls, and one MGET."""
        keys = [key for key, _ in arguments]
        lives = [life for _, life in arguments]
        return [(b"EVAL", _TOUCH, len(keys) + 1, self._index, *keys, *lives), (b"MGET", *keys)]

    def parse_replies(
        self, arguments: Sequence[tuple[bytes, int]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        """For each key: 0 where it was not there, 1, or 2 where it has tags; and its data."""
        parts = _parts(replies[:1], len(arguments), _NUMBERS)
        data = _parts(replies[1:], len(arguments), _DATA)
        if isinstance(parts, ServerReply) or isinstance(data, ServerReply):
            return [parts if isinstance(parts, ServerReply) else data] * len(arguments)
        return [
            part if isinstance(part, ServerReply) else (part, one)
            for part, one in zip(parts, data, strict=True)
        ]

    def retry_safe(self, argument: tuple[bytes, int], answer: Any) -> bool:
        """Touching twice is touching."""
        return True


class Sweep(Command):
    """Some of the cache's values, removed through the index: how many, and how many are left."""

    script = _SWEEP
    is_write = True

    def __init__(self, index: bytes) -> None:
        self._index = index

    def key(self, argument: int) -> bytes:
        """The index."""
        return self._index

    def encode(self, arguments: Sequence[int]) -> list[CommandArgs]:
        """One script a call."""
        return [(b"EVAL", _SWEEP, 1, self._index, most) for most in arguments]

    def parse_replies(self, arguments: Sequence[int], replies: Sequence[Any]) -> Sequence[Any]:
        """[removed, left] for each call."""
        return [
            reply if isinstance(reply, ServerReply) else expect_parts(reply, 2, _NUMBERS)
            for reply in replies
        ]

    def retry_safe(self, argument: int, answer: Any) -> bool:
        """The count is of what this call removed itself."""
        return True


class Opening(Command):
    """A first sign of life from the server, and whether it has the commands that keep the bound.

    The argument is (). A command that it lacks is answered as if it had been sent. What else is wrong
    with scripts, such as a user who may not run them, is left to the first store: a program may only read.
    """

    is_write = False

    def __init__(self, index: bytes) -> None:
        self._index = index

    def key(self, argument: Any) -> bytes:
        """The index."""
        return self._index

    def encode(self, arguments: Sequence[Any]) -> list[CommandArgs]:
        """A PING and a script a call."""
        names = b" ".join(_STORE_COMMANDS)
        return [(b"PING",), (b"EVAL", _LACKS, 1, self._index, names)] * len(arguments)

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """PONG for each call, or what is wrong."""
        return list(map(_opened, replies[::2], replies[1::2]))

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """It changes nothing."""
        return True


def _opened(pong: Any, lacking: Any) -> Any:
    if isinstance(pong, ServerReply):
        return pong
    if pong != b"PONG":
        raise UnexpectedReplyError
    if isinstance(lacking, ServerReply):
        return lacking if failure_of(lacking).kind is CacheUnsupported else pong
    names: list[Any] = lacking if isinstance(lacking, list) else []  # pyright: ignore[reportUnknownVariableType]
    for name in _STORE_COMMANDS:
        if name in names:
            return ServerReply(f"ERR unknown command '{name.decode()}'")
    return pong


def _parts(
    replies: Sequence[Any], count: int, kinds: frozenset[type]
) -> Sequence[Any] | ServerReply:
    (reply,) = replies
    return reply if isinstance(reply, ServerReply) else expect_parts(reply, count, kinds)


_STORE_COMMANDS: Final = tuple(dict.fromkeys(re.findall(rb"redis\.call\('([A-Z]+)'", STORE_SCRIPT)))
_DATA: Final = frozenset({bytes, type(None), ServerReply})
_NUMBERS: Final = frozenset({int, ServerReply})
