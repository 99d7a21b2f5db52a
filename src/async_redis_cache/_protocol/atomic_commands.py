"""Commands that decide on the server what they write: `ADD` and `INCREMENT`.

Both count data that is no value as absent: the placeholder of a load, a stale value, a MISSING record and a damaged one.
They overwrite it, so the lease of a load is gone and the load cannot publish its result afterwards. A value whose tags
were invalidated counts as present: its tags may be on other nodes of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from async_redis_cache._common.failures import ServerReply

from .command import Script, UnexpectedReplyError
from .record import HEADER_SCRIPT
from .size_limit import STORE_SCRIPT, BoundedScript

__all__ = ["NOT_AN_INTEGER", "OVERFLOW", "Add", "BoundedAdd", "BoundedIncrement", "Increment"]

NOT_AN_INTEGER: Final = 0
"""The answer of an increment of something other than an integer of 64 bits."""
OVERFLOW: Final = 1
"""The answer of an increment whose result would exceed 64 bits."""

# A record without a stale TTL is fresh for as long as it exists, for readers too.
_ABSENT: Final = (
    HEADER_SCRIPT
    + b"""
local function is_absent(key)
  local header, kind = header_of(key)
  if kind == 'v' then return stale_ttl(header) > 0 and fresh_until(header) <= now() end
  return kind ~= '' or string.sub(header, 1, 2) == MARK or redis.call('EXISTS', key) == 0
end
"""
)

_ADD: Final = (
    _ABSENT
    + b"""
if not is_absent(KEYS[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
return 1
"""
)

_STORE: Final = b"local function store()\n" + STORE_SCRIPT + b"\nend\n"

_ADD_BOUNDED: Final = (
    _ABSENT
    + _STORE
    + b"""
if not is_absent(KEYS[2]) then return 0 end
return 1 + store()
"""
)

# The result is read as text: as a number, Lua would round it to 53 bits.
_COUNT: Final = (
    _ABSENT
    + b"""
local function count(key, amount)
  local reply = redis.pcall('INCRBY', key, amount)
  if type(reply) ~= 'table' then return {redis.call('GET', key), 0} end
  local problem = tostring(reply.err)
  if string.find(problem, 'overflow', 1, true) then return 1 end
  if string.find(problem, 'not an integer', 1, true) then return 0 end
  return reply
end
"""
)

_INCREMENT: Final = (
    _COUNT
    + b"""
if not is_absent(KEYS[1]) then return count(KEYS[1], ARGV[2]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
return {ARGV[2], 0}
"""
)

_INCREMENT_BOUNDED: Final = (
    _COUNT
    + _STORE
    + b"""
if not is_absent(KEYS[2]) then return count(KEYS[2], ARGV[3]) end
return {ARGV[3], store()}
"""
)


class _OnceScript(Script):
    """A script that must not be executed twice."""

    runs_once = True

    def retry_safe(self, argument: Any, answer: Any) -> bool:
        """Never: an earlier attempt may have changed what this one found."""
        return False


class Add(_OnceScript):
    """Store a value if the key has none: (key, TTL, data). The answer is 1 if it was stored, otherwise 0."""

    def __init__(self) -> None:
        super().__init__(_ADD)


class BoundedAdd(_OnceScript, BoundedScript):
    """The same in a bounded cache. The answer is the number of evicted values plus 1, or 0."""

    def __init__(self, index: bytes, bound: int, on_evicted: Callable[[int], None]) -> None:
        super().__init__(_ADD_BOUNDED, index, bound, on_evicted)


class _IncrementScript(_OnceScript):
    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        """The replies, if they fit."""
        for reply in replies:
            match reply:
                case ServerReply() | [bytes(), int()]:
                    pass
                case int() if reply in {NOT_AN_INTEGER, OVERFLOW}:
                    pass
                case _:
                    raise UnexpectedReplyError
        return super().parse_replies(arguments, replies)


class Increment(_IncrementScript):
    """Add to an integer: (key, TTL of a new one, amount).

    The answer is [the result as text, evicted values], `NOT_AN_INTEGER` or `OVERFLOW`.
    """

    def __init__(self) -> None:
        super().__init__(_INCREMENT, (int, list))


class BoundedIncrement(_IncrementScript, BoundedScript):
    """The same in a bounded cache: a new integer is added to the index, and values beyond the bound are evicted."""

    def __init__(self, index: bytes, bound: int, on_evicted: Callable[[int], None]) -> None:
        super().__init__(_INCREMENT_BOUNDED, index, bound, on_evicted, (int, list))

    def _evicted_by(self, answer: Any) -> int:
        # Without a list, nothing was stored.
        return 0 if isinstance(answer, (int, ServerReply)) else int(answer[1])
