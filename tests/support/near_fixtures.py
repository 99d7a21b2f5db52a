"""Near caches on real servers, with both APIs, for the tests that take `near_cache`.

A test module takes the fixtures by `pytest_plugins = ["near_fixtures"]`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol

import pytest

from harness.apis import APIS, Api, configured
from harness.near_waiting import PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from async_redis_cache import AsyncRedisCache
    from harness import Server


class OpenNearCache(Protocol):
    """Open a near cache; it is closed at the end of the test."""

    def __call__(self, url: str = "", **options: object) -> Awaitable[AsyncRedisCache]: ...


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Each API: both have the same near cache."""
    chosen: Api = request.param
    return chosen


@pytest.fixture
async def near_cache(server: Server, api: Api) -> AsyncIterator[OpenNearCache]:
    """Open near caches, on the shared server unless a URL is given."""
    async with AsyncExitStack() as caches:

        async def opened(url: str = "", **options: object) -> AsyncRedisCache:
            settings = {"near_cache_enabled": True, "key_prefix": PREFIX} | options
            return await caches.enter_async_context(configured(url or server.url, api, **settings))

        yield opened
