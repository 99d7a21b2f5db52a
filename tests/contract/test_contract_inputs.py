"""Keys, timeouts and contexts: what both APIs accept, and what they refuse before sending anything."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest
from pip_services4_components.context import Context

from async_redis_cache import AsyncRedisCache, CacheError, CacheInputError
from harness.apis import until_gone

pytest_plugins = ["contract_fixtures"]
pytestmark = pytest.mark.depends_on("api")

Call = Callable[[Any], Coroutine[Any, Any, Any]]

GOOD_KEYS = [
    "k",
    " ",
    "key with spaces",
    "x" * 512,
    "é" * 256,
    "ключ-鍵-🗝️",
    "*",
    "a?[b]\\^-",
    "\u2028\u200d\ufeff\ufffd\U0010ffff",
    "{tag}:1",
    "\x20\x7e\xa0",
    "0",
]
BAD_KEYS: list[Any] = [
    "",
    "x" * 513,
    "é" * 257,
    "x" * 511 + "é",
    "line\n",
    "nul\x00",
    "\x1f",
    "del\x7f",
    "\x80",
    "next line\x85",
    "\ud800",
    "ok\udfff",
    None,
    5,
    b"bytes",
    ("tuple",),
    ["list"],
    True,
    object(),
]
TIMEOUTS: list[tuple[int | timedelta | None, float, float]] = [
    (None, 50_000, 60_000),
    (0, 50_000, 60_000),
    (timedelta(0), 50_000, 60_000),
    (30_000, 20_000, 30_000),
    (timedelta(seconds=30), 20_000, 30_000),
    (timedelta(milliseconds=20_000.6), 10_000, 20_001),
    (timedelta(days=3650), 3649 * 86_400_000, 3650 * 86_400_000),
    (3650 * 86_400_000, 3649 * 86_400_000, 3650 * 86_400_000),
]
BAD_TIMEOUTS: list[Any] = [
    -1,
    -(10**20),
    3650 * 86_400_000 + 1,
    2**63,
    10**30,
    True,
    False,
    1.0,
    1.5,
    float("nan"),
    float("inf"),
    "1000",
    b"1",
    [1],
    timedelta(microseconds=-1),
    timedelta(days=-1),
    timedelta(days=3651),
    timedelta.max,
    timedelta.min,
]
CONTEXTS: list[tuple[Any, str | None]] = [
    (None, None),
    ("trace 1", "trace 1"),
    ("", ""),
    (Context.from_trace_id("trace 2"), "trace 2"),
    (Context.from_tuples("traceId", "trace 3"), "trace 3"),
    (Context.from_tuples("client", "shop"), None),
    (5, None),
    (object(), None),
]


@pytest.mark.depends_on("api", "storage", "near")
async def test_good_keys(cache: AsyncRedisCache) -> None:
    """Any text of 1 to 512 bytes without control characters is a key, and is itself alone."""
    for number, key in enumerate(GOOD_KEYS):
        await cache.store(None, key, number)
    for number, key in enumerate(GOOD_KEYS):
        assert await cache.retrieve(None, key) == number
        assert await cache.contains(None, key)
    assert await cache.retrieve_many(None, GOOD_KEYS) == {
        key: number for number, key in enumerate(GOOD_KEYS)
    }
    for number, key in enumerate(GOOD_KEYS):
        assert await cache.remove(None, key) == number


@pytest.mark.depends_on("api", "server")
async def test_keys_differ_by_a_single_code_point(cache: AsyncRedisCache) -> None:
    """Keys are compared byte for byte: neither case nor normal form makes two the same."""
    keys = ["é", "e\u0301", "E\u0301", "É", "key", "KEY", "key "]
    await cache.store_many(None, {key: number for number, key in enumerate(keys)})
    for number, key in enumerate(keys):
        assert await cache.retrieve(None, key) == number


@pytest.mark.depends_on("api", "near")
async def test_bad_keys(cache: AsyncRedisCache) -> None:
    """Every operation refuses an invalid key without sending it and without quoting it."""
    trips, errors = cache.stats().round_trips, cache.stats().errors
    operations: list[Call] = [
        lambda key: cache.store("t", key, 1),
        lambda key: cache.store("t", key, None),
        lambda key: cache.retrieve("t", key),
        lambda key: cache.retrieve("t", key, type=int),
        lambda key: cache.remove("t", key),
        lambda key: cache.contains("t", key),
        lambda key: cache.touch("t", key),
        lambda key: cache.time_to_live("t", key),
        lambda key: cache.retrieve_many("t", [key]),
        lambda key: cache.remove_many("t", [key]),
    ]
    for operation in operations:
        for key in BAD_KEYS:
            with pytest.raises(CacheInputError) as caught:
                await operation(key)
            assert (caught.value.code, caught.value.trace_id) == ("BAD_KEY", "t")
            assert caught.value.__cause__ is caught.value.__context__ is None
            if isinstance(key, str) and len(key) > 3:
                assert key not in str(caught.value)
    assert cache.stats().round_trips == trips
    assert cache.stats().errors == errors + len(operations) * len(BAD_KEYS)


@pytest.mark.depends_on("api", "storage", "near")
async def test_timeouts(cache: AsyncRedisCache) -> None:
    """A timeout is milliseconds or a timedelta; None and 0 mean the default of one minute."""
    for timeout, least, most in TIMEOUTS:
        await cache.store(None, "stored", 1, timeout)
        await cache.store_many(None, {"one of many": 1}, timeout)
        await cache.store(None, "touched", 1, 5)
        if not await cache.touch(None, "touched", timeout):
            await cache.store(None, "touched", 1, timeout)  # Five milliseconds were over.
        for key in ("stored", "one of many", "touched"):
            assert least <= (await cache.time_to_live(None, key) or -1) <= most


@pytest.mark.depends_on("server", "storage")
async def test_shortest_timedelta_is_a_millisecond(cache: AsyncRedisCache) -> None:
    """The shortest timedelta is a millisecond, and neither the default nor refused."""
    for timeout in (timedelta(microseconds=1), timedelta(microseconds=499), 1):
        await cache.store(None, "key", 1, timeout)
        assert (await cache.time_to_live(None, "key") or 0) <= 1
        await until_gone(cache, "key")


async def test_bad_timeouts(cache: AsyncRedisCache) -> None:
    """What is no timeout, or negative, or longer than ten years, is refused; nothing is stored."""
    await cache.store(None, "key", "old", 50_000)
    trips = cache.stats().round_trips
    operations: list[Call] = [
        lambda timeout: cache.store("t", "key", 1, timeout),
        lambda timeout: cache.store("t", "key", None, timeout),
        lambda timeout: cache.store_many("t", {"key": 1}, timeout),
        lambda timeout: cache.touch("t", "key", timeout),
    ]
    for timeout in BAD_TIMEOUTS:
        for operation in operations:
            with pytest.raises(CacheInputError) as caught:
                await operation(timeout)
            assert (caught.value.code, caught.value.trace_id) == ("BAD_TIMEOUT", "t")
    assert cache.stats().round_trips == trips
    assert await cache.retrieve(None, "key") == "old"


async def test_invalid_collections_raise(cache: AsyncRedisCache) -> None:
    """The operations for many keys refuse anything but mappings and iterables of keys."""
    trips = cache.stats().round_trips
    wrong: Any
    for wrong in (None, 5, object(), "abc", b"abc"):
        for operation in (cache.store_many, cache.retrieve_many, cache.remove_many):
            with pytest.raises(CacheInputError):
                await operation(None, wrong)
    for wrong in ([("a", 1)], iter("ab"), {"a"}):
        with pytest.raises(CacheInputError):
            await cache.store_many(None, wrong)
    assert cache.stats().round_trips == trips


async def test_errors_bear_the_trace_id(cache: AsyncRedisCache) -> None:
    """A context is an IContext, a trace id or None; the error has the trace id, whatever the context."""
    operations: list[Call] = [
        lambda context: cache.store(context, "", 1),
        lambda context: cache.retrieve(context, ""),
        lambda context: cache.store_many(context, {"": 1}),
        lambda context: cache.retrieve(context=context, key=""),
    ]
    for context, trace_id in CONTEXTS:
        for operation in operations:
            with pytest.raises(CacheError) as caught:
                await operation(context)
            assert caught.value.trace_id == trace_id
        await cache.store(context, "key", 1)
        assert await cache.retrieve(context, "key") == 1
