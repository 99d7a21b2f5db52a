"""The right to load a key, held on the server, in the key itself.

Where nothing is stored, whoever loads puts a placeholder: a mark, a token of its own, and until when
the lease is good. Only while that very placeholder stands there may the loaded value take its place,
checked and done in one script. So whatever happens to the key meanwhile, from whichever program, voids
the lease without knowing of it: a store overwrites the placeholder, a removal takes it away. No other
verb pays for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ._bounded import STORE_SCRIPT
from ._commands import LEASE_MARK, Command, MisreadError, Verb
from ._failures import ServerReply

__all__ = ["LEASE", "RELEASE", "RENEW", "BoundedPublish", "Publish", "is_lease"]

# Granted: 0. Held by another: for how many milliseconds more. Otherwise what is stored, which is not
# what the caller has seen. Reading the head of something that is no string is refused, as it should be.
_LEASE: Final = b"""
local key, mark, token, life, seen = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = redis.call('GETRANGE', key, 0, 33)
if string.sub(head, 1, 3) == mark then
  local left = tonumber(string.sub(head, 20)) - now
  if string.sub(head, 4, 19) ~= token and left > 0 then return left end
elseif redis.call('EXISTS', key) == 1 then
  local stored = redis.call('GET', key)
  if stored ~= seen then return stored end
end
redis.call('SET', key, mark .. token .. string.format('%015d', now + life), 'PX', life)
return 0
"""

_RENEW: Final = b"""
if redis.call('GETRANGE', KEYS[1], 0, 18) ~= ARGV[1] .. ARGV[2] then return 0 end
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2] .. string.format('%015d', ends), 'PX', ARGV[3])
return 1
"""

_RELEASE: Final = b"""
if redis.call('GETRANGE', KEYS[1], 0, 18) ~= ARGV[1] .. ARGV[2] then return 0 end
return redis.call('UNLINK', KEYS[1])
"""

_PUBLISH: Final = b"""
if redis.call('GETRANGE', KEYS[1], 0, 18) ~= ARGV[1] .. ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
"""

_PUBLISH_BOUNDED: Final = (
    b"""
if redis.call('GETRANGE', KEYS[2], 0, 18) ~= ARGV[4] then return 0 end
local function store()
"""
    + STORE_SCRIPT
    + b"""
end
store()
return 1
"""
)


def is_lease(data: bytes) -> bool:
    """Whether this is no value, but stands where one is being loaded."""
    return data.startswith(LEASE_MARK)


class _Script(Verb):
    """A script on one key, one call each. A second run of the same call does no more than the first.

    The argument is (key, what comes after the mark ...).
    """

    changes = True

    def __init__(self, source: bytes, kinds: tuple[type, ...] = (int,)) -> None:
        self._source = source
        self._kinds = kinds

    def commands(self, arguments: Sequence[Sequence[Any]]) -> list[Command]:
        return [(b"EVAL", self._source, 1, key, LEASE_MARK, *rest) for key, *rest in arguments]

    def answers(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        for reply in replies:
            if not isinstance(reply, (ServerReply, *self._kinds)):
                raise MisreadError
        return replies

    def conclusive(self, argument: Any, answer: Any) -> bool:
        return True


class Publish(_Script):
    """The loaded value in place of the placeholder: 1, or 0 where that is not there any more.

    The argument is (key, token, data, life).
    """

    def __init__(self) -> None:
        super().__init__(_PUBLISH)

    def conclusive(self, argument: Any, answer: Any) -> bool:
        """A first try that did publish leaves no placeholder for the second."""
        return bool(answer)


class BoundedPublish(Publish):
    """The same in a bounded cache, with its index and the eviction of what is too much."""

    def __init__(self, index: bytes, bound: int) -> None:
        super().__init__()
        self._index = index
        self._bound = bound

    def commands(self, arguments: Sequence[Sequence[Any]]) -> list[Command]:
        return [
            (b"EVAL", _PUBLISH_BOUNDED, 2, self._index, key, *rest)
            for key, token, data, life in arguments
            for rest in [(self._bound, life, data, LEASE_MARK + token)]
        ]


LEASE: Final[Verb] = _Script(_LEASE, (int, bytes))
"""(key, token, milliseconds, the data that is known not to do, or nothing): 0 when granted; for how
many milliseconds another holds it; or what is stored."""
RENEW: Final[Verb] = _Script(_RENEW)
"""(key, token, milliseconds): 1, or 0 where the lease is void."""
RELEASE: Final[Verb] = _Script(_RELEASE)
"""(key, token): 1, or 0 where it was void."""
