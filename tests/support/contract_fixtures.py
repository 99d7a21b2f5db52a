"""One contract for both APIs: what `cache` may be, in the tests that ask for that fixture.

Each such test runs with every API, server and way to store. A test module takes the fixtures by
`pytest_plugins = ["contract_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

from async_redis_cache import AsyncRedisCache, RedisCache
from harness import FLAVOURS, Flavour, Server, needs_redis
from harness.apis import APIS, Api, awaited, configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NewCache = Callable[..., AsyncRedisCache]

WAYS: dict[str, dict[str, str]] = {
    "bounded": {},
    "unbounded": {"max_size": "0", "key_prefix": "unbounded:"},
    "prefixed": {"key_prefix": "shop*:"},
    "compressed": {"compression": "zlib", "compression_threshold": "1", "key_prefix": "z:"},
    "msgpack": {"serializer": "msgpack"},
    "pickle": {"serializer": "pickle", "signing_key": "sixteen letters."},
    "near": {"near_cache_enabled": "true"},
}


class Setup(NamedTuple):
    """An API, where it leads, and how values are kept there."""

    api: Api
    place: Flavour | Literal["fake", "embedded"]
    way: str = "bounded"

    def __str__(self) -> str:
        return f"{self.api}-{self.place}-{self.way}"


SETUPS = [
    pytest.param(Setup(api, place, way), marks=needs_redis if place == "redis" else ())
    for place in FLAVOURS
    for api in APIS
    for way in WAYS
] + [
    pytest.param(Setup("async", "fake")),
    pytest.param(Setup("sync", "fake")),
    # One for all tests, since it takes a while to start; the other API has tests of its own.
    pytest.param(Setup("sync", "embedded")),
]


@pytest.fixture(params=SETUPS, ids=str)
def setup(request: pytest.FixtureRequest) -> Setup:
    """Which API, place and way the test is run with."""
    chosen: Setup = request.param
    return chosen


@pytest.fixture(scope="session")
def embedded_cache() -> Iterator[AsyncRedisCache]:
    """The cache in an embedded server that the tests of this process share."""
    with RedisCache.from_url("embedded://", max_size=1_000) as cache:
        yield awaited(cache)


@pytest.fixture
def new_cache(setup: Setup, request: pytest.FixtureRequest) -> NewCache:
    """Makes closed caches of the setup, with further options: all share one empty server."""
    url = f"{setup.place}://"
    if setup.place in FLAVOURS:
        server: Server = request.getfixturevalue(f"{setup.place}_server")
        url = server.url
        with server.client() as client:
            client.flushall()

    def new(**options: object) -> AsyncRedisCache:
        return configured(url, setup.api, **(WAYS[setup.way] | options))

    return new


@pytest.fixture
async def cache(
    setup: Setup, new_cache: NewCache, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncRedisCache]:
    """An open and empty cache."""
    if setup.place == "embedded":
        shared: AsyncRedisCache = request.getfixturevalue("embedded_cache")
        await shared.clear(None)
        yield shared
        return
    async with new_cache() as opened:
        yield opened
