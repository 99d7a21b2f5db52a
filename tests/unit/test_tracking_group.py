"""Several invalidation channels, one per node: local entries are valid while all are connected."""

from __future__ import annotations

from async_redis_cache._client.tracking import TrackingGroup
from harness.near_clock import Near

ONE, OTHER, THIRD = ("10.0.0.1", 7001), ("10.0.0.1", 7002), ("10.0.0.2", 7001)


class Links:
    """The links of a near cache that holds one entry, as soon as all are alive."""

    def __init__(self) -> None:
        self.near = Near()
        self.near.cache.disconnected()
        self.lost = 0
        self.unison = TrackingGroup(self.near.cache, self._lose)

    def _lose(self) -> None:
        self.lost += 1

    def is_near(self) -> bool:
        """Whether an entry stored now is returned."""
        self.near.keep(b"key")
        return self.near.held(b"key") == [b"key"]


def test_nothing_is_returned_until_all_channels_are_connected() -> None:
    """One that says nothing yet may be the one that would tell of the key."""
    links = Links()
    one, other = links.unison.add(ONE), links.unison.add(OTHER)
    one.connected_until(links.near.now + 10)
    assert not links.is_near()
    assert not links.unison.is_whole
    other.connected_until(links.near.now + 10)
    assert links.is_near()
    assert links.unison.is_whole


def test_earliest_keepalive_deadline_counts() -> None:
    """The moment is the earliest of all, and each sign of life may move it on."""
    links = Links()
    one, other = links.unison.add(ONE), links.unison.add(OTHER)
    one.connected_until(links.near.now + 10)
    other.connected_until(links.near.now + 2)
    links.near.now += 1.9
    assert links.is_near()
    links.near.now += 0.1
    assert not links.is_near()
    other.connected_until(links.near.now + 100)
    links.near.now += 7.9
    assert links.is_near()
    links.near.now += 0.1
    assert not links.is_near()


def test_losing_any_channel_drops_everything() -> None:
    """It is said that one was lost; nothing is near until it is back, however alive the others are."""
    links = Links()
    one, other = links.unison.add(ONE), links.unison.add(OTHER)
    one.connected_until(links.near.now + 10)
    other.connected_until(links.near.now + 10)
    assert links.is_near()
    other.disconnected()
    assert links.lost == 1
    assert links.near.counters.near_entries == 0
    assert not links.unison.is_whole
    one.connected_until(links.near.now + 20)
    assert not links.is_near()
    assert not links.near.counters.near_connected
    other.connected_until(links.near.now + 20)
    assert links.is_near()
    assert links.lost == 1


def test_new_node_is_waited_for() -> None:
    """It may own keys that another node owned before: local entries are dropped when it joins."""
    links = Links()
    one = links.unison.add(ONE)
    one.connected_until(links.near.now + 10)
    assert links.is_near()
    new = links.unison.add(OTHER)
    assert links.near.counters.near_entries == 0
    one.connected_until(links.near.now + 10)
    assert not links.is_near()
    new.connected_until(links.near.now + 10)
    assert links.is_near()
    assert links.lost == 0


def test_removed_node_is_not_waited_for() -> None:
    """Later messages of its channel do not count; without any channel nothing is cached locally."""
    links = Links()
    one, other = links.unison.add(ONE), links.unison.add(OTHER)
    one.connected_until(links.near.now + 10)
    assert not links.is_near()
    links.unison.remove(OTHER)
    assert links.is_near()
    assert links.unison.is_whole
    other.disconnected()
    other.connected_until(links.near.now - 1)
    links.unison.remove(THIRD)
    assert links.is_near()
    assert links.lost == 0
    links.unison.remove(ONE)
    links.near.now += 10
    assert not links.is_near()


def test_invalidation_of_any_channel_counts() -> None:
    """Changed keys are dropped and reported; a flush of one node drops everything."""
    links = Links()
    one, other = links.unison.add(ONE), links.unison.add(OTHER)
    for link in (one, other):
        link.connected_until(links.near.now + 10)
    near = links.near
    for key in (b"a", b"b", b"c"):
        near.keep(key)
    one.changed([b"a"])
    other.changed([b"b"])
    assert near.held(b"a", b"b", b"c") == [b"c"]
    assert near.counters.near_invalidations == 2
    other.flush()
    assert near.held(b"c") == []
    assert links.is_near()
