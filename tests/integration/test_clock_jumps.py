"""The server's clock is set by hours: no stale value is read, and loads with tags are soon cached again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache._engine.load_options import LoadPolicy
from async_redis_cache._engine.tags import TagVersions
from async_redis_cache._protocol.record import VALUE, Record, record_of, with_tags
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from harness import Client, Server

pytestmark = pytest.mark.depends_on("server")

SECOND = 1_000_000
HOUR = 3_600 * SECOND
"""Microseconds."""
PREFIX = "jumps:"
OPTIONS: dict[str, Any] = {"key_prefix": PREFIX}
TAG = f"{PREFIX}\0tag:tag"


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("api", APIS)
async def test_loads_are_kept_again_when_the_clock_was_set_back(
    server: Server, raw: Client, api: Api, *, near: bool
) -> None:
    """41. A tag that was invalidated at a future time, by the clock, costs one load whose result is not stored."""
    loads = 0

    def load() -> int:
        nonlocal loads
        loads += 1
        return loads

    async with configured(server.url, api, near_cache_enabled=near, **OPTIONS) as cache:
        await cache.invalidate_tags(None, "tag")
        # As it would stand there had the clock been set back since.
        version = raw.get(TAG) or b""
        raw.set(TAG, b"%016d" % (int(version[:16]) + HOUR) + version[16:], px=7_200_000)
        for _ in range(5):
            await cache.retrieve_or_load(None, "key", load, tags=["tag"])
        assert loads == 2


async def test_values_of_a_tag_from_the_future_are_invalid(server: Server, raw: Client) -> None:
    """41. After the clock was set back, the order of events is unknown: the tag is invalidated once more."""
    async with configured(server.url, **OPTIONS) as cache:
        await cache.invalidate_tags(None, "tag")
        version = raw.get(TAG) or b""
        raw.set(TAG, b"%016d" % (int(version[:16]) + HOUR) + version[16:], px=7_200_000)
        await cache.store(None, "before", 1, tags=["tag"])
        seconds, micros = raw.time()
        assert int((raw.get(TAG) or b"")[:16]) <= seconds * SECOND + micros
        assert await cache.retrieve(None, "before") == 1
        assert raw.pttl(TAG) > 3_600_000


@pytest.mark.parametrize("jump", [-2 * HOUR, -HOUR, HOUR, 2 * HOUR])
async def test_load_is_not_kept_when_the_clock_was_set_meanwhile(
    server: Server, raw: Client, jump: int
) -> None:
    """41. A tag that another process invalidates during a load is invalid, although the clock was set back."""
    async with (
        configured(server.url, **OPTIONS) as cache,
        configured(server.url, **OPTIONS) as other,
    ):

        async def load() -> str:
            flights = cache._lifecycle.ready().engine.single_flight._in_flight
            # As if the clock had been set by so much since the load began.
            flights[f"{PREFIX}key".encode()].lease._granted_at -= jump
            await other.invalidate_tags(None, "tag")
            if jump > HOUR:
                # What is remembered of it has expired by then.
                raw.delete(TAG)
            return "old"

        assert await cache.retrieve_or_load(None, "key", load, tags=["tag"]) == "old"
        assert await other.retrieve(None, "key") is None


def test_stamp_follows_when_the_servers_clock_went_on_as_ours() -> None:
    """The tolerance is a tenth of a second, and a hundredth of what has passed."""
    stamp = TagVersions({}, now=10 * SECOND, earliest=10 * SECOND)
    assert stamp.follows(8 * SECOND, least=1.9, most=2.1)
    assert stamp.follows(8 * SECOND, least=2.05, most=2.1)
    assert not stamp.follows(8 * SECOND, least=2.2, most=2.3)
    assert not stamp.follows(8 * SECOND, least=1.0, most=1.8)


def test_stamp_follows_by_each_of_several_clocks() -> None:
    """With one of several server clocks set, order is unknown."""
    assert TagVersions({}, 10 * SECOND, 50_000, 10 * SECOND - 50_000).follows(8 * SECOND, 2.0, 2.0)
    assert not TagVersions({}, 10 * SECOND, 50_000, 9 * SECOND).follows(8 * SECOND, 2.0, 2.0)
    assert not TagVersions({}, 11 * SECOND, 50_000, 10 * SECOND).follows(8 * SECOND, 2.0, 2.0)


def test_value_from_the_future_is_not_fresh() -> None:
    """It was stored before the clock was set back, and its age is not known. What lasts needs no clock."""
    record = Record(VALUE, 0, stored_at=3_600_000, fresh_until=3_660_000, stale_ttl=1_000)
    assert record.is_fresh(3_600_000)
    assert record.is_fresh(3_598_000)
    assert not record.is_fresh(3_597_999)
    assert record._replace(stale_ttl=0).is_fresh(0)


async def test_value_from_the_future_is_loaded_anew(server: Server, raw: Client) -> None:
    """41. A value that was stored at a future time is neither fresh nor stale: it is loaded again."""
    options = OPTIONS | {"loading_stale_timeout": 60_000}
    async with configured(server.url, **options) as cache:
        await cache.retrieve_or_load(None, "key", lambda: "old")
        data = bytearray(raw.get(f"{PREFIX}key") or b"")
        stored = record_of(bytes(data))
        assert stored is not None
        for at, moment in ((35, stored.stored_at), (43, stored.fresh_until)):
            data[at : at + 8] = (moment + HOUR // 1_000).to_bytes(8)
        raw.set(f"{PREFIX}key", bytes(data), px=60_000)
        later = record_of(bytes(data))
        assert later is not None
        assert later.stored_at == stored.stored_at + HOUR // 1_000
        assert await cache.retrieve(None, "key") is None
        assert await cache.retrieve_or_load(None, "key", lambda: "new") == "new"


async def test_age_is_never_negative(server: Server, raw: Client) -> None:
    """41. The age of a value that was stored at a future time is 0, as it becomes the `Age` of a response."""
    async with configured(server.url, **OPTIONS) as cache:
        await cache.retrieve_or_load(None, "key", lambda: "value")
        data = bytearray(raw.get(f"{PREFIX}key") or b"")
        stored = record_of(bytes(data))
        assert stored is not None
        data[35:43] = (stored.stored_at + HOUR // 1_000).to_bytes(8)
        raw.set(f"{PREFIX}key", bytes(data), px=60_000)
        entry = await cache.retrieve_entry(None, "key")
        assert (entry.value, entry.age) == ("value", 0)


def test_hit_without_a_question_needs_a_known_age() -> None:
    """The short way for hits takes no value from the future either."""
    policy = LoadPolicy(
        0.0,
        0.0,
        stale_timeout=1_000,
        soft_timeout=0,
        hard_timeout=1_000,
        missing_timeout=0,
        jitter=0.0,
    )
    plain = with_tags(b"1", {}, 3_600_000, 60_000)
    data = plain[:51] + (1_000).to_bytes(8) + plain[59:]  # With a stale TTL.
    assert policy.usable_payload(data, lambda: 3_600_000, lambda: 0.5) == b"1"
    assert policy.usable_payload(data, lambda: 1_000, lambda: 0.5) is None
