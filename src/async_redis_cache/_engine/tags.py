"""Tags: names that many entries share, so that one write invalidates all of them.

A tag is a key of its own that holds a version: the time at which the tag was last invalidated, by the server's clock,
and a nonce. An entry contains the versions that its tags had when it was stored, and is valid as long as these are the
current ones. So no index of the entries of a tag is needed, and none can be left over: a tag expires a while after the
last entry that has it, and a missing tag has no version that an entry could match.

A store fetches the versions first. If a tag is invalidated between the fetch and the store, the stored entry is invalid
from the beginning. A load fetches them at its end, since its tags are known only then; the times in the versions show
whether a tag was invalidated since the load began.

The server's clock may be set meanwhile. A time in the future comes from a clock that was set back since: the tag is
invalidated again, at the current time, so that the result of one load is not stored, rather than those of all loads
until that time. And if the server's clock has not advanced as the local one has since the load began, the order of the
two events is unknown: the result is not stored.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from async_redis_cache._common.durations import HOUR
from async_redis_cache._common.failures import ServerReply
from async_redis_cache._protocol.command import Executor, Script, UnexpectedReplyError, expect_parts

from .bulk import send_all

__all__ = ["TagVersions", "Tags"]

_NAME: Final = b"\x00tag:"
"""After the key prefix, before the tag. No key of a user can contain a control character."""
_TIME: Final = slice(16)
_NONCE_BYTES: Final = 8
_SCRIPT_BYTES: Final = 500
_INVALIDATED_TTL: Final = 2 * HOUR
"""Milliseconds for which the time of an invalidation is kept: longer than any load takes."""

_MICROSECONDS: Final = 1_000_000
_TOLERANCE: Final = 0.1
"""Seconds by which a clock may be set without the result of a load being refused."""
_DRIFT: Final = 0.01
"""Seconds that are tolerated in addition for each second that has passed: clocks are adjusted by running faster or
slower."""

_NOW: Final = b"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""
# For a time in the future, see the module's docstring; it is kept for as long as an invalidation by a caller.
# The TTL of a tag is twice what is needed, so that most stores do not change it: each change sends an invalidation
# to the processes that hold the tag in their near cache.
_FETCH_SOURCE: Final = (
    _NOW
    + b"""
local version, ttl = redis.call('GET', KEYS[1]), tonumber(ARGV[2])
if not version or #version ~= 24 then
  version = string.rep('0', 16) .. ARGV[1]
  redis.call('SET', KEYS[1], version, 'PX', 2 * ttl)
elseif (tonumber(string.sub(version, 1, 16)) or 0) > now then
  version = string.format('%016.0f', now) .. ARGV[1]
  redis.call('SET', KEYS[1], version, 'PX', math.max(2 * ttl, 7200000))
elseif redis.call('PTTL', KEYS[1]) < ttl then
  redis.call('PEXPIRE', KEYS[1], 2 * ttl)
end
return {version, now}
"""
)
_INVALIDATE_SOURCE: Final = (
    _NOW
    + b"""
redis.call('SET', KEYS[1], string.format('%016.0f', now) .. ARGV[1], 'PX', ARGV[2])
return 1
"""
)


class _VersionScript(Script):
    """Takes (key, nonce, least TTL in milliseconds); returns the tag's version and the server's time."""

    def __init__(self) -> None:
        super().__init__(_FETCH_SOURCE, (list,))

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        for reply in replies:
            if not isinstance(reply, ServerReply):
                version, now = expect_parts(reply, 2, _REPLY_TYPES)
                if not (isinstance(version, bytes) and isinstance(now, int) and 0 <= now < _LATEST):
                    raise UnexpectedReplyError
        return replies


_REPLY_TYPES: Final = frozenset({bytes, int})
_LATEST: Final = 1 << 62
"""Microseconds: the most that a record's header can hold, and far more than any clock shows."""
_FETCH_VERSIONS: Final = _VersionScript()
_INVALIDATE_TAGS: Final = Script(_INVALIDATE_SOURCE)


class TagVersions(NamedTuple):
    """The versions of some tags.

    Attributes:
        versions: by tag.
        now: the server's time in microseconds; of several servers, the latest.
        skew: microseconds by which the compared clocks may differ.
        earliest: the earliest time of several servers, in microseconds.
    """

    versions: Mapping[bytes, bytes]
    now: int
    skew: int = 0
    earliest: int = 0

    def is_before(self, time: int) -> bool:
        """Return whether it is certain that none of the tags was invalidated at this time or later."""
        return all(
            version[_TIME].isdigit() and int(version[_TIME]) + self.skew < time
            for version in self.versions.values()
        )

    def follows(self, time: int, least: float, most: float) -> bool:
        """Return whether `least` to `most` seconds have passed since a time by the servers' clocks too.

        Otherwise a clock was set meanwhile.
        """
        tolerance = _TOLERANCE + _DRIFT * most + self.skew / _MICROSECONDS
        shortest = (self.earliest - time) / _MICROSECONDS
        longest = (self.now - time) / _MICROSECONDS
        return least - tolerance <= shortest and longest <= most + tolerance


class Tags:
    """The tags of a cache.

    Args:
        executor: sends the requests.
        prefix: of the cache's keys.
        skew: microseconds by which the clocks of the servers that hold the keys may differ.
    """

    def __init__(self, executor: Executor, prefix: bytes, *, skew: int = 0) -> None:
        self._executor = executor
        self._prefix = prefix + _NAME
        self._skew = skew

    def keys(self, tags: Collection[bytes]) -> list[bytes]:
        """Return the keys that hold the versions of tags."""
        return [self._prefix + tag for tag in tags]

    async def fetch_versions(
        self, tags: Collection[bytes], ttl: int, budget: float | None = None
    ) -> TagVersions:
        """Return the versions of tags, and create those that are missing.

        Args:
            tags: of an entry that is to be stored.
            ttl: milliseconds until that entry expires.
            budget: seconds; None for `command_timeout`.

        Raises:
            CacheError: a request failed.
        """
        replies = await self._execute(_FETCH_VERSIONS, self.keys(tags), ttl, budget)
        versions = {tag: version for tag, (version, _) in zip(tags, replies, strict=True)}
        times = [now for _, now in replies]
        return TagVersions(versions, max(times, default=0), self._skew, min(times, default=0))

    def is_key(self, key: bytes) -> bool:
        """Return whether this is the key of a tag."""
        return key.startswith(self._prefix)

    async def invalidate_keys(self, keys: Collection[bytes], budget: float | None = None) -> None:
        """Invalidate the entries that have any of the tags of these keys.

        Raises:
            CacheError: some of the tags may not be invalidated.
        """
        await self._execute(_INVALIDATE_TAGS, keys, _INVALIDATED_TTL, budget)

    async def _execute(
        self, script: Script, keys: Collection[bytes], ttl: int, budget: float | None = None
    ) -> list[Any]:
        """Run a script for each key; wait for all, then raise the first error."""
        requests = send_all(
            self._executor.execute(
                script,
                (key, secrets.token_bytes(_NONCE_BYTES), ttl),
                len(key) + _SCRIPT_BYTES,
                budget=budget,
            )
            for key in keys
        )
        replies = await asyncio.gather(*requests, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
        return replies
