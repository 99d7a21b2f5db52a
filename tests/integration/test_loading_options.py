"""Load options of a call, of a loader, and of the configuration."""

from __future__ import annotations

import time
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheEntry, CacheInputError, Load
from harness import Server
from harness.apis import configured
from harness.loading import PREFIX
from harness.loading_origin import LIFE, Origin, gone

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")


async def test_loader_gets_the_old_entry_and_may_set_options(
    one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Its key, the value that it replaces, the life; "not modified"; "do not cache"."""
    told: list[tuple[str, Any]] = []

    async def longer(load: Load) -> str:
        told.append((load.key, load.stale))
        load.timeout = 50_000
        return "first"

    assert await one.retrieve_or_load(None, "key", longer, LIFE) == "first"
    left = await one.time_to_live(None, "key") or 0
    assert 40_000 < left <= 50_000

    def same(load: Load) -> Any:
        told.append((load.key, load.stale))
        return load.not_modified()

    assert await other.refresh(None, "key", same, 90_000) == "first"
    left = await one.time_to_live(None, "key") or 0
    assert 80_000 < left <= 90_000
    assert told == [("key", None), ("key", "first")]
    with pytest.raises(LookupError):
        await one.retrieve_or_load(None, "nothing", same)

    def not_kept(load: Load) -> int:
        load.do_not_cache()
        return 7

    entry = await one.retrieve_or_load_entry(None, "other", not_kept)
    assert entry == CacheEntry(7, "loaded", 0, 0)
    assert await one.retrieve(None, "other") is None
    assert one.stats().superseded_loads == 0


async def test_jitter(one: AsyncRedisCache) -> None:
    """Values stored together do not end together, and none lives longer than was said."""
    began = time.monotonic()
    for number in range(50):
        await one.retrieve_or_load(None, f"key{number}", lambda: 1, 100_000, jitter=0.5)
    lives = [await one.time_to_live(None, f"key{number}") or 0 for number in range(50)]
    passed = 1_000 * (time.monotonic() - began)
    # The clock of the server may run a little faster than this one.
    assert all(49_900 - passed < life <= 100_000 for life in lives)
    assert max(lives) - min(lives) > 20_000


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"refresh_at": 1.5}, "BAD_LOAD_OPTION"),
        ({"refresh_at": True}, "BAD_LOAD_OPTION"),
        ({"early_refresh": -1}, "BAD_LOAD_OPTION"),
        ({"jitter": "much"}, "BAD_LOAD_OPTION"),
        ({"stale_timeout": -1}, "BAD_TIMEOUT"),
        ({"hard_timeout": 4_000_000}, "BAD_TIMEOUT"),
        ({"soft_timeout": 1.5}, "BAD_TIMEOUT"),
    ],
)
@pytest.mark.depends_on
async def test_bad_options(one: AsyncRedisCache, options: Any, code: str) -> None:
    """They are refused before anything is asked."""
    with pytest.raises(CacheInputError) as caught:
        await one.retrieve_or_load(None, "key", lambda: 1, **options)
    assert caught.value.code == code
    unknown: Any = {"refresh_after": 1}
    with pytest.raises(TypeError, match="refresh_after"):
        await one.retrieve_or_load(None, "key", lambda: 1, **unknown)


async def test_options_of_the_cache(server: Server) -> None:
    """What a call does not say is as the cache was configured."""
    origin = Origin()
    async with configured(
        server.url, key_prefix=PREFIX, loading_stale_timeout=60_000, loading_jitter=0.5
    ) as cache:
        await cache.retrieve_or_load(None, "key", origin.load, LIFE)
        await gone(cache)
        origin.may_end.clear()
        assert await cache.retrieve_or_load(None, "key", origin.load, LIFE) == 1
