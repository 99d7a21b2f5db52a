"""The operations for many keys: what both APIs guarantee."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheInputError
from harness.apis import until_gone

if TYPE_CHECKING:
    # At run time pytest itself must be the first to import it.
    from contract_fixtures import NewCache

pytest_plugins = ["contract_fixtures"]


async def test_many_are_stored_and_retrieved(cache: AsyncRedisCache) -> None:
    """`store_many` stores all values; `retrieve_many` returns the present ones in the order of the keys."""
    assert await cache.store_many(None, {"a": 1, "b": "", "c": [3]}) is None  # type: ignore[func-returns-value]
    found = await cache.retrieve_many(None, ["c", "missing", "b", "a"])
    assert list(found.items()) == [("c", [3]), ("b", ""), ("a", 1)]
    assert await cache.retrieve(None, "b") == ""


@pytest.mark.depends_on("api", "near")
async def test_no_keys_need_no_server(cache: AsyncRedisCache) -> None:
    """Nothing to do is done without a round trip."""
    trips = cache.stats().round_trips
    await cache.store_many(None, {})
    assert await cache.retrieve_many(None, []) == {}
    assert await cache.remove_many(None, []) == 0
    assert cache.stats().round_trips == trips


@pytest.mark.depends_on("api", "storage", "near")
async def test_a_key_named_twice_is_one_key(cache: AsyncRedisCache) -> None:
    """A repeated key is asked for once, and removed once."""
    await cache.store(None, "key", 1)
    hits = cache.stats().hits
    assert await cache.retrieve_many(None, ["key", "key"]) == {"key": 1}
    assert cache.stats().hits == hits + 1
    assert await cache.remove_many(None, ["key", "key", "missing"]) == 1


@pytest.mark.depends_on("api")
async def test_keys_may_come_from_any_iterable(cache: AsyncRedisCache) -> None:
    """Generators, sets and views do; one text is refused, since its letters are no keys."""
    await cache.store_many(None, {"a": 1, "b": 2, "c": 3})
    assert await cache.retrieve_many(None, (key for key in "ab")) == {"a": 1, "b": 2}
    assert await cache.remove_many(None, {"a", "b"}) == 2
    assert await cache.remove_many(None, {"c": 0}.keys()) == 1
    for operation in (cache.retrieve_many, cache.remove_many):
        with pytest.raises(CacheInputError) as caught:
            await operation(None, "abc")
        assert caught.value.code == "BAD_KEY"


async def test_none_among_many_removes_its_key(cache: AsyncRedisCache) -> None:
    """Store_many removes the keys whose value is None, and stores the others."""
    await cache.store_many(None, {"gone": 1, "kept": 2})
    await cache.store_many(None, {"gone": None, "new": 3, "missing": None})
    assert await cache.retrieve_many(None, ["gone", "kept", "new", "missing"]) == {
        "kept": 2,
        "new": 3,
    }


async def test_many_share_a_timeout(cache: AsyncRedisCache) -> None:
    """The timeout is that of each value stored."""
    await cache.store_many(None, {"a": 1, "b": 2}, 25_000)
    for key in "ab":
        assert 15_000 < (await cache.time_to_live(None, key) or 0) <= 25_000


async def test_remove_many_counts_what_was_there(cache: AsyncRedisCache) -> None:
    """Keys without a value are not counted, and neither are values that expired."""
    await cache.store_many(None, {"a": 1, "b": 2, "c": 3})
    await cache.store(None, "short", 1, 5)
    await until_gone(cache, "short")
    removals = cache.stats().removals
    assert await cache.remove_many(None, ["a", "c", "missing", "short"]) == 2
    assert cache.stats().removals == removals + 2
    assert await cache.retrieve_many(None, ["a", "b", "c"]) == {"b": 2}


@pytest.mark.depends_on("server", "storage", "near")
async def test_any_number_at_once(cache: AsyncRedisCache) -> None:
    """However many there are: all are stored, retrieved in their order, and removed."""
    for count in (1, 255, 256, 257, 900):
        values = {f"key {number}": [number] for number in range(count)}
        await cache.store_many(None, values)
        assert list((await cache.retrieve_many(None, values)).items()) == list(values.items())
        assert await cache.remove_many(None, values) == count
        assert await cache.retrieve_many(None, values) == {}


@pytest.mark.depends_on("api", "storage", "near")
async def test_large_values_at_once(cache: AsyncRedisCache) -> None:
    """Many large values make several exchanges and come back whole."""
    values = {f"key{number}": f"{number}" * 200_000 for number in range(10)}
    await cache.store_many(None, values)
    assert await cache.retrieve_many(None, values) == values


@pytest.mark.depends_on("api")
async def test_one_bad_entry_refuses_all(cache: AsyncRedisCache) -> None:
    """What is wrong with any key or value is found before anything is sent."""
    trips = cache.stats().round_trips
    bad_keys: dict[Any, Any] = {"good": 1, "": 2}
    with pytest.raises(CacheInputError) as caught:
        await cache.store_many("trace", bad_keys)
    assert (caught.value.code, caught.value.trace_id) == ("BAD_KEY", "trace")
    with pytest.raises(CacheInputError) as caught:
        await cache.store_many(None, {"good": 1, "bad": lambda: None})
    assert caught.value.code == "NOT_SERIALIZABLE"
    with pytest.raises(CacheInputError) as caught:
        await cache.store_many(None, {"good": 1}, -1)
    assert caught.value.code == "BAD_TIMEOUT"
    for operation in (cache.retrieve_many, cache.remove_many):
        with pytest.raises(CacheInputError) as caught:
            await operation(None, ["good", "bad\n"])
        assert caught.value.code == "BAD_KEY"
    assert cache.stats().round_trips == trips
    assert await cache.contains(None, "good") is False


@pytest.mark.depends_on("api", "storage", "near")
async def test_many_calls_for_many_keys(new_cache: NewCache) -> None:
    """Calls for many keys, made at once with overlapping keys, do not mix up their answers."""
    keys = [f"key{number}" for number in range(120)]
    # As long as debug mode takes for so many.
    async with new_cache(command_timeout=20_000) as cache:
        await cache.store_many(None, {key: key for key in keys})

        async def ask(start: int) -> None:
            wanted = keys[start : start + 40]
            found = await cache.retrieve_many(None, [*wanted, f"missing{start}"])
            assert found == {key: key for key in wanted}

        await asyncio.gather(*map(ask, range(80)))


@pytest.mark.depends_on("api", "storage")
async def test_many_over_a_small_limit(new_cache: NewCache) -> None:
    """A value over the limit is refused by its size alone, whatever stands beside it."""
    async with new_cache(max_value_size=100) as cache:
        await cache.store_many(None, {"a": "x" * 50, "b": "y" * 50})
        with pytest.raises(CacheInputError) as caught:
            await cache.store_many(None, {"c": "z" * 50, "d": "secret" * 50})
        assert caught.value.code == "VALUE_TOO_LARGE"
        assert "secret" not in str(caught.value)
        assert await cache.retrieve_many(None, ["a", "b", "c", "d"]) == {
            "a": "x" * 50,
            "b": "y" * 50,
        }
