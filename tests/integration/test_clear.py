"""`clear` removes the keys of its own cache and no others: fact 17 of RELIABILITY."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from async_redis_cache._engine import clearing as _clearing
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from harness import Client, Server

# Each would match foreign keys if it were taken for a pattern, or crash the pattern.
GLOBS = [
    "*",
    "?",
    "a*",
    "a?c:",
    "[ab]:",
    "[^x]:",
    "[a-z]:",
    "a[",
    "a]",
    "\\",
    "a\\*:",
    "\\[x\\]",
    "^a-b$:",
    "-",
    "shop:*:",
    "{a}*",
    "é?",
    "%s{}:",
]
STRANGERS = [
    "a",
    "abc:key",
    "adc:key",
    "a:key",
    "b:key",
    "x:key",
    "zz:key",
    "shop:1:key",
    "shop::key",
    "aa",
    "éa",
    "other",
    "[x]key",
]
PREFIX_LETTERS = "ab*?[]\\^-:{}é"
BOUNDS = pytest.mark.parametrize("bound", [0, 1_000], ids=["unbounded", "bounded"])


@BOUNDS
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("prefix", GLOBS)
@pytest.mark.depends_on
async def test_prefix_is_escaped_in_the_scan_pattern(
    server: Server, raw: Client, prefix: str, bound: int, api: Api
) -> None:
    """Characters that mean something in a pattern mean themselves in a prefix."""
    strangers = [stranger for stranger in STRANGERS if not stranger.startswith(prefix)]
    raw.mset(dict.fromkeys(strangers, "foreign"))
    async with configured(server.url, api, key_prefix=prefix, max_size=bound) as cache:
        await cache.store_many(None, {"one": 1, "two*": 2, "[3]": 3})
        assert raw.get(f"{prefix}one") == b"1"
        assert await cache.clear(None) == 3
        assert await cache.retrieve_many(None, ["one", "two*", "[3]"]) == {}
    assert raw.exists(*strangers) == len(strangers)


async def test_unescaped_prefix_removes_other_keys(
    server: Server, raw: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof that the test above can fail: without the escapes strangers are lost."""
    monkeypatch.setattr(_clearing, "_GLOB", {})
    raw.mset(dict.fromkeys(STRANGERS, "foreign"))
    async with configured(server.url, key_prefix="[a-z]*:", max_size=0) as cache:
        await cache.clear(None)
    assert raw.exists(*STRANGERS) < len(STRANGERS)


@given(
    prefixes=st.lists(
        st.text(PREFIX_LETTERS, min_size=1, max_size=4), min_size=2, max_size=4, unique=True
    ),
    bound=st.sampled_from([0, 1_000]),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_prefixes(any_server: Server, prefixes: list[str], bound: int) -> None:
    """Of caches with any prefixes, one is cleared: what is not under its prefix stays."""
    asyncio.run(_clear_the_first(any_server, prefixes, bound))


async def _clear_the_first(server: Server, prefixes: list[str], bound: int) -> None:
    with server.client() as raw:
        raw.flushall()
        for prefix in prefixes:
            async with configured(server.url, key_prefix=prefix, max_size=bound) as cache:
                await cache.store_many(None, {"x1": 1, "x2": 2})
        first, *others = prefixes
        values = {f"{prefix}{key}" for prefix in prefixes for key in ("x1", "x2")}
        own = {value for value in values if value.startswith(first)}
        async with configured(server.url, key_prefix=first, max_size=bound) as cache:
            assert await cache.clear(None) == len(own)
        left = {key.decode() for key in raw.keys("*") if not key.endswith(b"\x00index")}
        assert left == values - own
        for other in others:
            async with configured(server.url, key_prefix=other, max_size=bound) as cache:
                expected = [key for key in ("x1", "x2") if f"{other}{key}" in left]
                assert list(await cache.retrieve_many(None, ["x1", "x2"])) == expected


async def test_a_longer_prefix_is_another_cache(server: Server, raw: Client) -> None:
    """The cache of `shop:` holds what is under `shop:`, and that of `shop:eu:` no more than its."""
    raw.set("shop", "foreign")
    async with (
        configured(server.url, key_prefix="shop:") as outer,
        configured(server.url, key_prefix="shop:eu:") as inner,
    ):
        await outer.store_many(None, {"a": 1, "b": 2})
        await inner.store_many(None, {"a": 1, "b": 2, "c": 3})
        assert await inner.clear(None) == 3
        assert await outer.retrieve_many(None, ["a", "b"]) == {"a": 1, "b": 2}
        await inner.store_many(None, {"a": 1, "b": 2, "c": 3})
        assert await outer.clear(None) == 5
        assert await inner.retrieve(None, "a") is None
    assert raw.get("shop") == b"foreign"


async def test_index_decides_which_keys_are_removed(server: Server, raw: Client) -> None:
    """Without a prefix a bounded cache removes what it has stored, and nothing of others."""
    async with configured(server.url) as cache:
        raw.mset({"foreign:1": "x", "foreign:2": "x"})
        await cache.store_many(None, {f"key{number}": number for number in range(900)})
        await cache.touch(None, "key1", 90_000)
        await cache.remove(None, "key2")
        assert await cache.clear(None) == 899
        assert sorted(raw.keys("*")) == [b"foreign:1", b"foreign:2"]


async def test_clear_leaves_other_databases(server: Server) -> None:
    """Clearing a cache in one database touches nothing in another."""
    async with (
        configured(server.url, key_prefix="p:") as zero,
        configured(server.login_url(*server.login, database=1), key_prefix="p:") as one,
    ):
        await zero.store(None, "key", 0)
        await one.store(None, "key", 1)
        assert await zero.clear(None) == 1
        assert await one.retrieve(None, "key") == 1


@BOUNDS
async def test_a_large_cache_among_many_keys(server: Server, raw: Client, bound: int) -> None:
    """Thousands of own keys among thousands of foreign ones: all of the first and no others."""
    raw.mset({f"foreign:{number}": "x" for number in range(5_000)})
    options = {"key_prefix": "p:", "max_size": bound * 5, "command_timeout": 20_000}
    async with configured(server.url, **options) as cache:
        for start in range(0, 5_000, 1_000):
            await cache.store_many(None, {f"{start + n}": n for n in range(1_000)}, 300_000)
        assert await cache.clear(None) == 5_000
        assert await cache.clear(None) == 0
    assert raw.dbsize() == 5_000


@BOUNDS
async def test_stores_succeed_during_a_clear(server: Server, raw: Client, bound: int) -> None:
    """What is stored while another clears is removed or kept whole; the index never loses it."""
    raw.mset({f"foreign:{number}": "x" for number in range(3_000)})
    options = {"key_prefix": "p:", "max_size": bound // 10, "command_timeout": 20_000}
    async with configured(server.url, **options) as one, configured(server.url, **options) as two:
        clearing = True

        async def store() -> None:
            number = 0
            while clearing:
                number += 20
                await asyncio.gather(*(one.store(None, f"{number + n}", n) for n in range(20)))

        storing = asyncio.create_task(store())
        for _ in range(20):
            await two.clear(None)
            assert not bound or len(raw.keys("p:[0-9]*")) <= bound // 10
        clearing = False
        await storing
        values = set(raw.keys("p:[0-9]*"))
        if bound:
            assert values == set(raw.zrange("p:\x00index", 0, -1))
        assert await two.clear(None) == len(values)
    assert len(raw.keys("foreign:*")) == 3_000
