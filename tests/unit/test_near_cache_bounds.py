"""The near cache is always bounded; it admits keys that are requested again and evicts others."""

from __future__ import annotations

import pytest

from async_redis_cache._engine.sieve import Doorkeeper, NearEntry, Sieve
from harness.near_clock import FOR_EVER, ROOM, Near


def test_entries_are_bounded() -> None:
    """At every moment: the entry that has to go has gone before the new one is in."""
    near = Near(max_size=3)
    for number in range(10):
        near.keep(b"%d" % number)
        assert near.counters.near_entries <= 3
    assert near.counters.near_evictions == 7
    assert near.held(b"7", b"8", b"9") == [b"7", b"8", b"9"]


def test_bytes_are_bounded() -> None:
    """Keys, data and what Python needs for each entry are counted, and as many go as it takes."""
    near = Near(max_bytes=ROOM)
    for number in range(20):
        near.keep(b"%d" % number, b"x" * 1_000)
        assert near.counters.near_bytes <= ROOM
    assert near.counters.near_bytes >= near.counters.near_entries * 1_001
    near.keep(b"large", b"x" * 8_000)
    assert near.counters.near_bytes <= ROOM
    assert near.held(b"large") == [b"large"]


def test_all_bytes_may_be_used() -> None:
    """What fills the room to the last byte is kept, as one entry or as two."""
    near = Near()
    near.keep(b"a", b"x" * 1_000)
    size = near.counters.near_bytes
    for count in (1, 2):
        near = Near(max_bytes=count * size)
        keys = [b"a", b"b"][:count]
        for key in keys:
            near.keep(key, b"x" * 1_000)
        assert near.held(*keys) == keys
        assert near.counters.near_bytes == count * size


def test_entry_larger_than_the_bound_is_not_stored() -> None:
    """It evicts nothing; the older entry of its key is dropped."""
    near = Near(max_bytes=ROOM)
    near.keep(b"a")
    near.keep(b"b", b"small")
    near.keep(b"b", b"x" * ROOM)
    assert near.held(b"a", b"b") == [b"a"]
    assert (near.counters.near_entries, near.counters.near_evictions) == (1, 0)


def test_new_value_replaces_the_old() -> None:
    """Two replies for one key: the later one counts, once."""
    near = Near(max_size=2)
    near.keep(b"a", b"x" * 500)
    near.keep(b"b", b"1")
    many = near.counters.near_bytes
    near.keep(b"a", b"")
    assert near.get(b"a") == b""
    assert near.held(b"b") == [b"b"]
    assert near.counters.near_bytes == many - 500
    assert (near.counters.near_entries, near.counters.near_evictions) == (2, 0)


def test_requested_entry_survives_eviction() -> None:
    """A full near cache evicts the entry that was not requested, not the oldest."""
    near = Near(max_size=3)
    for key in (b"a", b"b", b"c"):
        near.keep(key)
    near.get(b"a")
    near.keep(b"d")
    assert near.held(b"a", b"b", b"c", b"d") == [b"a", b"c", b"d"]


def test_full_near_cache_admits_keys_requested_twice() -> None:
    """Every key is admitted while there is room; an invalidation makes room."""
    near = Near(max_size=2)
    for key in (b"a", b"b", b"c"):
        asked = near.cache.begin_fill(key)
        assert asked is not None
        near.cache.fill(asked, b"data", FOR_EVER)
    assert near.cache.begin_fill(b"d") is None
    asked_again = near.cache.begin_fill(b"d")
    near.cache.fill(asked_again, b"data", FOR_EVER)
    assert near.held(b"d") == [b"d"]
    assert near.cache.begin_fill(b"e") is None
    near.cache.changed([b"d"])
    assert near.cache.begin_fill(b"f") is not None
    assert near.counters.near_misses == 7


def test_an_emptied_near_cache_has_room() -> None:
    """After a flush every key is admitted at once, even if it was full before."""
    near = Near(max_size=1)
    for key in (b"a", b"b"):
        near.keep(key)
    assert near.cache.begin_fill(b"c") is None
    near.cache.flush()
    assert near.cache.begin_fill(b"d") is not None


def test_the_doorkeeper_forgets() -> None:
    """It remembers a bounded number of keys; an admitted key has to be requested twice again."""
    api = Doorkeeper(2)
    assert [api.admits(key) for key in (b"a", b"a", b"a")] == [False, True, False]
    assert [api.admits(key) for key in (b"b", b"c", b"a", b"c")] == [False, False, False, True]


def entries_of(sieve: Sieve, names: str) -> dict[str, NearEntry]:
    """New entries with these names, each added."""
    entries = {name: NearEntry(name.encode(), 0) for name in names}
    for entry in entries.values():
        sieve.add(entry)
    return entries


def test_sieve_hand_continues_where_it_stopped() -> None:
    """SIEVE: requested entries are passed over once; the next search begins behind the last victim."""
    sieve = Sieve()
    entries = entries_of(sieve, "abcd")
    entries["a"].visited = entries["c"].visited = True
    gone: list[bytes] = []
    for _ in "abcd":
        victim = sieve.victim()
        gone.append(victim.key)
        sieve.remove(victim)
    assert gone == [b"b", b"d", b"a", b"c"]


def test_eviction_ends_when_all_entries_were_visited() -> None:
    """The hand goes round once and takes the entry at which it began."""
    sieve = Sieve()
    entries = entries_of(sieve, "abc")
    for entry in entries.values():
        entry.visited = True
    assert sieve.victim() is entries["a"]
    assert not any(entry.visited for entry in entries.values())


def test_an_empty_sieve_has_no_victim() -> None:
    """Nor has one that was emptied, by one or all at once; it can be filled again."""
    sieve = Sieve()
    for emptied in (False, True):
        with pytest.raises(LookupError):
            sieve.victim()
        entries = entries_of(sieve, "ab")
        sieve.victim()
        if emptied:
            sieve.clear()
        else:
            for entry in entries.values():
                sieve.remove(entry)
        assert all(entry.older is entry.newer is None for entry in entries.values())
    with pytest.raises(LookupError):
        sieve.victim()
