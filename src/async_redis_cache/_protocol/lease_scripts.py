"""The right to load a key, held on the server, in the key itself.

Where nothing is stored, whoever loads puts a placeholder; where a value is, the right stands in its
head (see `_records`). Only while that very right stands there may the loaded value take its place,
checked and done in one script. So whatever happens to the key meanwhile, from whichever program, voids
the right without knowing of it: a store overwrites it, a removal takes it away. No other verb pays for
that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Final

from .command import Command, CommandArgs, Script
from .record import HEADER_SCRIPT
from .size_limit import STORE_SCRIPT

__all__ = ["LEASE", "RELEASE", "RENEW", "BoundedPublish", "Publish", "ReleaseMode"]


class ReleaseMode(IntEnum):
    """How a right is given back."""

    BACK = 0
    WITH_VALUE = 1
    """The value is removed as well: there is none any more."""
    AFTER_FAILURE = 2
    """Who can do without a load is told to wait until the right would have ended."""


# A record keeps its place for as long as somebody loads it again: it must not go from under the right.
_HOLD: Final = (
    HEADER_SCRIPT
    + b"""
local NOBODY, FOREVER = string.rep('\\0', 16), 315360000000
local function holds(head, token) return string.sub(head, 1, 2) == MARK and string.sub(head, 4, 19) == token end
-- The version of a head that was put before a plain value, by which it is known again.
local function plain(token) return string.sub(token, 1, 8) end
local function hold(key, head, kind, token, life)
  local ends = now() + life
  if kind ~= 'v' and kind ~= 'm' then
    redis.call('SET', key, MARK .. 'l' .. token .. packed(ends), 'PX', life)
    return
  end
  redis.call('SETRANGE', key, 3, token .. packed(ends))
  local left = redis.call('PTTL', key)
  if left >= 0 and left < life then
    redis.call('SETRANGE', key, 51, packed(math.max(slack(head), ends - fresh_until(head))))
    redis.call('PEXPIRE', key, life)
  end
end
"""
)

# Granted: the time, less than zero. What is stored, where that is not what the caller has seen: it may
# do, also while another holds the right. Held by another: for how many milliseconds more. Reading the
# head of something that is no string is refused, as it should be.
# Who forces it takes it from another, and a value without a head gets one, to be readable meanwhile.
_LEASE: Final = (
    _HOLD
    + b"""
local key, token, life, seen, force = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local head, kind = head_of(key)
if kind ~= '' then
  local left = leased_until(head) - now()
  local held = string.sub(head, 4, 19) ~= NOBODY and not holds(head, token)
  if not force and kind ~= 'l' and string.sub(head, 28, 35) ~= seen then return redis.call('GET', key) end
  if not force and left > 0 and held then return left end
elseif redis.call('EXISTS', key) == 1 then
  local stored = redis.call('GET', key)
  if not force and stored ~= seen then return stored end
  if force then
    local time, left = now(), redis.call('PTTL', key)
    local ends = time + (left < 0 and FOREVER or left)
    head = MARK .. 'v' .. NO_RIGHT .. plain(token) .. packed(time) .. packed(ends) .. packed(0)
      .. '\\0\\0' .. packed(0)
    kind = 'v'
    redis.call('SET', key, head .. stored, 'PX', ends - time)
  end
end
hold(key, head, kind, token, life)
local granted = redis.call('TIME')
return -(granted[1] * 1000000 + granted[2])
"""
)

_RENEW: Final = (
    _HOLD
    + b"""
local head, kind = head_of(KEYS[1])
if not holds(head, ARGV[1]) then return 0 end
hold(KEYS[1], head, kind, ARGV[1], tonumber(ARGV[2]))
return 1
"""
)

_RELEASE: Final = (
    _HOLD
    + b"""
local head, kind = head_of(KEYS[1])
if not holds(head, ARGV[1]) then return 0 end
local left = kind ~= 'l' and fresh_until(head) - now() or 0
local was_plain = kind == 'v' and string.sub(head, 28, 35) == plain(ARGV[1])
if kind == 'l' or ARGV[2] == '1' or (was_plain and left <= 0) then
  return redis.call('UNLINK', KEYS[1])
elseif was_plain then
  redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 69, -1), 'PX', left)
  return 1
end
redis.call('SETRANGE', KEYS[1], 3, ARGV[2] == '2' and NOBODY or NO_RIGHT)
return 1
"""
)

_PUBLISHED: Final = (
    _HOLD
    + b"""
local function record(key, token, kind, version, life, slack, extent, cost, payload)
  if not holds(head_of(key), token) then return nil end
  local time = now()
  return MARK .. kind .. NO_RIGHT .. version .. packed(time) .. packed(time + life) .. packed(slack)
    .. string.sub(packed(extent), 7) .. packed(cost) .. payload
end
"""
)

_PUBLISH: Final = (
    _PUBLISHED
    + b"""
local data = record(KEYS[1], unpack(ARGV))
if not data then return 0 end
redis.call('SET', KEYS[1], data, 'PX', ARGV[4] + ARGV[5])
return 1
"""
)

_PUBLISH_BOUNDED: Final = (
    _PUBLISHED
    + b"""
local data = record(KEYS[2], unpack(ARGV, 2))
if not data then return 0 end
local ARGV = {ARGV[1], ARGV[5] + ARGV[6], data}
local function store()
"""
    + STORE_SCRIPT
    + b"""
end
return 1 + store()
"""
)


class Publish(Script):
    """The loaded value where the right to load stands: 1, or 0 where that is not there any more.

    The argument is (key, token, kind, version, life, slack, bytes of tags, cost, tags and payload).
    """

    def __init__(self) -> None:
        super().__init__(_PUBLISH)

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """A first try that did publish leaves no right for the second."""
        return bool(answer)


class BoundedPublish(Publish):
    """The same in a bounded cache, with its index and the eviction of what is too much.

    The answer is 1 more than the number of evicted values; see `BoundedStore`.
    """

    def __init__(self, index: bytes, bound: int, evicted: Callable[[int], None]) -> None:
        super().__init__()
        self.script = _PUBLISH_BOUNDED
        self._index = index
        self._bound = bound
        self._evicted = evicted

    def encode(self, arguments: Sequence[Sequence[Any]]) -> list[CommandArgs]:
        return [
            (b"EVAL", _PUBLISH_BOUNDED, 2, self._index, key, self._bound, *rest)
            for key, *rest in arguments
        ]

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        answers = super().parse_replies(arguments, replies)
        evicted = sum(answer - 1 for answer in answers if isinstance(answer, int) and answer > 1)
        if evicted:
            self._evicted(evicted)
        return answers


LEASE: Final[Command] = Script(_LEASE, (int, bytes))
"""(key, token, milliseconds, the version that is known not to do, 1 to take it in any case): when
granted, what time it is, in microseconds, less than zero; for how many milliseconds another holds it; or
what is stored."""
RENEW: Final[Command] = Script(_RENEW)
"""(key, token, milliseconds): 1, or 0 where the right is void."""
RELEASE: Final[Command] = Script(_RELEASE)
"""(key, token, how as in `Giving`): 1, or 0 where the right was void."""
