"""The eviction policies and traces of the benchmarks."""

import math
from itertools import islice
from random import Random

import pytest

from benchmarks.evictions import OURS, Sieve
from benchmarks.policies import hit_ratio
from benchmarks.traces import TRACES, Step, with_removals, zipf

NOW, EXPIRES = 1.0, math.inf
MAX_ENTRIES, MAX_BYTES = 20, 400


def tiny_trace() -> list[Step]:
    """Few keys, asked for and removed, so that every policy is full nearly all the time."""
    return list(islice(with_removals(zipf(0.9, 1, 100), 2), 3_000))


@pytest.mark.parametrize("name", OURS)
def test_bounds_are_kept(name: str) -> None:
    """After no step are there more entries or bytes than allowed, and bytes are counted right."""
    policy = OURS[name](MAX_ENTRIES, MAX_BYTES)
    size = Random(3)
    held: dict[bytes, int] = {}
    for is_read, key in tiny_trace():
        if is_read:
            data = bytes(size.randrange(30))
            policy.put(key, data, EXPIRES)
            held[key] = len(key) + len(data)
        else:
            policy.remove(key)
        held = {key: size for key, size in held.items() if key in policy._entries}
        assert len(policy) == len(held) <= MAX_ENTRIES
        assert policy.held_bytes == sum(held.values()) <= MAX_BYTES
    policy.put(b"large", bytes(MAX_BYTES), EXPIRES)
    assert policy.get(b"large", NOW) is None


@pytest.mark.parametrize("name", OURS)
def test_a_removed_key_is_gone(name: str) -> None:
    """Whatever stands where, a removed key is not found again, and the others are."""
    policy = OURS[name](MAX_ENTRIES)
    hit_ratio(policy, tiny_trace())
    keys = list(policy._entries)
    Random(4).shuffle(keys)
    while keys:
        key = keys.pop()
        policy.remove(key)
        assert policy.get(key, NOW) is None
        assert all(policy.get(other, NOW) is not None for other in keys)
    assert len(policy) == policy.held_bytes == 0


@pytest.mark.parametrize("name", OURS)
def test_entry_is_returned_until_it_expires(name: str) -> None:
    """Each entry has a last moment of its own, also under a policy."""
    policy = OURS[name](MAX_ENTRIES)
    policy.put(b"key", b"data", 2.0)
    assert policy.get(b"key", 1.9) == b"data"
    assert policy.get(b"key", 2.0) is None


@pytest.mark.parametrize("name", OURS)
def test_requested_keys_outlive_others(name: str) -> None:
    """A full cache drops entries that were not requested, in order, before any other."""
    policy = OURS[name](4)
    for key in (b"a", b"b", b"c", b"d"):
        policy.put(key, b"", EXPIRES)
    for key in (b"a", b"c"):
        policy.get(key, NOW)
    for key in (b"e", b"f"):
        policy.put(key, b"", EXPIRES)
    assert set(policy._entries) == {b"a", b"c", b"e", b"f"}


class SieveOnPaper:
    """SIEVE without links: a list from the oldest to the newest, and the hand as an index."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.entries: list[tuple[bytes, bool]] = []
        self.hand = 0

    def keys(self) -> list[bytes]:
        return [key for key, _ in self.entries]

    def read(self, key: bytes) -> None:
        if key in self.keys():
            self.entries[self.keys().index(key)] = (key, True)
            return
        if len(self.entries) == self.max_entries:
            self.hand %= len(self.entries)
            while self.entries[self.hand][1]:
                self.entries[self.hand] = (self.entries[self.hand][0], False)
                self.hand = (self.hand + 1) % len(self.entries)
            # What follows takes its index, so the hand need not move. After the newest it begins
            # at the oldest again, not at the one that is added now.
            del self.entries[self.hand]
            if self.hand == len(self.entries):
                self.hand = 0
        self.entries.append((key, False))

    def remove(self, key: bytes) -> None:
        if key in self.keys():
            index = self.keys().index(key)
            del self.entries[index]
            if index < self.hand:
                self.hand -= 1
            elif self.hand == len(self.entries):
                self.hand = 0


def test_sieve_drops_what_it_drops_on_paper() -> None:
    """The linked SIEVE holds the same keys as the plain one after every step, removals included."""
    sieve, paper = Sieve(MAX_ENTRIES), SieveOnPaper(MAX_ENTRIES)
    removals = Random(5)
    for _, key in tiny_trace():
        if removals.random() < 0.2:
            sieve.remove(key)
            paper.remove(key)
        else:
            if sieve.get(key, NOW) is None:
                sieve.put(key, b"", EXPIRES)
            paper.read(key)
        assert list(sieve._entries) == paper.keys()


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_is_the_same_each_time(name: str) -> None:
    """A trace is made anew without a difference, so figures of two machines can be compared."""
    assert list(islice(TRACES[name](), 1_000)) == list(islice(TRACES[name](), 1_000))
