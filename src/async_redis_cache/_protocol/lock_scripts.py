"""Locks: a key each, that holds the token of its holder until a time, and a fencing number.

The data of a lock is text: the fencing number, the time until which it is held in milliseconds, and the token. The
fencing number is the server's time in microseconds, or one more than the last number of the lock if that is greater. So
it grows even after the key is gone, and for as long as the key is kept also if the clock was set back, or a replica
whose clock is behind has become the master. The key is kept for a minute after the lock was released or has expired.

A lock that was released is marked with the time 0 and its token: an acquisition that arrives after the release, since its
caller was cancelled, is refused.

In a bounded cache, a held lock is in the index and counts as a value. Its score exceeds that of every value, so no value
evicts it. Locks that have expired leave the index when the next lock is acquired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from async_redis_cache._common.failures import ServerReply

from .command import Command, Script, UnexpectedReplyError
from .size_limit import BoundedScript

__all__ = ["LockCommands"]

# A lock that is valid for more than an hour, the maximum, is damaged, or the server's clock was set back.
_LOCK: Final = b"""
local KEPT, LONGEST = 60000, 3600000
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local function lock_of(key)
  local fence, ends, token = string.match(redis.call('GET', key) or '', '^(%d+) (%d+) (%x+)$')
  return tonumber(fence) or 0, tonumber(ends) or 0, token or ''
end
local function set_lock(key, fence, ends, token)
  local kept = math.max(ends, now, math.min(fence / 1000, now + LONGEST)) - now + KEPT
  redis.call('SET', key, string.format('%.0f %.0f %s', fence, ends, token), 'PX', string.format('%.0f', kept))
end
local function remaining(ends) return ends - now <= LONGEST and math.max(ends - now, 0) or 0 end
"""

_ACQUIRED: Final = (
    _LOCK
    + b"""
-- The fencing number for the token, until when it then holds the lock, and whether it held it before; or the negated
-- time to wait.
local function acquired(key, token, ttl)
  local fence, ends, holder = lock_of(key)
  if holder == token then
    if ends == 0 then return -1 end
    return fence, now + ttl, true
  end
  if remaining(ends) > 0 then return -remaining(ends) end
  return math.max(micros, fence + 1), now + ttl
end
"""
)

_ACQUIRE: Final = (
    _ACQUIRED
    + b"""
local fence, ends = acquired(KEYS[1], ARGV[1], tonumber(ARGV[2]))
if ends then set_lock(KEYS[1], fence, ends, ARGV[1]) end
return {fence, 0}
"""
)

# More than the score of any value: two values of FOREVER, a TTL and a stale TTL, end before 10,000,000,000,000.
_SCORES: Final = b"local LOCKS = 20000000000000\n"

_ACQUIRE_BOUNDED: Final = (
    _ACQUIRED
    + _SCORES
    + b"""
local index, key, bound, ttl = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[3])
redis.call('ZCARD', index)
local fence, ends, was_held = acquired(key, ARGV[2], ttl)
if not ends then return {fence, 0} end
redis.call('ZREMRANGEBYSCORE', index, LOCKS, string.format('(%.0f', LOCKS + now))
redis.call('ZREMRANGEBYSCORE', index, '-inf', string.format('(%.0f', now))
local last = redis.call('ZRANGE', index, -bound, -bound, 'WITHSCORES')
-- As many locks are held as there may be values.
if not was_held and last[2] and tonumber(last[2]) >= LOCKS then return {-ttl, 0} end
set_lock(key, fence, ends, ARGV[2])
redis.call('ZADD', index, string.format('%.0f', LOCKS + ends), key)
local excess, evicted = redis.call('ZCARD', index) - bound, 0
if excess > 0 then
  local out = redis.call('ZPOPMIN', index, excess)
  for i = 1, #out, 2 do evicted = evicted + redis.call('UNLINK', out[i]) end
end
redis.call('PEXPIREAT', index, string.format('%.0f', LOCKS + ends))
return {fence, evicted}
"""
)

_RENEWED: Final = (
    _LOCK
    + b"""
-- Until when the token holds the lock after a renewal; nil if it does not hold it.
local function renewed(key, token, ttl)
  local fence, ends, holder = lock_of(key)
  if holder ~= token or ends == 0 then return nil end
  set_lock(key, fence, now + ttl, token)
  return now + ttl
end
"""
)

_RENEW: Final = _RENEWED + b"return renewed(KEYS[1], ARGV[1], tonumber(ARGV[2])) and 1 or 0\n"

# A lock that has expired has perhaps left the index.
_RENEW_BOUNDED: Final = (
    _RENEWED
    + _SCORES
    + b"""
redis.call('ZCARD', KEYS[1])
local ends = renewed(KEYS[2], ARGV[2], tonumber(ARGV[3]))
if not ends then return 0 end
redis.call('ZADD', KEYS[1], 'XX', string.format('%.0f', LOCKS + ends), KEYS[2])
return 1
"""
)

_RELEASED: Final = (
    _LOCK
    + b"""
local function released(key, token)
  local fence, ends, holder = lock_of(key)
  if holder == token or remaining(ends) == 0 then set_lock(key, fence, 0, token) end
  return holder == token and 1 or 0
end
"""
)

_RELEASE: Final = _RELEASED + b"return released(KEYS[1], ARGV[1])\n"

_RELEASE_BOUNDED: Final = (
    _RELEASED
    + b"""
redis.call('ZCARD', KEYS[1])
local was_held = released(KEYS[2], ARGV[2])
if was_held == 1 then redis.call('ZREM', KEYS[1], KEYS[2]) end
return was_held
"""
)


class _Acquire(Script):
    def __init__(self) -> None:
        super().__init__(_ACQUIRE, (list,))

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """The replies, if they fit."""
        _check_pairs(replies)
        return super().parse_replies(arguments, replies)


class _BoundedAcquire(BoundedScript):
    def __init__(self, index: bytes, bound: int, on_evicted: Callable[[int], None]) -> None:
        super().__init__(_ACQUIRE_BOUNDED, index, bound, on_evicted, (list,))

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """The replies, if they fit."""
        _check_pairs(replies)
        return super().parse_replies(arguments, replies)

    def _evicted_by(self, answer: Any) -> int:
        return 0 if isinstance(answer, ServerReply) else int(answer[1])


class _BoundedChange(BoundedScript):
    """A renewal or a release, which evicts nothing."""

    def _evicted_by(self, answer: Any) -> int:
        return 0


class LockCommands:
    """The commands for the locks of a cache. All are idempotent.

    Args:
        index: the key of the index of a bounded cache.
        bound: the most values and locks that the cache may have; 0 for no bound.
        on_evicted: called with the number of values that were evicted to keep the bound.

    Attributes:
        acquire: (key, token, TTL in milliseconds). The answer is [fencing number, evicted values]; the number is
            negative if another token holds the lock, for as many milliseconds, or if there is room for no more locks.
        renew: (key, token, TTL in milliseconds). The answer is 1, or 0 if the token does not hold the lock.
        release: (key, token). The answer is 1, or 0 if the token did not hold the lock.
    """

    def __init__(self, index: bytes, bound: int, on_evicted: Callable[[int], None]) -> None:
        self.acquire: Command
        self.renew: Command
        self.release: Command
        if bound:
            self.acquire = _BoundedAcquire(index, bound, on_evicted)
            self.renew = _BoundedChange(_RENEW_BOUNDED, index, bound, on_evicted)
            self.release = _BoundedChange(_RELEASE_BOUNDED, index, bound, on_evicted)
        else:
            self.acquire = _Acquire()
            self.renew = Script(_RENEW)
            self.release = Script(_RELEASE)


def _check_pairs(replies: Sequence[Any]) -> None:
    for reply in replies:
        match reply:
            case ServerReply() | [int(), int()]:
                pass
            case _:
                raise UnexpectedReplyError
