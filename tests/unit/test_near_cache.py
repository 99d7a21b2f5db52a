"""The near cache by itself, on a clock of the test: what it stores, returns, drops and refuses."""

from __future__ import annotations

import pytest

from async_redis_cache._engine.near_cache import NearCache, PendingFill
from harness.near_clock import FOR_EVER, ROOM, Near

GONE = -2


def test_stored_entry_is_returned() -> None:
    """A reply is returned unchanged until it is dropped; keys never requested are not there."""
    near = Near()
    near.keep(b"a", b"1")
    near.keep(b"empty", b"")
    assert near.get(b"a") == b"1"
    assert near.get(b"empty") == b""
    assert near.get(b"b") is None


@pytest.mark.parametrize(
    ("left", "longest", "stay"),
    [(5_000, 60, 5), (90_000, 60, 60), (FOR_EVER, 60, 60), (1, 60, 0.001), (60_000, 0.5, 0.5)],
)
def test_entry_expires_no_later_than_on_the_server(left: int, longest: float, stay: float) -> None:
    """An entry stays for what PTTL says, or for `near_cache.timeout` where that is less."""
    near = Near(longest=longest)
    begun = near.now
    near.keep(b"a", b"1", left)
    near.now = begun + stay - 0.000_5
    assert near.get(b"a") == b"1"
    near.now = begun + stay
    assert near.get(b"a") is None


def test_ttl_counts_from_before_the_request() -> None:
    """However late the reply is, the entry expires no later than the value on the server."""
    near = Near()
    lease = near.cache.begin_fill(b"a")
    near.now += 3
    near.cache.fill(lease, b"1", 5_000)
    near.now += 1.9
    assert near.get(b"a") == b"1"
    near.now += 0.1
    assert near.get(b"a") is None


def test_late_reply_is_not_stored() -> None:
    """One that was under way for longer than it had left is dead on arrival."""
    near = Near()
    lease = near.cache.begin_fill(b"a")
    near.now += 6
    near.cache.fill(lease, b"1", 5_000)
    assert near.get(b"a") is None


@pytest.mark.parametrize("left", [0, GONE, -5])
def test_entry_without_ttl_left_is_not_stored(left: int) -> None:
    """PTTL 0: about to expire. -2: it expired between MGET and PTTL, or PTTL was refused."""
    near = Near()
    near.keep(b"a", b"1", left)
    assert near.get(b"a") is None
    assert near.counters.near_entries == 0


def test_missing_value_is_not_stored() -> None:
    """Only data is cached locally: a miss is requested each time."""
    near = Near()
    near.cache.fill(near.cache.begin_fill(b"a"), None, GONE)
    assert near.get(b"a") is None
    assert near.counters.near_entries == 0


def test_invalidation_during_a_request_prevents_the_fill() -> None:
    """The reply may be older than the invalidation, so it is not stored; other requests are unaffected."""
    near = Near()
    changed, other = near.cache.begin_fill(b"changed"), near.cache.begin_fill(b"other")
    near.cache.changed([b"changed"])
    near.cache.fill(changed, b"old", FOR_EVER)
    near.cache.fill(other, b"right", FOR_EVER)
    assert near.get(b"changed") is None
    assert near.get(b"other") == b"right"


def test_request_after_an_invalidation_may_fill() -> None:
    """Even if the earlier request, whose fill was cancelled, gets its reply in between or later."""
    for late in (False, True):
        near = Near()
        before = near.cache.begin_fill(b"a")
        near.cache.changed([b"a"])
        after = near.cache.begin_fill(b"a")
        if not late:
            near.cache.fill(before, b"old", FOR_EVER)
        near.cache.fill(after, b"new", FOR_EVER)
        if late:
            near.cache.fill(before, b"old", FOR_EVER)
        assert near.get(b"a") == b"new"


def test_first_of_several_requests_fills() -> None:
    """Later askers of the same key neither take the lease over nor end it."""
    near = Near()
    first, second = near.cache.begin_fill(b"a"), near.cache.begin_fill(b"a")
    near.cache.fill(second, b"second", FOR_EVER)
    assert near.get(b"a") is None
    near.cache.fill(first, b"first", FOR_EVER)
    assert near.get(b"a") == b"first"


def test_failed_request_releases_the_pending_fill() -> None:
    """One that failed or was cancelled keeps nothing, and the next asker holds."""
    near = Near()
    near.cache.fill(near.cache.begin_fill(b"a"), None, 0)
    near.keep(b"a", b"1")
    assert near.get(b"a") == b"1"


def test_pending_fill_is_completed_once() -> None:
    """A second settlement, or that of a lease that was never given, is nothing."""
    near = Near()
    lease = near.cache.begin_fill(b"a")
    near.cache.fill(lease, b"1", FOR_EVER)
    near.cache.invalidate([b"a"])
    near.cache.fill(lease, b"1", FOR_EVER)
    near.cache.fill(PendingFill(b"a", near.now), b"1", FOR_EVER)
    assert near.get(b"a") is None


def test_own_writes_invalidate() -> None:
    """`invalidate` drops entries and pending fills, and is not counted as an invalidation by the server."""
    near = Near()
    near.keep(b"a")
    asked = near.cache.begin_fill(b"b")
    near.cache.invalidate([b"a", b"b", b"unknown"])
    near.cache.fill(asked, b"old", FOR_EVER)
    assert near.held(b"a", b"b") == []
    assert near.counters.near_invalidations == 0


def test_flush_removes_entries_and_pending_fills() -> None:
    """Entries are dropped and requests in flight store nothing; later requests do."""
    near = Near()
    near.keep(b"a")
    asked = near.cache.begin_fill(b"b")
    near.cache.flush()
    near.cache.fill(asked, b"old", FOR_EVER)
    assert near.held(b"a", b"b") == []
    near.keep(b"a", b"new")
    assert near.get(b"a") == b"new"


def test_nothing_is_returned_before_it_is_connected() -> None:
    """Nothing is stored until the channel is connected."""
    near = Near()
    near.cache = NearCache(
        near.counters, max_size=9, max_bytes=ROOM, max_ttl=60, clock=lambda: near.now
    )
    assert not near.counters.near_connected
    asked = near.cache.begin_fill(b"a")
    near.keep(b"b")
    near.cache.connected_until(near.now + 1)
    near.cache.fill(asked, b"older than the trust", FOR_EVER)
    assert near.held(b"a", b"b") == []
    assert near.counters.near_entries == 0


def test_nothing_is_returned_after_the_keepalive_deadline() -> None:
    """Without a message by the deadline, entries are withheld from that instant."""
    near = Near()
    near.cache.connected_until(near.now + 2)
    near.keep(b"a")
    near.now += 1.999
    assert near.held(b"a") == [b"a"]
    assert near.cache.is_connected()
    near.now += 0.001
    assert near.held(b"a") == []
    assert not near.cache.is_connected()
    near.keep(b"b")
    near.cache.connected_until(near.now + 2)
    assert near.held(b"b") == []


def test_nothing_is_returned_when_the_loop_was_blocked() -> None:
    """After 20 ms invalidations may be unread: the caller has to let the loop run first, and say so."""
    near = Near()
    near.keep(b"a", b"1")
    assert near.cache.get(b"a") is None
    assert near.cache.is_behind(b"a")
    near.cache.pushes_processed()
    near.now += 0.019
    assert near.cache.get(b"a") == b"1"
    assert not near.cache.is_behind(b"a")
    near.now += 0.001
    assert near.cache.get(b"a") is None
    assert near.cache.is_behind(b"a")
    assert not near.cache.is_behind(b"missing")


def test_entry_is_returned_once_the_loop_has_run() -> None:
    """However long the loop was blocked: all invalidations received by then are applied."""
    near = Near()
    near.keep(b"a", b"1")
    near.now += 0.5
    near.cache.pushes_processed()
    assert near.cache.get(b"a") == b"1"
    assert not near.cache.is_behind(b"a")


def test_loop_turn_does_not_extend_the_keepalive_deadline() -> None:
    """A turn shows that received messages were read, not that the server sent all."""
    near = Near()
    near.cache.connected_until(near.now + 2)
    near.keep(b"a")
    near.now += 1.995
    near.cache.pushes_processed()
    near.now += 0.005
    assert near.cache.get(b"a") is None
    assert not near.cache.is_behind(b"a")
    assert near.held(b"a") == []


def test_each_message_extends_the_keepalive_deadline() -> None:
    """Entries stay valid as long as messages arrive in time."""
    near = Near()
    near.keep(b"a")
    for _ in range(10):
        near.cache.connected_until(near.now + 2)
        near.now += 1.9
        assert near.held(b"a") == [b"a"]


def test_disconnection_empties() -> None:
    """Entries from before the channel was lost are not returned after it reconnects."""
    near = Near()
    near.keep(b"a")
    asked = near.cache.begin_fill(b"b")
    near.cache.disconnected()
    assert near.held(b"a") == []
    assert (near.counters.near_connected, near.counters.near_entries) == (False, 0)
    near.cache.connected_until(near.now + 2)
    near.cache.fill(asked, b"old", FOR_EVER)
    assert near.held(b"a", b"b") == []
    assert near.counters.near_connected


def test_watcher_is_notified_of_each_invalidation() -> None:
    """And when changes may have been missed; of other keys' changes, or once it watches no more, it is not."""
    near = Near()
    told: list[str] = []

    def tell() -> None:
        told.append("a")

    near.cache.watch(b"a", tell)
    near.cache.watch(b"a", lambda: told.append("also a"))
    near.cache.watch(b"b", lambda: told.append("b"))
    near.cache.changed([b"unknown", b"a"])
    assert told == ["a", "also a"]
    near.cache.invalidate([b"b"])
    assert told == ["a", "also a", "b"]
    near.cache.unwatch(b"a", tell)
    near.cache.changed([b"a"])
    assert told == ["a", "also a", "b", "also a"]
    near.cache.disconnected()
    assert sorted(told[4:]) == ["also a", "b"]


def test_disconnection_is_counted_once() -> None:
    """A channel lost twice, or never connected, empties nothing more."""
    near = Near()
    near.cache.disconnected()
    near.cache.disconnected()
    assert near.counters.near_flushes == 1


def test_counters() -> None:
    """Each moves exactly when its documentation says."""
    near = Near(max_size=2)
    near.keep(b"a", b"1", 5_000)
    near.held(b"a", b"a", b"missing")
    assert (near.counters.near_hits, near.counters.near_misses) == (2, 1)
    near.cache.begin_fill(b"missing")
    assert (near.counters.near_hits, near.counters.near_misses) == (2, 2)
    near.cache.changed([b"a", b"unknown"])
    near.cache.changed([b"a"])
    assert near.counters.near_invalidations == 3
    assert (near.counters.near_entries, near.counters.near_bytes) == (0, 0)
    near.keep(b"a")
    near.cache.flush()
    near.cache.flush()
    assert near.counters.near_flushes == 2
    assert (near.counters.near_entries, near.counters.near_bytes) == (0, 0)
    assert near.counters.near_evictions == 0
    assert (near.counters.hits, near.counters.round_trips) == (0, 0)


def test_repr_shows_the_state_and_no_data() -> None:
    """The repr shows the size of a near cache, and whether it is connected."""
    near = Near()
    near.keep(b"secret", b"secret")
    assert "1 entries" in repr(near.cache)
    assert repr(near.cache).endswith(" bytes, connected>")
    near.cache.connected_until(near.now)
    assert repr(near.cache).endswith(" bytes, not connected>")
    assert "secret" not in repr(near.cache)
