"""`near_cache.*`: where the options may be set, their values, and the errors for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pip_services4_components.config import ConfigParams

from async_redis_cache import AsyncRedisCache, CacheConfigError, RedisCache
from harness.apis import APIS, Api, awaited, new_cache

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on("api")


NEAR = {
    "enabled": ("near_cache_enabled", True),
    "max_size": ("near_cache_max_size", 7),
    "max_bytes": ("near_cache_max_bytes", 70_000),
    "timeout": ("near_cache_timeout", 700),
    "heartbeat": ("near_cache_heartbeat", 70),
}


def options_of(cache: AsyncRedisCache) -> dict[str, object]:
    """The near-cache options of a cache."""
    inner: Any = getattr(cache, "blocking", None)
    options = (inner._cache if inner else cache)._lifecycle.settings.options
    return {name: getattr(options, name) for name, _ in NEAR.values()}


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs are configured alike."""
    chosen: Api = request.param
    return chosen


@pytest.mark.parametrize(
    "path", ["near_cache.{}", "options.near_cache.{}", "options.near_cache_{}"]
)
def test_near_cache(api: Api, path: str) -> None:
    """In a section of its own or among the options; as numbers and flags or as text."""
    for as_text in (False, True):
        cache = new_cache(api)
        tuples: list[object] = []
        for name, (_, value) in NEAR.items():
            tuples += (path.format(name), str(value) if as_text else value)
        cache.configure(ConfigParams.from_tuples("uri", "redis://localhost", *tuples))
        assert options_of(cache) == dict(NEAR.values())


@pytest.mark.parametrize("path", ["near_cache_enabled", "near_cache.enabled"])
async def test_near_cache_keyword(server: Server, api: Api, path: str) -> None:
    """As a keyword of `from_url` too; and it is what the option says."""
    for value in (True, "true", "yes", 1):
        options: dict[str, Any] = {path: value}
        cache = (
            AsyncRedisCache.from_url(server.url, **options)
            if api == "async"
            else awaited(RedisCache.from_url(server.url, **options))
        )
        async with cache:
            assert cache.stats().near_connected


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("near_cache.enabled", "must be true or false"),
        ("near_cache.max_size", "must be a whole number of values from 1 to 9007199254740991"),
        ("near_cache.max_bytes", "must be a whole number of bytes from 1 to 9007199254740991"),
        (
            "near_cache.timeout",
            "must be forever or a whole number of milliseconds from 1 to 315360000000",
        ),
        ("near_cache.heartbeat", "must be a whole number of milliseconds from 20 to 315360000000"),
    ],
)
def test_invalid_near_cache_option_raises(api: Api, option: str, problem: str) -> None:
    """The error names the path of a wrong value or name, and never quotes it."""
    for given in ("secret", "-1", "1.5", "", None):
        for path in (option, f"options.{option}"):
            with pytest.raises(CacheConfigError) as caught:
                new_cache(api).configure(ConfigParams.from_tuples("host", "x", path, given))
            assert caught.value.code == "BAD_OPTION"
            assert f"{option} {problem}" in str(caught.value)
            assert "secret" not in f"{caught.value!r} {caught.value}"
