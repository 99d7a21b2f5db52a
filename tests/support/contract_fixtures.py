"""The contract tests: `cache` on every API, server and storage format.

A test module takes the fixtures by `pytest_plugins = ["contract_fixtures"]`; `depends_on` of a test names the
dimensions that matter to it.
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

STORAGES: dict[str, dict[str, str]] = {
    "bounded": {},
    "unbounded": {"max_size": "0", "key_prefix": "unbounded:"},
    "prefixed": {"key_prefix": "shop*:"},
    "compressed": {"compression": "zlib", "compression_threshold": "1", "key_prefix": "z:"},
    "msgpack": {"serializer": "msgpack"},
    "pickle": {"serializer": "pickle", "signing_key": "sixteen letters."},
    "near": {"near_cache_enabled": "true"},
}


class Setup(NamedTuple):
    """An API, a server, and how the cache stores values there."""

    api: Api
    server: Flavour | Literal["fake", "embedded"]
    storage: str = "bounded"

    def __str__(self) -> str:
        return f"{self.api}-{self.server}-{self.storage}"


SETUPS = [
    pytest.param(Setup(api, flavour, storage), marks=needs_redis if flavour == "redis" else ())
    for flavour in FLAVOURS
    for api in APIS
    for storage in STORAGES
] + [
    pytest.param(Setup("async", "fake")),
    pytest.param(Setup("sync", "fake")),
    # Shared by all tests, as it takes a while to start; other tests cover the other API.
    pytest.param(Setup("sync", "embedded")),
]


@pytest.fixture(params=SETUPS, ids=str)
def setup(request: pytest.FixtureRequest) -> Setup:
    """The API, server and storage format of the test."""
    chosen: Setup = request.param
    return chosen


@pytest.fixture(scope="session")
def embedded_cache() -> Iterator[AsyncRedisCache]:
    """A cache on an embedded server, shared by the tests of this process."""
    with RedisCache.from_url("embedded://", max_size=1_000) as cache:
        yield awaited(cache)


@pytest.fixture
def new_cache(setup: Setup, request: pytest.FixtureRequest) -> NewCache:
    """Create caches of the set-up, not open, with further options; all share one empty server."""
    url = f"{setup.server}://"
    if setup.server in FLAVOURS:
        server: Server = request.getfixturevalue(f"{setup.server}_server")
        url = server.url
        with server.client() as client:
            client.flushall()

    def new(**options: object) -> AsyncRedisCache:
        # Contract tests are not about deadlines: on a busy machine the default of a second may be short.
        patient = {"command_timeout": 30_000}
        return configured(url, setup.api, **(patient | STORAGES[setup.storage] | options))

    return new


@pytest.fixture
async def cache(
    setup: Setup, new_cache: NewCache, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncRedisCache]:
    """An open and empty cache."""
    if setup.server == "embedded":
        shared: AsyncRedisCache = request.getfixturevalue("embedded_cache")
        await shared.clear(None)
        yield shared
        return
    async with new_cache() as opened:
        yield opened
