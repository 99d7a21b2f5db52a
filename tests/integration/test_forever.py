"""FOREVER: values that do not expire, on the server, with a bound, and in what the methods answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_components.config import ConfigParams

from async_redis_cache import FOREVER, AsyncRedisCache, CacheConfigError, CacheInputError
from harness.apis import APIS, Api, configured
from harness.near_waiting import cached_locally

if TYPE_CHECKING:
    from harness import Client, Server

pytestmark = pytest.mark.depends_on("api", "server")

PREFIX = "p:"
TEN_YEARS = 10 * 365 * 24 * 3600 * 1000
WAYS: dict[str, dict[str, Any]] = {"bounded": {"max_size": 10}, "unbounded": {"max_size": 0}}


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs have the same core."""
    chosen: Api = request.param
    return chosen


@pytest.mark.parametrize("way", WAYS)
async def test_value_does_not_expire(server: Server, api: Api, way: str, raw: Client) -> None:
    """However it is stored: what remains exceeds any other TTL, and the value is read as any other."""
    async with configured(server.url, api, key_prefix=PREFIX, **WAYS[way]) as cache:
        await cache.store(None, "stored", 1, FOREVER)
        await cache.store(None, "tagged", 1, FOREVER, tags=["tag"])
        await cache.store_many(None, {"many": 1}, FOREVER)
        await cache.add(None, "added", 1, FOREVER)
        await cache.incr(None, "counted", 1, FOREVER)
        await cache.retrieve_or_load(None, "loaded", lambda: 1, FOREVER, jitter=1.0)
        await cache.store(None, "touched", 1, 1000)
        await cache.touch(None, "touched", FOREVER)
        for key in ("stored", "tagged", "many", "added", "counted", "loaded", "touched"):
            assert raw.pttl(f"{PREFIX}{key}") > TEN_YEARS, key
            assert await cache.retrieve(None, key) == 1
            assert (await cache.time_to_live(None, key) or 0) > TEN_YEARS
            assert (await cache.retrieve_entry(None, key)).remaining is None


async def test_bound_drops_them_last(server: Server, api: Api, raw: Client) -> None:
    """Values with a TTL of ten years are evicted before older ones that do not expire, and these in their order."""
    async with configured(server.url, api, key_prefix=PREFIX, max_size=3) as cache:
        for number in range(2):
            await cache.store(None, f"kept {number}", number, FOREVER)
        for number in range(5):
            await cache.store(None, f"dropped {number}", number, TEN_YEARS)
            assert raw.zcard(f"{PREFIX}\x00index") <= 3
        await cache.retrieve_or_load(None, "loaded", lambda: 1, FOREVER)
        found = await cache.retrieve_many(None, ["kept 0", "kept 1", "loaded", "dropped 4"])
        assert found == {"kept 0": 0, "kept 1": 1, "loaded": 1}
        await cache.store(None, "last", 1, FOREVER)
        assert await cache.retrieve(None, "kept 0") is None


async def test_touch_ends_it(server: Server, api: Api, raw: Client) -> None:
    """A value that does not expire gets a TTL by `touch`, in the index too: it is then evicted first."""
    async with configured(server.url, api, key_prefix=PREFIX, max_size=2) as cache:
        await cache.store_many(None, {"one": 1, "two": 2}, FOREVER)
        assert await cache.touch(None, "two", 60_000)
        assert raw.pttl(f"{PREFIX}two") <= 60_000
        await cache.store(None, "three", 3, FOREVER)
        assert await cache.retrieve_many(None, ["one", "two", "three"]) == {"one": 1, "three": 3}


async def test_namespace_answers_forever(server: Server, raw: Client) -> None:
    """`ttl` is FOREVER for such a value, and for one that another program has stored without a TTL."""
    async with configured(server.url, key_prefix=PREFIX) as cache:
        lasting = cache.namespace("lasting", ttl=FOREVER)
        await lasting.set("default", 1)
        await lasting.set("short", 1, 10)
        await lasting.set_many({"long": 1}, TEN_YEARS / 1000)
        raw.set(f"{PREFIX}lasting:foreign", "1")
        assert await lasting.ttl("default") is FOREVER
        assert await lasting.ttl("foreign") is FOREVER
        assert await lasting.ttl("missing") is None
        for key in ("short", "long"):
            assert isinstance(await lasting.ttl(key), float)
        assert await lasting.touch("short")
        assert await lasting.ttl("short") is FOREVER


@pytest.mark.parametrize("way", WAYS)
async def test_load_options_forever(server: Server, api: Api, way: str, raw: Client) -> None:
    """A None may be cached negatively, and a stale value kept, without an end."""
    async with configured(server.url, api, key_prefix=PREFIX, **WAYS[way]) as cache:
        loads = 0

        def load_none() -> None:
            nonlocal loads
            loads += 1

        for _ in range(2):
            await cache.retrieve_or_load(None, "none", load_none, missing_timeout=FOREVER)
        assert loads == 1
        await cache.retrieve_or_load(None, "stale", lambda: 1, 1, stale_timeout=FOREVER)
        assert raw.pttl(f"{PREFIX}stale") > TEN_YEARS
        await cache.retrieve_or_load(None, "kept", lambda: 1, FOREVER, stale_timeout=FOREVER)
        assert await cache.touch(None, "kept", FOREVER)
        assert raw.pttl(f"{PREFIX}kept") > 15 * TEN_YEARS


async def test_refresh_that_fails_keeps_it(server: Server, api: Api, raw: Client) -> None:
    """The lease of a refresh leaves the TTL of the value as it was."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        await cache.store(None, "plain", 1, FOREVER)
        await cache.retrieve_or_load(None, "loaded", lambda: 1, FOREVER)

        def fail() -> None:
            raise OSError("down")

        for key in ("plain", "loaded"):
            with pytest.raises(OSError, match="down"):
                await cache.refresh(None, key, fail)
            assert await cache.retrieve(None, key) == 1
            assert raw.pttl(f"{PREFIX}{key}") > TEN_YEARS


async def test_option_forever(server: Server, raw: Client) -> None:
    """As a keyword and as text of a configuration, for the options that are TTLs."""
    names = {"timeout": "options.timeout", "near_cache_timeout": "near_cache.timeout"}
    configuration = ConfigParams.from_tuples("connection.uri", server.url)
    configuration["options.key_prefix"] = PREFIX
    configuration["near_cache.enabled"] = "true"
    for name in names.values():
        configuration[name] = "forever"
    from_file = AsyncRedisCache()
    from_file.configure(configuration)
    keywords: Any = dict.fromkeys(names, FOREVER)
    from_code = AsyncRedisCache.from_url(
        server.url, key_prefix=PREFIX, near_cache_enabled=True, **keywords
    )
    for unopened in (from_code, from_file):
        async with unopened as cache:
            await cache.store(None, "key", 1)
            assert raw.pttl(f"{PREFIX}key") > TEN_YEARS
            assert await cache.retrieve(None, "key") == 1
            await cached_locally(cache, "key")


@pytest.mark.parametrize("name", ["command_timeout", "connect_timeout", "loading_hard_timeout"])
def test_option_that_is_no_ttl_refuses_forever(name: str) -> None:
    """A call and a load end."""
    options: Any = {name: FOREVER}
    with pytest.raises(CacheConfigError) as caught:
        AsyncRedisCache.from_url("redis://localhost", **options)
    assert caught.value.code == "BAD_OPTION"


@pytest.mark.parametrize("name", ["hard_timeout", "soft_timeout"])
async def test_load_option_that_is_no_ttl_refuses_forever(server: Server, name: str) -> None:
    """A caller waits for a limited time."""
    options: Any = {name: FOREVER}
    async with configured(server.url) as cache:
        with pytest.raises(CacheInputError) as caught:
            await cache.retrieve_or_load(None, "key", lambda: 1, **options)
        assert caught.value.code == "BAD_TIMEOUT"
