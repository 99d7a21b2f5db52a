"""What stands on the server where a value was loaded, or is being loaded: a head, and the payload.

The head begins with a mark that no stored value has. It says until when the value is fresh, by the
server's clock, and may hold the right to load the key again: a token, and until when that is good. A
placeholder, where nothing is stored yet, is a mark and that right alone.

The scripts that read and write heads on the server share the Lua functions here.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

__all__ = [
    "HEAD_BYTES",
    "HEAD_SCRIPT",
    "MISSING",
    "PLACEHOLDER",
    "VALUE",
    "VERSION_BYTES",
    "Record",
    "is_record",
    "payload_at_once",
    "record_of",
    "version_of",
]

_MARK: Final = b"\xc1\x02"
VALUE: Final = b"v"
"""The kind of a record that holds a value."""
MISSING: Final = b"m"
"""The kind of a record that says that there is none."""
PLACEHOLDER: Final = b"l"
"""The kind of what stands where nothing is stored and somebody loads."""
_HEAD: Final = Struct(">3x16sQ8sQQQQ")
HEAD_BYTES: Final = _HEAD.size
_PLACEHOLDER_BYTES: Final = 27
VERSION_BYTES: Final = 8
_VERSION: Final = slice(_PLACEHOLDER_BYTES, _PLACEHOLDER_BYTES + VERSION_BYTES)
_SLACK: Final = slice(51, 59)
_NO_SLACK: Final = bytes(8)

HEAD_SCRIPT: Final = b"""
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
  local head = redis.call('GETRANGE', key, 0, 66)
  local kind = string.sub(head, 3, 3)
  local whole = kind == 'l' and #head >= 27 or (kind == 'v' or kind == 'm') and #head == 67
  return head, string.sub(head, 1, 2) == MARK and whole and kind or ''
end
local function leased_until(head) return number(head, 20) end
local function fresh_until(head) return number(head, 44) end
local function slack(head) return number(head, 52) end
local function touched(key, life)
  local head, kind = '', ''
  if type(redis.pcall('GETRANGE', key, 0, 0)) == 'string' then head, kind = head_of(key) end
  if kind == '' then return redis.call('PEXPIRE', key, life) * life end
  if kind ~= 'v' or fresh_until(head) <= now() then return 0 end
  redis.call('SETRANGE', key, 43, packed(now() + life))
  redis.call('PEXPIRE', key, life + slack(head))
  return life + slack(head)
end
"""
"""Lua: a head's numbers, the time in milliseconds, and `touched`, which gives a value a new life and
says how long it then stays, 0 where there is none."""


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
        payload: what was stored, as for a value without a head.
    """

    kind: bytes
    leased_until: int
    is_held: bool = True
    stored_at: int = 0
    fresh_until: int = 0
    slack: int = 0
    cost: int = 0
    payload: bytes = b""

    def is_fresh(self, now: int) -> bool:
        """Whether it is neither stale nor a placeholder, at this moment."""
        return self.kind != PLACEHOLDER and (self.is_lasting or now < self.fresh_until)

    @property
    def is_lasting(self) -> bool:
        """Whether it is fresh for as long as it can be read, so that nobody needs to know the time.

        That there is none is no value, and yet may have been touched.
        """
        return self.kind == VALUE and not self.slack


def is_record(data: bytes) -> bool:
    """Whether this begins with a head; otherwise it is a value."""
    return data.startswith(_MARK)


def payload_at_once(data: bytes) -> bytes | None:
    """The payload, where one need not know what time it is: of a plain value, and of most records."""
    if not data.startswith(_MARK):
        return data
    if data[2:3] == VALUE and data[_SLACK] == _NO_SLACK:
        return data[HEAD_BYTES:]
    return None


def record_of(data: bytes) -> Record | None:
    """What is stored as a record; None where it is damaged."""
    kind = data[2:3]
    if kind == PLACEHOLDER and len(data) >= _PLACEHOLDER_BYTES:
        return Record(PLACEHOLDER, int.from_bytes(data[19:27]))
    if kind not in {VALUE, MISSING} or len(data) < HEAD_BYTES:
        return None
    token, leased_until, _, stored_at, fresh_until, slack, cost = _HEAD.unpack_from(data)
    payload = data[HEAD_BYTES:]
    return Record(kind, leased_until, any(token), stored_at, fresh_until, slack, cost, payload)


def version_of(data: bytes) -> bytes:
    """By which a script knows that a key still holds this data: of a record, its version."""
    return data if not is_record(data) or record_of(data) is None else data[_VERSION]
