"""The states and results of the plain model of loading."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from async_redis_cache import CacheEntry
from async_redis_cache._api.cache_entry import Status

LEASE = 601
"""Milliseconds. Renewed each third of it; no multiple of what other things take."""
SETTLING = 60
"""Milliseconds within which who waits for another process has seen what became of it."""


class Failed(Exception):
    """What a loader raises."""


Outcome = int | None | Failed
"""What a loader gives, or raises."""


@dataclass(frozen=True)
class Call:
    """A call that may load."""

    number: int
    process: int
    key: str
    life: int
    tags: tuple[str, ...]
    refresh_at: float = 0.0
    stale: int = 0
    missing: int = 0


class Given(NamedTuple):
    """What a call gives: as a `CacheEntry`."""

    value: int | None
    status: Status
    age: int | None
    remaining: int | None
    late: bool = False
    """Whether that was up to `SETTLING` later."""


@dataclass
class Entry:
    """What is stored. Moments are milliseconds."""

    value: int | None
    """None: it is known that there is none."""
    stored_at: int | None
    """None where nobody knows."""
    fresh_until: int
    slack: int
    """For how long it stays after that."""
    tags: dict[str, int]
    """How often each had been invalidated when it was stored."""
    tags_until: int
    """For how long its tags are sure to be known."""


@dataclass(eq=False)
class Flight:
    """A load, or the wish for one, and who waits for it in its process."""

    call: Call
    """Who began it."""
    is_ahead: bool
    waiting: list[Call] = field(default_factory=list[Call])
    late: list[Call] = field(default_factory=list[Call])
    """Who joined when its loader had been called."""
    is_void: bool = False
    """Whether its process has changed the key since."""
    begun_at: float | None = None
    """When its loader was called; until then another one loads."""
    tags: dict[str, int] = field(default_factory=dict[str, int])
    """As they were then."""

    def held_until(self, now: float) -> int:
        """Until when the right is good, as it was last renewed."""
        assert self.begun_at is not None
        renewals = math.floor((now - self.begun_at) / (LEASE / 3))
        return math.floor(self.begun_at + renewals * LEASE / 3) + LEASE


@dataclass
class Key:
    """What is known of a key, everywhere."""

    entry: Entry | None = None
    holder: Flight | None = None
    """Who has the right to load it."""
    alone_until: int = 0
    """After a load that failed: until when it is not tried again by who can do without."""


def as_given(entry: CacheEntry[int]) -> Given:
    """As the model says it."""
    return Given(entry.value, entry.status, entry.age, entry.remaining)


def same(found: Given, expected: Given) -> bool:
    """Whether this is what was expected, and as old."""
    if found[:2] != expected[:2]:
        return False
    if found.remaining is None or expected.remaining is None:
        return found[2:4] == expected[2:4]
    late = found.remaining - expected.remaining
    # That of a plain value is rounded by the server, and may be less by one.
    is_right = -(expected.age is None) <= late <= SETTLING * expected.late
    if expected.age is None or found.age is None:
        return is_right and found.age is expected.age
    return is_right and found.age == expected.age - late
