"""The load lease of a key, stored on the server in the key itself.

If the key has no value, the load stores a placeholder; otherwise the lease is written into the header of the value (see
`record`). A script compares the lease and publishes the loaded value atomically. So any change of the key by any
program invalidates the lease without knowing about it: a store overwrites it, and a removal removes it. This costs
other commands nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from .command import Command, Script
from .record import HEADER_SCRIPT
from .size_limit import STORE_SCRIPT, BoundedScript

__all__ = ["LEASE", "RELEASE", "RENEW", "BoundedPublish", "Publish", "ReleaseMode"]


class ReleaseMode(IntEnum):
    """What else releasing a lease does."""

    KEEP_VALUE = 0
    """Nothing: a stored value is kept."""
    REMOVE_VALUE = 1
    """The value is removed as well, because the origin no longer has it."""
    AFTER_FAILURE = 2
    """Callers that can use the stored value do not load until the lease would have expired."""


# A record must not expire before the lease that it contains.
_HOLD: Final = (
    HEADER_SCRIPT
    + b"""
local NO_HOLDER, FOREVER = string.rep('\\0', 16), 3153600000000
local function holds(header, token) return string.sub(header, 1, 2) == MARK and string.sub(header, 4, 19) == token end
-- The version in a header that was added to a plain value, by which it is recognized.
local function plain(token) return string.sub(token, 1, 8) end
local function hold(key, header, kind, token, ttl)
  local ends = now() + ttl
  if kind ~= 'v' and kind ~= 'm' then
    redis.call('SET', key, MARK .. 'l' .. token .. packed(ends), 'PX', ttl)
    return
  end
  redis.call('SETRANGE', key, 3, token .. packed(ends))
  local remaining = redis.call('PTTL', key)
  if remaining >= 0 and remaining < ttl then
    redis.call('SETRANGE', key, 51, packed(math.max(stale_ttl(header), ends - fresh_until(header))))
    redis.call('PEXPIRE', key, ttl)
  end
end
"""
)

# Replies with the negated time if the lease is granted; with the stored data if that is not what the caller has
# read, since it may be usable, even if another load holds the lease; or with the milliseconds for which another load
# holds it. Data of another type than string is an error of GETRANGE.
# `force` takes the lease from another load. A plain value gets a header then, to remain readable meanwhile.
_LEASE: Final = (
    _HOLD
    + b"""
local key, token, ttl, seen, force = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local header, kind = header_of(key)
if kind ~= '' then
  local remaining = leased_until(header) - now()
  local held = string.sub(header, 4, 19) ~= NO_HOLDER and not holds(header, token)
  if not force and kind ~= 'l' and string.sub(header, 28, 35) ~= seen then return redis.call('GET', key) end
  if not force and remaining > 0 and held then return remaining end
elseif redis.call('EXISTS', key) == 1 then
  local stored = redis.call('GET', key)
  if not force and stored ~= seen then return stored end
  if force then
    local time, remaining = now(), redis.call('PTTL', key)
    local ends = time + (remaining < 0 and FOREVER or remaining)
    header = MARK .. 'v' .. NO_LEASE .. plain(token) .. packed(time) .. packed(ends) .. packed(0)
      .. '\\0\\0' .. packed(0)
    kind = 'v'
    redis.call('SET', key, header .. stored, 'PX', ends - time)
  end
end
hold(key, header, kind, token, ttl)
local granted = redis.call('TIME')
return -(granted[1] * 1000000 + granted[2])
"""
)

_RENEW: Final = (
    _HOLD
    + b"""
local header, kind = header_of(KEYS[1])
if not holds(header, ARGV[1]) then return 0 end
hold(KEYS[1], header, kind, ARGV[1], tonumber(ARGV[2]))
return 1
"""
)

_RELEASE: Final = (
    _HOLD
    + b"""
local header, kind = header_of(KEYS[1])
if not holds(header, ARGV[1]) then return 0 end
local remaining = kind ~= 'l' and fresh_until(header) - now() or 0
local was_plain = kind == 'v' and string.sub(header, 28, 35) == plain(ARGV[1])
if kind == 'l' or ARGV[2] == '1' or (was_plain and remaining <= 0) then
  return redis.call('UNLINK', KEYS[1])
elseif was_plain then
  redis.call('SET', KEYS[1], redis.call('GETRANGE', KEYS[1], 69, -1), 'PX', remaining)
  return 1
end
redis.call('SETRANGE', KEYS[1], 3, ARGV[2] == '2' and NO_HOLDER or NO_LEASE)
return 1
"""
)

_PUBLISHED: Final = (
    _HOLD
    + b"""
local function record(key, token, kind, version, ttl, stale_ttl, tag_bytes, load_duration, payload)
  if not holds(header_of(key), token) then return nil end
  local time = now()
  return MARK .. kind .. NO_LEASE .. version .. packed(time) .. packed(time + ttl) .. packed(stale_ttl)
    .. string.sub(packed(tag_bytes), 7) .. packed(load_duration) .. payload
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


class _PublishScript(Script):
    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """Not 0: an earlier attempt that was executed has published the value and ended the lease."""
        return bool(answer)


class Publish(_PublishScript):
    """Store a loaded value if the key still has the lease. The answer is 1, or 0 if it has not.

    The argument is (key, token, kind, version, TTL, stale TTL, bytes of tags, load duration, tags and payload).
    """

    def __init__(self) -> None:
        super().__init__(_PUBLISH)


class BoundedPublish(_PublishScript, BoundedScript):
    """The same in a bounded cache. The arguments are those of `BoundedStore`."""

    def __init__(self, index: bytes, bound: int, on_evicted: Callable[[int], None]) -> None:
        super().__init__(_PUBLISH_BOUNDED, index, bound, on_evicted)


LEASE: Final[Command] = Script(_LEASE, (int, bytes))
"""Acquire a lease: (key, token, milliseconds, version of the unusable value, 1 to take it from another load).

The answer is the server's time in microseconds, negated, if the lease is granted; the number of milliseconds for which
another load holds it; or the stored data, if its version is another one."""
RENEW: Final[Command] = Script(_RENEW)
"""Renew a lease: (key, token, milliseconds). The answer is 1, or 0 if the key no longer has the lease."""
RELEASE: Final[Command] = Script(_RELEASE)
"""Release a lease: (key, token, `ReleaseMode`). The answer is 1, or 0 if the key no longer had the lease."""
