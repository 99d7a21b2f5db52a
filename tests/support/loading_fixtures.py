"""Two caches of one configuration, as in two processes, for the tests of what loads.

A test module takes the fixtures by `pytest_plugins = ["loading_fixtures"]`. None of them has the name of a fixture of
another plugin: of two the one that was loaded last would have its way, in all modules.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from harness.apis import configured
from harness.loading import LEASE, PREFIX, WAYS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from async_redis_cache import AsyncRedisCache
    from harness import Server


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of one way to store."""
    return {"key_prefix": PREFIX, **WAYS[request.param]}


@pytest.fixture
async def caches(
    server: Server, way: dict[str, Any]
) -> AsyncIterator[tuple[AsyncRedisCache, AsyncRedisCache]]:
    """Both of them, open."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                configured(server.url, loading_lease_timeout=LEASE, **way)
            )
            for _ in range(2)
        ]
        yield one, two


@pytest.fixture
def one(caches: tuple[AsyncRedisCache, AsyncRedisCache]) -> AsyncRedisCache:
    """The one."""
    return caches[0]


@pytest.fixture
def other(caches: tuple[AsyncRedisCache, AsyncRedisCache]) -> AsyncRedisCache:
    """The other."""
    return caches[1]
