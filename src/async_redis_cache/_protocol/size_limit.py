"""Commands of a cache with a size limit, which the server enforces atomically.

The index is a sorted set of this cache's keys. Scores are the expiry times in milliseconds, by the server's clock, with
fractions that order values of one store. Every command that changes a value changes the index in the same script, so
the limit holds between scripts, whichever processes store values. One script executes all requests of a pipeline: a
script for each value would cost the server more than twice as much.

A key that was removed otherwise, by another program or by the server's own eviction, remains in the index until it would
have expired, and counts until then. So there may be fewer values than the limit allows, and never more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

from async_redis_cache._common.errors import CacheUnsupported
from async_redis_cache._common.failures import ServerReply, failure_of

from .command import Command, CommandArgs, Script, StoreItem, UnexpectedReplyError, expect_parts
from .record import HEADER_SCRIPT

__all__ = [
    "INDEX_SUFFIX",
    "STORE_SCRIPT",
    "BoundedRemove",
    "BoundedScript",
    "BoundedStore",
    "BoundedTouch",
    "Opening",
    "Sweep",
]

INDEX_SUFFIX: Final = b"\x00index"
"""The key of the index after the prefix. Keys of callers cannot contain control characters."""

# Each script reads the index first: if it is not a sorted set, the error must precede all changes. The SETs precede
# all other changes: if memory is short, the server rejects the first one, and nothing has changed. Lua's unpack is
# limited to some thousands of values.
STORE_SCRIPT: Final = b"""
local index, bound, n = KEYS[1], tonumber(ARGV[1]), #KEYS - 1
redis.call('ZCARD', index)
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local members = {}
for i = 1, n do
  local ttl = ARGV[2 * i]
  redis.call('SET', KEYS[i + 1], ARGV[2 * i + 1], 'PX', ttl)
  members[2 * i - 1] = now + ttl + i / 1000
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

# Without arguments, none of the commands does anything: the error shows whether the command exists.
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
    """Store values, update the index, and evict values beyond the limit, in one script.

    Args:
        index: the key of the index.
        bound: the maximum number of values.
        on_evicted: called with the number of values that a script evicted. The callers may have been cancelled by
            then, so their answers cannot report it.
    """

    script = STORE_SCRIPT
    is_write = True
    merges = True

    def __init__(self, index: bytes, bound: int, on_evicted: Callable[[int], None]) -> None:
        self._index = index
        self._bound = bound
        self._on_evicted = on_evicted

    def encode(self, arguments: Sequence[Sequence[StoreItem]]) -> list[CommandArgs]:
        """One script for the values of all requests."""
        entries = list(chain.from_iterable(arguments))
        keys = [entry[0] for entry in entries]
        flat: Iterable[bytes | int] = chain.from_iterable((ttl, data) for _, data, ttl in entries)
        return [(b"EVAL", STORE_SCRIPT, len(keys) + 1, self._index, *keys, self._bound, *flat)]

    def parse_replies(
        self, arguments: Sequence[Sequence[StoreItem]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        """None for each request, or the error reply."""
        (reply,) = replies
        if isinstance(reply, ServerReply):
            return [reply] * len(arguments)
        if type(reply) is not int or reply < 0:
            raise UnexpectedReplyError
        if reply:
            self._on_evicted(reply)
        return [None] * len(arguments)

    def retry_safe(self, argument: Sequence[StoreItem], answer: Any) -> bool:
        """Storing is idempotent."""
        return True


class BoundedScript(Script):
    """A script on one key of a bounded cache, which also updates the index and evicts values beyond the limit.

    Its keys are those of the index and of the request; its arguments are the limit and those of the request. The
    answer is the number of evicted values plus 1, or another integer if nothing was stored.

    Args:
        source: as for `Script`.
        index: as for `BoundedStore`.
        bound: as for `BoundedStore`.
        on_evicted: as for `BoundedStore`.
        kinds: as for `Script`.
    """

    def __init__(
        self,
        source: bytes,
        index: bytes,
        bound: int,
        on_evicted: Callable[[int], None],
        kinds: tuple[type, ...] = (int,),
    ) -> None:
        super().__init__(source, kinds)
        self._index = index
        self._bound = bound
        self._on_evicted = on_evicted

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        """One EVAL for each request."""
        return [
            (b"EVAL", self._source, 2, self._index, key, self._bound, *rest)
            for key, *rest in arguments
        ]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """The replies, if they fit; evictions are reported."""
        answers = super().parse_replies(arguments, replies)
        if evicted := sum(map(self._evicted_by, answers)):
            self._on_evicted(evicted)
        return answers

    def _evicted_by(self, answer: Any) -> int:
        return answer - 1 if isinstance(answer, int) and answer > 1 else 0


class BoundedRemove(Command):
    """Remove keys from the cache and its index.

    Args:
        index: the key of the index.
        command: GETDEL, to answer with the value of the only key of each request; UNLINK, to answer with a count.
        needs_answer: whether the caller uses the answer, which only the first attempt can give.
    """

    script = _REMOVE
    is_write = True
    merges = True

    def __init__(self, index: bytes, command: bytes, *, needs_answer: bool = True) -> None:
        self._index = index
        self._command = command
        self._needs_answer = needs_answer

    def encode(self, arguments: Sequence[Sequence[bytes]]) -> list[CommandArgs]:
        """One script for the keys of all requests."""
        keys = list(chain.from_iterable(arguments))
        return [(b"EVAL", _REMOVE, len(keys) + 1, self._index, *keys, self._command)]

    def parse_replies(
        self, arguments: Sequence[Sequence[bytes]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        """The removed value, or the number of removed keys, for each request."""
        kinds = _DATA if self._command == b"GETDEL" else _NUMBERS
        parts = _parts(replies, sum(map(len, arguments)), kinds)
        if isinstance(parts, ServerReply):
            return [parts] * len(arguments)
        pending = iter(parts)
        answers: list[Any] = []
        for keys in arguments:
            own = [next(pending) for _ in keys]
            failed = next((part for part in own if isinstance(part, ServerReply)), None)
            if failed is not None or self._command == b"GETDEL":
                answers.append(failed or own[0])
            else:
                answers.append(sum(own))
        return answers

    def retry_safe(self, argument: Sequence[bytes], answer: Any) -> bool:
        """Only the first attempt can answer with what it removed."""
        if not self._needs_answer:
            return True
        if self._command == b"GETDEL":
            return answer is not None
        return bool(answer == len(argument))


class BoundedTouch(Command):
    """Set the TTL of values, in the index too, and read their data."""

    script = _TOUCH
    is_write = True
    merges = True

    def __init__(self, index: bytes) -> None:
        self._index = index

    def encode(self, arguments: Sequence[tuple[bytes, int]]) -> list[CommandArgs]:
        """One script and one MGET for all requests."""
        keys = [key for key, _ in arguments]
        ttls = [ttl for _, ttl in arguments]
        return [(b"EVAL", _TOUCH, len(keys) + 1, self._index, *keys, *ttls), (b"MGET", *keys)]

    def parse_replies(
        self, arguments: Sequence[tuple[bytes, int]], replies: Sequence[Any]
    ) -> Sequence[Any]:
        """For each key, 0 if it does not exist, otherwise 1, or 2 if it has tags; and its data."""
        parts = _parts(replies[:1], len(arguments), _NUMBERS)
        data = _parts(replies[1:], len(arguments), _DATA)
        if isinstance(parts, ServerReply) or isinstance(data, ServerReply):
            return [parts if isinstance(parts, ServerReply) else data] * len(arguments)
        return [
            part if isinstance(part, ServerReply) else (part, stored)
            for part, stored in zip(parts, data, strict=True)
        ]

    def retry_safe(self, argument: tuple[bytes, int], answer: Any) -> bool:
        """Setting a TTL is idempotent."""
        return True


class Sweep(Command):
    """Remove some values of the cache through the index: how many were removed, and how many remain."""

    script = _SWEEP
    is_write = True

    def __init__(self, index: bytes) -> None:
        self._index = index

    def routing_key(self, argument: int) -> bytes:
        """The key of the index."""
        return self._index

    def encode(self, arguments: Sequence[int]) -> list[CommandArgs]:
        """One script for each request."""
        return [(b"EVAL", _SWEEP, 1, self._index, count) for count in arguments]

    def parse_replies(self, arguments: Sequence[int], replies: Sequence[Any]) -> Sequence[Any]:
        """[removed, remaining] for each request."""
        return [
            reply if isinstance(reply, ServerReply) else expect_parts(reply, 2, _NUMBERS)
            for reply in replies
        ]

    def retry_safe(self, argument: int, answer: Any) -> bool:
        """The answer is the number that this attempt removed."""
        return True


class Opening(Command):
    """The first request to a server: a PING, and a check for the commands that enforce the limit.

    The argument is (). If the server lacks a command, the answer is the error reply to that command. Other problems with
    scripts, such as missing permissions, fail the first store and not this request, because a program may only read.

    Args:
        index: the key of the index.
        on_scripts_refused: called if the user may not run scripts.
    """

    is_write = False

    def __init__(self, index: bytes, on_scripts_refused: Callable[[], None]) -> None:
        self._index = index
        self._on_scripts_refused = on_scripts_refused

    def routing_key(self, argument: Any) -> bytes:
        """The key of the index."""
        return self._index

    def encode(self, arguments: Sequence[Any]) -> list[CommandArgs]:
        """A PING and a script for each request. The script is always sent with its source."""
        names = b" ".join(_STORE_COMMANDS)
        return [(b"PING",), (b"EVAL", _LACKS, 1, self._index, names)] * len(arguments)

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """PONG for each request, or the error reply."""
        for lacking in replies[1::2]:
            if isinstance(lacking, ServerReply) and failure_of(lacking).code == "NOPERM":
                self._on_scripts_refused()
        return list(map(_opened, replies[::2], replies[1::2]))

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """It is a read."""
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
