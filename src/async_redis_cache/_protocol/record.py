"""Records: the format of values that are stored with metadata.

A record is a header and the payload. The header starts with a mark that no plain value starts with. It contains the
time until which the value is fresh, by the server's clock, and the load lease of the key: a token, and the time at
which the lease expires. While a key without a value is loaded, it holds a placeholder: a mark and a lease.

The scripts that read and write headers on the server share the Lua functions of this module.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from struct import Struct, error
from typing import Final, NamedTuple

__all__ = [
    "CLOCK_SLACK",
    "HEADER_BYTES",
    "HEADER_SCRIPT",
    "MISSING",
    "PLACEHOLDER",
    "RECORD_MARK",
    "VALUE",
    "VERSION_BYTES",
    "Record",
    "has_tags",
    "is_record",
    "packed_tags",
    "payload_if_lasting",
    "record_of",
    "stale_ttl_of",
    "untagged_value",
    "version_of",
    "with_tags",
]

CLOCK_SLACK: Final = 2000
"""Milliseconds by which `stored_at` may be in the future: the server's time is estimated here, and after a failover the
new master's clock may be behind."""
RECORD_MARK: Final = b"\xc1\x02"
VALUE: Final = b"v"
"""The kind of a record with a value."""
MISSING: Final = b"m"
"""The kind of a record that stands for a value that does not exist at the origin (negative caching)."""
PLACEHOLDER: Final = b"l"
"""The kind of a record that only holds a load lease."""
_HEADER: Final = Struct(">2sc16sQ8sQQQHQ")
_NUMBERS: Final = Struct(">2xB16xQ8xQQQHQ")
_VALUE: Final = VALUE[0]
HEADER_BYTES: Final = _HEADER.size
_PLACEHOLDER_BYTES: Final = 27
VERSION_BYTES: Final = 8
_VERSION: Final = slice(_PLACEHOLDER_BYTES, _PLACEHOLDER_BYTES + VERSION_BYTES)
_STALE_TTL: Final = slice(51, 59)
_TAGS: Final = slice(59, 61)
_NO_TAGS: Final = bytes(2)
_STALE_TTL_AND_TAGS: Final = slice(51, 61)
_NEITHER: Final = bytes(10)
_TAG: Final = Struct(">H24s")
_NO_VERSIONS: Final[Mapping[bytes, bytes]] = {}

HEADER_SCRIPT: Final = b"""
local MARK, NO_LEASE = '\\193\\2', string.rep('\\0', 24)
local function packed(number)
  local bytes = ''
  for _ = 1, 8 do
    bytes = string.char(number % 256) .. bytes
    number = math.floor(number / 256)
  end
  return bytes
end
local function number(header, first)
  local sum = 0
  for i = first, first + 7 do sum = sum * 256 + string.byte(header, i) end
  return sum
end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function header_of(key)
  local header = redis.call('GETRANGE', key, 0, 68)
  local kind = string.sub(header, 3, 3)
  local whole = kind == 'l' and #header >= 27 or (kind == 'v' or kind == 'm') and #header == 69
  return header, string.sub(header, 1, 2) == MARK and whole and kind or ''
end
-- A lease that is valid for more than an hour is damaged, or the server's clock was set back.
local function leased_until(header)
  local ends = number(header, 20)
  return ends - now() <= 3600000 and ends or 0
end
local function fresh_until(header) return number(header, 44) end
-- At most a hundred years, even if the header is damaged: the server rejects what overflows its clock.
local function stale_ttl(header) return math.min(number(header, 52), 3153600000000) end
local function touched(key, ttl)
  local header, kind = '', ''
  if type(redis.pcall('GETRANGE', key, 0, 0)) == 'string' then header, kind = header_of(key) end
  if kind == '' then return redis.call('PEXPIRE', key, ttl) * ttl, false end
  if kind ~= 'v' or fresh_until(header) <= now() then return 0, false end
  redis.call('SETRANGE', key, 43, packed(now() + ttl))
  redis.call('PEXPIRE', key, ttl + stale_ttl(header))
  return ttl + stale_ttl(header), string.sub(header, 60, 61) ~= '\\0\\0'
end
"""
"""Lua functions for headers. `touched` sets a new TTL, and returns how many milliseconds the key then remains on the
server (0 without a value), and whether the value has tags."""


class Record(NamedTuple):
    """A decoded record. Times are in milliseconds, by the server's clock.

    Attributes:
        kind: `VALUE`, `MISSING` or `PLACEHOLDER`.
        leased_until: when the load lease expires; 0 without a lease.
        is_held: whether a load holds the lease. If not, a load has failed, and callers that can use the stored value
            should not load before `leased_until`.
        stored_at: when the value was stored.
        fresh_until: when the value becomes stale.
        stale_ttl: how many milliseconds the value remains on the server after that.
        load_duration: how many microseconds the load took.
        tags: the tags, each with its version at the time of the store.
        payload: the stored data, as for a plain value.
    """

    kind: bytes
    leased_until: int
    is_held: bool = True
    stored_at: int = 0
    fresh_until: int = 0
    stale_ttl: int = 0
    load_duration: int = 0
    tags: Mapping[bytes, bytes] = _NO_VERSIONS
    payload: bytes = b""

    def is_fresh(self, now: int) -> bool:
        """Whether it is neither a placeholder nor stale at this time."""
        return self.kind != PLACEHOLDER and (
            self.is_lasting or (now < self.fresh_until and not self.is_from_the_future(now))
        )

    def is_from_the_future(self, now: int) -> bool:
        """Whether the server's clock was set back after the store, so that the age is unknown."""
        return now < self.stored_at - CLOCK_SLACK

    @property
    def is_lasting(self) -> bool:
        """Whether it is fresh for as long as it exists, so that readers do not need the time.

        This excludes MISSING records, whose TTL can be changed by `touch` without a new `fresh_until`.
        """
        return self.kind == VALUE and not self.stale_ttl


def is_record(data: bytes) -> bool:
    """Whether the data is a record; otherwise it is a plain value."""
    return data.startswith(RECORD_MARK)


def payload_if_lasting(data: bytes) -> bytes | None:
    """The payload of a plain value, or of a record that is lasting and has no tags; otherwise None."""
    if not data.startswith(RECORD_MARK):
        return data
    if data[2:3] == VALUE and data[_STALE_TTL_AND_TAGS] == _NEITHER and len(data) >= HEADER_BYTES:
        return data[HEADER_BYTES:]
    return None


def untagged_value(data: bytes) -> tuple[int, int, int, int, int] | None:
    """The numbers in the header of a value without tags; None for other records. Faster than `record_of`.

    Returns:
        leased_until, stored_at, fresh_until, stale_ttl and load_duration, as in `Record`.
    """
    if len(data) < HEADER_BYTES:
        return None
    kind, leased_until, stored_at, fresh_until, stale_ttl, tag_bytes, load_duration = (
        _NUMBERS.unpack_from(data)
    )
    if kind != _VALUE or tag_bytes:
        return None
    return leased_until, stored_at, fresh_until, stale_ttl, load_duration


def has_tags(data: bytes) -> bool:
    """Whether the data is a record with tags."""
    return is_record(data) and data[_TAGS] > _NO_TAGS


def record_of(data: bytes) -> Record | None:
    """Decode a record; None if it is damaged."""
    kind = data[2:3]
    if kind == PLACEHOLDER and len(data) >= _PLACEHOLDER_BYTES:
        return Record(PLACEHOLDER, int.from_bytes(data[19:27]))
    if kind not in {VALUE, MISSING} or len(data) < HEADER_BYTES:
        return None
    _, _, token, leased_until, _, stored_at, fresh_until, stale_ttl, tag_bytes, load_duration = (
        _HEADER.unpack_from(data)
    )
    begin = HEADER_BYTES + tag_bytes
    try:
        tags = _tags_in(data[HEADER_BYTES:begin]) if tag_bytes else _NO_VERSIONS
    except error:
        return None
    return Record(
        kind,
        leased_until,
        any(token),
        stored_at,
        fresh_until,
        stale_ttl,
        load_duration,
        tags,
        data[begin:],
    )


def stale_ttl_of(header: bytes) -> int:
    """How many milliseconds a value with this header remains on the server after its TTL."""
    return int.from_bytes(header[_STALE_TTL])


def with_tags(payload: bytes, tags: Mapping[bytes, bytes], now: int, ttl: int) -> bytes:
    """Encode a value with tags that is fresh for its whole TTL."""
    packed = packed_tags(tags)
    no_lease, version = bytes(16), secrets.token_bytes(VERSION_BYTES)
    header = _HEADER.pack(
        RECORD_MARK, VALUE, no_lease, 0, version, now, now + ttl, 0, len(packed), 0
    )
    return header + packed + payload


def packed_tags(tags: Mapping[bytes, bytes]) -> bytes:
    """Encode tags and their versions, as they follow the header."""
    return b"".join(_TAG.pack(len(tag), version) + tag for tag, version in tags.items())


def _tags_in(packed: bytes) -> dict[bytes, bytes]:
    tags: dict[bytes, bytes] = {}
    offset = 0
    while offset < len(packed):
        length, version = _TAG.unpack_from(packed, offset)
        offset += _TAG.size
        tags[packed[offset : offset + length]] = version
        offset += length
    return tags


def version_of(data: bytes) -> bytes:
    """What a script compares to detect whether a key still holds this data: the version in the header, or plain data.

    The header counts as complete under the same condition as in the script, whatever follows it. Otherwise reader and
    script could disagree about damaged data for ever.
    """
    has_head = is_record(data) and data[2:3] in {VALUE, MISSING} and len(data) >= HEADER_BYTES
    return data[_VERSION] if has_head else data
