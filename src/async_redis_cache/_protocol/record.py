"""What stands on the server where a value was loaded, or is being loaded: a head, and the payload.

The head begins with a mark that no stored value has. It says until when the value is fresh, by the
server's clock, and may hold the right to load the key again: a token, and until when that is good. A
placeholder, where nothing is stored yet, is a mark and that right alone.

The scripts that read and write heads on the server share the Lua functions here.
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
    "payload_at_once",
    "record_of",
    "stale_ttl_of",
    "untagged_value",
    "version_of",
    "with_tags",
]

CLOCK_SLACK: Final = 2000
"""Milliseconds that a value may seem to be stored too late: the time here is an estimate of the server's, and a
successor's clock may be behind."""
RECORD_MARK: Final = b"\xc1\x02"
VALUE: Final = b"v"
"""The kind of a record that holds a value."""
MISSING: Final = b"m"
"""The kind of a record that says that there is none."""
PLACEHOLDER: Final = b"l"
"""The kind of what stands where nothing is stored and somebody loads."""
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
local MARK, NO_RIGHT = '\\193\\2', string.rep('\\0', 24)
local function packed(number)
  local bytes = ''
  for _ = 1, 8 do
    bytes = string.char(number % 256) .. bytes
    number = math.floor(number / 256)
  end
  return bytes
end
local function number(head, first)
  local sum = 0
  for i = first, first + 7 do sum = sum * 256 + string.byte(head, i) end
  return sum
end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function head_of(key)
  local head = redis.call('GETRANGE', key, 0, 68)
  local kind = string.sub(head, 3, 3)
  local whole = kind == 'l' and #head >= 27 or (kind == 'v' or kind == 'm') and #head == 69
  return head, string.sub(head, 1, 2) == MARK and whole and kind or ''
end
-- No right is good for longer than an hour: what says so is damaged, or the server's clock was set back.
local function leased_until(head)
  local ends = number(head, 20)
  return ends - now() <= 3600000 and ends or 0
end
local function fresh_until(head) return number(head, 44) end
-- At most ten years, whatever a damaged head says: the server refuses lives without end.
local function slack(head) return math.min(number(head, 52), 315360000000) end
local function touched(key, life)
  local head, kind = '', ''
  if type(redis.pcall('GETRANGE', key, 0, 0)) == 'string' then head, kind = head_of(key) end
  if kind == '' then return redis.call('PEXPIRE', key, life) * life, false end
  if kind ~= 'v' or fresh_until(head) <= now() then return 0, false end
  redis.call('SETRANGE', key, 43, packed(now() + life))
  redis.call('PEXPIRE', key, life + slack(head))
  return life + slack(head), string.sub(head, 60, 61) ~= '\\0\\0'
end
"""
"""Lua: a head's numbers, the time in milliseconds, and `touched`, which gives a value a new life and
says how long it then stays, 0 where there is none, and whether it has tags."""


class Record(NamedTuple):
    """What a head says, and the payload behind it. Moments are milliseconds of the server's clock.

    Attributes:
        kind: `VALUE`, `MISSING` or `PLACEHOLDER`.
        leased_until: when the right to load it again ends; 0 where there is none.
        is_held: whether somebody holds that right. Otherwise a load has failed, and until then
            whoever can do without should not try again.
        stored_at: when it was stored.
        fresh_until: from when on it is stale.
        slack: for how many milliseconds it stays on the server after that.
        cost: microseconds that the load took.
        tags: each with the version that it had when the value was stored.
        payload: what was stored, as for a value without a head.
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
        """Whether it is neither stale nor a placeholder, at this moment."""
        return self.kind != PLACEHOLDER and (
            self.is_lasting or (now < self.fresh_until and not self.is_from_the_future(now))
        )

    def is_from_the_future(self, now: int) -> bool:
        """Whether it was stored before the server's clock was set back: nobody knows how old it is."""
        return now < self.stored_at - CLOCK_SLACK

    @property
    def is_lasting(self) -> bool:
        """Whether it is fresh for as long as it can be read, so that nobody needs to know the time.

        That there is none is no value, and yet may have been touched.
        """
        return self.kind == VALUE and not self.stale_ttl


def is_record(data: bytes) -> bool:
    """Whether this begins with a head; otherwise it is a value."""
    return data.startswith(RECORD_MARK)


def payload_at_once(data: bytes) -> bytes | None:
    """The payload, where one need not know what time it is: of a plain value, and of most records."""
    if not data.startswith(RECORD_MARK):
        return data
    if data[2:3] == VALUE and data[_STALE_TTL_AND_TAGS] == _NEITHER and len(data) >= HEADER_BYTES:
        return data[HEADER_BYTES:]
    return None


def untagged_value(data: bytes) -> tuple[int, int, int, int, int] | None:
    """Of a value without tags the numbers in its head, as `Record` has them.

    They are leased_until, stored_at, fresh_until, slack and cost: faster than a whole `Record`.
    """
    if len(data) < HEADER_BYTES:
        return None
    kind, leased_until, stored_at, fresh_until, slack, extent, cost = _NUMBERS.unpack_from(data)
    if kind != _VALUE or extent:
        return None
    return leased_until, stored_at, fresh_until, slack, cost


def has_tags(data: bytes) -> bool:
    """Whether this head is one of a value with tags, which follow the head."""
    return is_record(data) and data[_TAGS] > _NO_TAGS


def record_of(data: bytes) -> Record | None:
    """What is stored as a record; None where it is damaged."""
    kind = data[2:3]
    if kind == PLACEHOLDER and len(data) >= _PLACEHOLDER_BYTES:
        return Record(PLACEHOLDER, int.from_bytes(data[19:27]))
    if kind not in {VALUE, MISSING} or len(data) < HEADER_BYTES:
        return None
    _, _, token, leased_until, _, stored_at, fresh_until, slack, extent, cost = _HEADER.unpack_from(
        data
    )
    begin = HEADER_BYTES + extent
    try:
        tags = _tags_in(data[HEADER_BYTES:begin]) if extent else _NO_VERSIONS
    except error:
        return None
    return Record(
        kind, leased_until, any(token), stored_at, fresh_until, slack, cost, tags, data[begin:]
    )


def stale_ttl_of(head: bytes) -> int:
    """For how many milliseconds a value with this head stays after its life."""
    return int.from_bytes(head[_STALE_TTL])


def with_tags(payload: bytes, tags: Mapping[bytes, bytes], now: int, life: int) -> bytes:
    """A value that is stored with tags, and lasts."""
    packed = packed_tags(tags)
    nobody, version = bytes(16), secrets.token_bytes(VERSION_BYTES)
    head = _HEADER.pack(RECORD_MARK, VALUE, nobody, 0, version, now, now + life, 0, len(packed), 0)
    return head + packed + payload


def packed_tags(tags: Mapping[bytes, bytes]) -> bytes:
    """Tags and their versions, as they stand behind a head."""
    return b"".join(_TAG.pack(len(tag), version) + tag for tag, version in tags.items())


def _tags_in(packed: bytes) -> dict[bytes, bytes]:
    tags: dict[bytes, bytes] = {}
    at = 0
    while at < len(packed):
        length, version = _TAG.unpack_from(packed, at)
        at += _TAG.size
        tags[packed[at : at + length]] = version
        at += length
    return tags


def version_of(data: bytes) -> bytes:
    """By which a script knows that a key still holds this data: where it has a whole head, its version.

    What the script takes for whole, whatever the tags behind it are: otherwise neither would ever give in.
    """
    has_head = is_record(data) and data[2:3] in {VALUE, MISSING} and len(data) >= HEADER_BYTES
    return data[_VERSION] if has_head else data
