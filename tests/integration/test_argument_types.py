"""Timeouts and load options are checked by type in every call."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheConfigError,
    CacheInputError,
    CacheStateError,
    RedisCache,
)
from async_redis_cache._common.options import Options
from async_redis_cache._common.stats import CacheStats
from async_redis_cache._values.codec import Codec
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on("api")

Call = Callable[[AsyncRedisCache, Any], Awaitable[Any]]


class Seconds(enum.IntEnum):
    """Timeouts with names."""

    LONG = 60_000


CALLS: dict[str, Call] = {
    "store": lambda cache, timeout: cache.store(None, "key", 1, timeout),
    "store_many": lambda cache, timeout: cache.store_many(None, {"key": 1}, timeout),
    "touch": lambda cache, timeout: cache.touch(None, "key", timeout),
    "load": lambda cache, timeout: cache.retrieve_or_load(None, "key", lambda: 1, timeout),
    "load_many": lambda cache, timeout: cache.retrieve_or_load_many(
        None, ["key"], lambda keys: dict.fromkeys(keys, 1), timeout
    ),
    "load_none": lambda cache, timeout: cache.retrieve_or_load_many(
        None, [], lambda keys: dict.fromkeys(keys, 1), timeout
    ),
    "store_none": lambda cache, timeout: cache.store_many(None, {}, timeout),
    "stale": lambda cache, timeout: cache.retrieve_or_load(
        None, "key", lambda: 1, stale_timeout=timeout
    ),
    "hard": lambda cache, timeout: cache.refresh(None, "key", lambda: 1, hard_timeout=timeout),
}
# Each beside a whole number that equals it, which is taken.
ALIKE: list[tuple[int, Any]] = [
    (60_000, 60_000.0),
    (60_000, Decimal(60_000)),
    (60_000, Fraction(60_000)),
    (60_000, 60_000 + 0j),
    (1, True),
]


@pytest.mark.parametrize("call", CALLS)
async def test_timeout_is_refused_by_type_after_its_equal_was_taken(
    server: Server, call: str
) -> None:
    """1 and 60000 are timeouts; True, 60000.0 and other numbers are not, in whichever order."""
    async with configured(server.url, key_prefix="timeouts:") as cache:
        for whole, alike in ALIKE:
            for _ in range(2):
                with pytest.raises(CacheInputError) as caught:
                    await CALLS[call](cache, alike)
                assert caught.value.code == "BAD_TIMEOUT"
                # A millisecond may be too short for a load.
                if (call, whole) != ("hard", 1):
                    await CALLS[call](cache, whole)
        await CALLS[call](cache, Seconds.LONG)
        await cache.clear(None)


async def test_load_of_no_keys_raises_in_a_closed_cache(server: Server) -> None:
    """As every other call does."""
    cache = configured(server.url, key_prefix="timeouts:")
    with pytest.raises(CacheStateError) as caught:
        await cache.retrieve_or_load_many(None, [], lambda keys: dict.fromkeys(keys, 1))
    assert caught.value.code == "NOT_OPENED"


@pytest.mark.parametrize(
    ("option", "taken", "refused"),
    [
        ("refresh_at", 1, True),
        ("refresh_at", 0.5, Decimal("0.5")),
        ("early_refresh", 1.0, True),
        ("jitter", 0, False),
        ("jitter", 0.5, Fraction(1, 2)),
        ("in_thread", True, 1),
        ("in_thread", False, 0.0),
        ("in_thread", False, None),
        ("in_thread", True, "no"),
    ],
)
async def test_load_option_is_refused_by_type_after_its_equal_was_taken(
    server: Server, option: str, taken: Any, refused: Any
) -> None:
    """An option is a number or a bool, and its equal of the other type is not taken for it."""
    async with configured(server.url, key_prefix="options:") as cache:
        load: Any = cache.retrieve_or_load
        for _ in range(2):
            await load(None, "key", lambda: 1, **{option: taken})
            with pytest.raises(CacheInputError) as caught:
                await load(None, "key", lambda: 1, **{option: refused})
            assert caught.value.code == "BAD_LOAD_OPTION"
        await cache.clear(None)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("refused", ["tag", "", 5, None, False, b"tag", [5], [""]], ids=repr)
async def test_tags_are_refused_by_type_when_the_value_is_there(
    server: Server, api: Api, refused: Any
) -> None:
    """A hit needs no tags, and a call that would fail without it fails with it."""
    async with configured(server.url, api, key_prefix="tags:") as cache:
        await cache.store(None, "key", 1)
        with pytest.raises(CacheInputError) as caught:
            await cache.retrieve_or_load(None, "key", lambda: 1, tags=refused)
        assert caught.value.code == "BAD_TAG"
        await cache.clear(None)


async def test_tags_are_refused_by_type_when_nothing_is_stored(server: Server) -> None:
    """Storing `None` removes the key and needs no tags."""
    async with configured(server.url, key_prefix="tags:") as cache:
        for value in (None, 1):
            with pytest.raises(CacheInputError) as caught:
                await cache.store(None, "key", value, tags="tag")
            assert caught.value.code == "BAD_TAG"
        no_tags: Iterator[str] = iter(())
        await cache.store(None, "key", 1, tags=no_tags)
        assert await cache.retrieve(None, "key") == 1
        await cache.clear(None)


@pytest.mark.parametrize("make", [AsyncRedisCache.from_url, RedisCache.from_url])
def test_option_takes_whole_numbers_text_and_timedelta(make: Callable[..., Any]) -> None:
    """Options follow the rule of calls: no floats, and durations as timedelta too."""
    url = "redis://localhost"
    for refused in (60_000.0, Decimal(60_000), Fraction(60_000), True, timedelta(0), timedelta.max):
        with pytest.raises(CacheConfigError) as caught:
            make(url, timeout=refused)
        assert caught.value.code == "BAD_OPTION"
    with pytest.raises(CacheConfigError):
        make(url, max_size=timedelta(milliseconds=5))
    for taken, milliseconds in (
        (60_000, 60_000),
        ("60000", 60_000),
        (Seconds.LONG, 60_000),
        (timedelta(minutes=1), 60_000),
        (timedelta(microseconds=1), 1),
    ):
        cache = make(url, timeout=taken)
        inner: Any = getattr(cache, "_cache", cache)
        settings = inner._lifecycle.settings
        assert settings.options.timeout == milliseconds


def test_decoder_follows_the_order_of_a_union() -> None:
    """Unions of the same types in another order are equal, and not the same type to decode as."""
    codec = Codec(Options(), None, CacheStats())
    assert codec.decoder(int | str) is not codec.decoder(str | int)
    assert codec.decoder(list[int | str]) is codec.decoder(list[int | str])
