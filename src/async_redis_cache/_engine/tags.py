"""Tags: what many entries have in common, so that one write makes all of them invalid.

A tag is a key of its own that holds a version: the moment at which the tag was last invalidated, by the
server's clock, and a nonce. An entry bears the versions that its tags had when it was stored, and is valid
for as long as they have them still. So nothing has to know which entries bear a tag, and nothing is left
over: a tag lives a while longer than the last entry that bears it, and a tag that is gone has no version
that could be right.

Whoever stores asks for the versions first. If a tag is invalidated between that and the store, what is
stored is invalid from the beginning. A load asks when it has ended, for only then its tags are known; the
moments in the versions say whether one was invalidated since it began.

The server's clock may be set meanwhile. A moment that is yet to come was said by a clock that was set back since: the
tag is invalidated anew, by the present one, so that one load is not kept, and not all until that moment. And where the
clock has not gone on as ours has since the load began, nobody can say what was sooner: that load is not kept.
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
"""Behind the prefix, before a tag. No key of a user can hold a control character."""
_MOMENT: Final = slice(16)
_NONCE_BYTES: Final = 8
_SCRIPT_BYTES: Final = 500
_REMEMBERED: Final = 2 * HOUR
"""Milliseconds for which it is known when a tag was invalidated: longer than any load takes."""

_MICROSECONDS: Final = 1_000_000
_TOLERANCE: Final = 0.1
"""Seconds by which a clock may be set without being noticed."""
_DRIFT: Final = 0.01
"""And how much more for each second that has passed: clocks are adjusted by going faster or slower."""

_NOW: Final = b"""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""
# A moment that is yet to come: see above. It is remembered for as long as one that a caller asked for.
# A tag lives twice as long as it must, for most stores not to change it: whoever has it near is told
# of each change.
_STAMP: Final = (
    _NOW
    + b"""
local version, life = redis.call('GET', KEYS[1]), tonumber(ARGV[2])
if not version or #version ~= 24 then
  version = string.rep('0', 16) .. ARGV[1]
  redis.call('SET', KEYS[1], version, 'PX', 2 * life)
elseif (tonumber(string.sub(version, 1, 16)) or 0) > now then
  version = string.format('%016.0f', now) .. ARGV[1]
  redis.call('SET', KEYS[1], version, 'PX', math.max(2 * life, 7200000))
elseif redis.call('PTTL', KEYS[1]) < life then
  redis.call('PEXPIRE', KEYS[1], 2 * life)
end
return {version, now}
"""
)
_INVALIDATE: Final = (
    _NOW
    + b"""
redis.call('SET', KEYS[1], string.format('%016.0f', now) .. ARGV[1], 'PX', ARGV[2])
return 1
"""
)


class _VersionScript(Script):
    """(key, nonce, milliseconds that it is to live at least): its version, and what time it is."""

    def __init__(self) -> None:
        super().__init__(_STAMP, (list,))

    def parse_replies(self, arguments: Sequence[Any], replies: Sequence[Any]) -> Sequence[Any]:
        for reply in replies:
            if not isinstance(reply, ServerReply):
                version, now = expect_parts(reply, 2, _STAMPED)
                if not (isinstance(version, bytes) and isinstance(now, int) and 0 <= now < _LATEST):
                    raise UnexpectedReplyError
        return replies


_STAMPED: Final = frozenset({bytes, int})
_LATEST: Final = 1 << 62
"""Microseconds: what stands in a head has a place for no more, and no clock is so far ahead."""
_FETCH_VERSIONS: Final = _VersionScript()
_INVALIDATE_TAGS: Final = Script(_INVALIDATE)


class TagVersions(NamedTuple):
    """The versions of some tags.

    Attributes:
        versions: by tag.
        now: what time it was on the server, in microseconds.
        skew: microseconds by which the clocks may differ that are compared.
        earliest: the time on the server whose clock was behind those of the others.
    """

    versions: Mapping[bytes, bytes]
    now: int
    skew: int = 0
    earliest: int = 0

    def is_before(self, moment: int) -> bool:
        """Whether surely none of the tags was invalidated at this moment or since."""
        return all(
            version[_MOMENT].isdigit() and int(version[_MOMENT]) + self.skew < moment
            for version in self.versions.values()
        )

    def follows(self, moment: int, least: float, most: float) -> bool:
        """Whether so many seconds have passed since a moment by the servers' clocks too: none was set meanwhile."""
        tolerance = _TOLERANCE + _DRIFT * most + self.skew / _MICROSECONDS
        shortest = (self.earliest - moment) / _MICROSECONDS
        longest = (self.now - moment) / _MICROSECONDS
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
        """Under which their versions stand."""
        return [self._prefix + tag for tag in tags]

    async def fetch_versions(
        self, tags: Collection[bytes], life: int, budget: float | None = None
    ) -> TagVersions:
        """Their versions, for an entry that is to live for so many milliseconds.

        Raises:
            CacheError: the server could not be asked.
        """
        answers = await self._execute(_FETCH_VERSIONS, self.keys(tags), life, budget)
        versions = {tag: version for tag, (version, _) in zip(tags, answers, strict=True)}
        times = [now for _, now in answers]
        return TagVersions(versions, max(times, default=0), self._skew, min(times, default=0))

    def is_key(self, key: bytes) -> bool:
        """Whether this is the key of a tag."""
        return key.startswith(self._prefix)

    async def invalidate_keys(self, keys: Collection[bytes], budget: float | None = None) -> None:
        """Make invalid what bears any of the tags of these keys.

        Raises:
            CacheError: of some, nobody may know.
        """
        await self._execute(_INVALIDATE_TAGS, keys, _REMEMBERED, budget)

    async def _execute(
        self, script: Script, keys: Collection[bytes], life: int, budget: float | None = None
    ) -> list[Any]:
        """Ask for each; wait for the last, then raise the first error there was."""
        asked = send_all(
            self._executor.execute(
                script,
                (key, secrets.token_bytes(_NONCE_BYTES), life),
                len(key) + _SCRIPT_BYTES,
                budget=budget,
            )
            for key in keys
        )
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers
