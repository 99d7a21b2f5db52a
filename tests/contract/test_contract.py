"""The operations for one key: what both APIs guarantee on every server and storage format."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheInputError
from harness.apis import until_gone

if TYPE_CHECKING:
    # At run time pytest itself must be the first to import it.
    from contract_fixtures import NewCache, Setup

pytest_plugins = ["contract_fixtures"]

VALUES: list[Any] = [
    "text",
    "",
    "žluťoučký 🐎 \x00\x1f\u2028",
    0,
    -1,
    2**63 - 1,
    1.5,
    -0.0,
    True,
    False,
    [],
    {},
    [1, "a", None, [2.5, {}]],
    {"name": "Ann", "tags": ["x", "y"], "nested": {"": None, "☃": [False]}},
    "x" * 50_000,
]


@dataclass
class User:
    """What a handler would rather have than a dict."""

    name: str
    age: int = 0


async def test_stored_value_is_retrieved(cache: AsyncRedisCache) -> None:
    """Store gives the value itself back, retrieve an equal one; nothing falsy counts as missing."""
    for number, value in enumerate(VALUES):
        assert await cache.store("123", f"key{number}", value) is value
    for number, value in enumerate(VALUES):
        found = await cache.retrieve("123", f"key{number}")
        assert (type(found), found) == (type(value), value)


@pytest.mark.depends_on("api", "storage", "near")
async def test_every_caller_gets_its_own_object(cache: AsyncRedisCache) -> None:
    """Changing what was stored or retrieved changes nothing in the cache."""
    value = {"list": [1]}
    await cache.store(None, "key", value)
    value["list"].append(2)
    first = await cache.retrieve(None, "key")
    assert first == {"list": [1]}
    first["list"].append(3)
    assert await cache.retrieve(None, "key") == {"list": [1]}


async def test_missing_key_returns_none(cache: AsyncRedisCache) -> None:
    """A key that was never stored has no value."""
    assert await cache.retrieve(None, "key") is None
    assert await cache.contains(None, "key") is False
    assert await cache.time_to_live(None, "key") is None


async def test_storing_again_replaces(cache: AsyncRedisCache) -> None:
    """The last value stored is the one, with its own expiry."""
    await cache.store(None, "key", ["old"], 1_000)
    await cache.store(None, "key", ["new"], 50_000)
    assert await cache.retrieve(None, "key") == ["new"]
    assert 10_000 < (await cache.time_to_live(None, "key") or 0) <= 50_000


async def test_storing_none_removes_the_key(cache: AsyncRedisCache) -> None:
    """None is no value: the key is gone, or stays missing."""
    await cache.store(None, "key", 1)
    stored: object = await cache.store(None, "key", None)
    assert stored is None
    assert await cache.contains(None, "key") is False
    assert await cache.store(None, "key", None) is None  # type: ignore[func-returns-value]


async def test_remove_returns_the_removed_value(cache: AsyncRedisCache) -> None:
    """The value the first time, None the second; other keys stay."""
    await cache.store_many(None, {"key": {"a": [1]}, "other": 2})
    assert await cache.remove(None, "key") == {"a": [1]}
    assert await cache.remove(None, "key") is None
    assert await cache.retrieve(None, "other") == 2


async def test_contains_sees_a_value(cache: AsyncRedisCache) -> None:
    """A value is there from when it is stored until it is removed, whatever it is."""
    await cache.store(None, "key", False)
    assert await cache.contains(None, "key") is True
    await cache.remove(None, "key")
    assert await cache.contains(None, "key") is False


async def test_touch_sets_a_new_ttl(cache: AsyncRedisCache) -> None:
    """Touch sets the expiry of a value that is there, longer or shorter, and says if it was."""
    await cache.store(None, "key", "value", 5_000)
    assert await cache.touch(None, "key", 40_000) is True
    assert 30_000 < (await cache.time_to_live(None, "key") or 0) <= 40_000
    assert await cache.touch(None, "key", 20_000) is True
    assert 10_000 < (await cache.time_to_live(None, "key") or 0) <= 20_000
    assert await cache.touch(None, "missing", 1_000) is False
    assert await cache.contains(None, "missing") is False


async def test_expired_value_is_missing(cache: AsyncRedisCache) -> None:
    """After its timeout a value is missing for every operation."""
    await cache.store(None, "stored", 1, 25)
    await cache.store(None, "touched", 1)
    await cache.touch(None, "touched", 25)
    await until_gone(cache, "stored", "touched")
    assert await cache.retrieve_many(None, ["stored", "touched"]) == {}
    assert await cache.remove(None, "stored") is None
    assert await cache.touch(None, "touched") is False
    assert await cache.time_to_live(None, "touched") is None


@pytest.mark.depends_on("api", "storage", "near")
async def test_retrieve_as_a_type(cache: AsyncRedisCache) -> None:
    """With `type` a value is an object of that type; a value that is none of it is a miss."""
    await cache.store(None, "ann", User("Ann", 30))
    await cache.store(None, "bob", ["no", "user"])
    unreadable = cache.stats().unreadable
    assert await cache.retrieve(None, "ann", type=User) == User("Ann", 30)
    assert await cache.retrieve(None, "bob", type=User) is None
    assert cache.stats().unreadable == unreadable + 1
    users = await cache.retrieve_many(None, ["bob", "ann", "eve"], type=User)
    assert users == {"ann": User("Ann", 30)}


@pytest.mark.depends_on("api", "storage")
async def test_a_refused_value_leaves_the_old_one(cache: AsyncRedisCache) -> None:
    """A value that cannot be serialized is an error, and changes nothing."""
    await cache.store(None, "key", "old")
    trips = cache.stats().round_trips
    with pytest.raises(CacheInputError) as caught:
        await cache.store("t-1", "key", lambda: None)
    assert (caught.value.code, caught.value.trace_id) == ("NOT_SERIALIZABLE", "t-1")
    assert cache.stats().round_trips == trips
    assert await cache.retrieve(None, "key") == "old"


@pytest.mark.depends_on("api", "storage", "near")
async def test_many_tasks_read_what_they_wrote(cache: AsyncRedisCache) -> None:
    """Whatever travels together, each caller reads what it has stored before, and no other's."""

    async def visit(number: int) -> None:
        key = f"visitor {number}"
        for turn in range(3):
            await cache.store(None, key, [number, turn])
            assert await cache.retrieve(None, key) == [number, turn]
        assert await cache.remove(None, key) == [number, 2]
        assert await cache.retrieve(None, key) is None

    await asyncio.gather(*map(visit, range(100)))


@pytest.mark.depends_on("api", "near")
async def test_many_tasks_read_one_key(cache: AsyncRedisCache) -> None:
    """All concurrent readers of a key get its value, each an object of its own."""
    await cache.store(None, "key", {"a": [1]})
    found = await asyncio.gather(*(cache.retrieve(None, "key") for _ in range(50)))
    assert found == [{"a": [1]}] * 50
    assert len({id(value) for value in found}) == 50
    assert cache.stats().hits >= 50


@pytest.mark.depends_on("api", "server")
async def test_ping(cache: AsyncRedisCache) -> None:
    """A ping is one round trip and answers nothing."""
    trips = cache.stats().round_trips
    assert await cache.ping(None) is None  # type: ignore[func-returns-value]
    assert cache.stats().round_trips == trips + 1


async def test_clear_empties_the_cache(cache: AsyncRedisCache) -> None:
    """Clear removes all values of the cache, counts them, and leaves it usable."""
    await cache.store_many(None, {f"key{number}": number for number in range(600)})
    removals = cache.stats().removals
    assert await cache.clear(None) == 600
    assert cache.stats().removals == removals + 600
    assert await cache.clear(None) == 0
    assert await cache.retrieve_many(None, [f"key{number}" for number in range(600)]) == {}
    await cache.store(None, "key0", 1)
    assert await cache.clear(None) == 1


async def test_two_caches_share_the_values(setup: Setup, new_cache: NewCache) -> None:
    """What one cache stores, another one on the same server and prefix reads and removes."""
    if setup.server in {"fake", "embedded"}:
        pytest.skip("a private server has one cache")
    async with new_cache() as here, new_cache() as there:
        await here.store(None, "key", "value")
        assert await there.retrieve(None, "key") == "value"
        assert await there.remove(None, "key") == "value"
        assert await here.retrieve(None, "key") is None


@pytest.mark.depends_on("server")
async def test_ttl_shrinks_on_the_server(cache: AsyncRedisCache) -> None:
    """The remaining TTL shrinks by itself and is given in milliseconds."""
    await cache.store(None, "key", 1, 60_000)
    left = await cache.time_to_live(None, "key")
    assert left is not None
    assert 0 < left <= 60_000
    readings = [left]
    while readings[-1] > left - 50:
        readings.append(await cache.time_to_live(None, "key") or 0)
    assert readings == sorted(readings, reverse=True)
