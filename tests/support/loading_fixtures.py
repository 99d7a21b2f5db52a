"""Two caches with the same configuration, as two processes have, for the tests of loading.

A test module takes the fixtures by `pytest_plugins = ["loading_fixtures"]`. Names of fixtures are unique among the
plugins: of two with one name, pytest would use the one loaded last in every module.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from harness.apis import configured
from harness.loading import LEASE, PREFIX, STORAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from async_redis_cache import AsyncRedisCache
    from harness import Server


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of one storage format."""
    return {"key_prefix": PREFIX, **STORAGES[request.param]}


@pytest.fixture
def lease() -> int:
    """The timeout of load leases in milliseconds; a test whose subject it is has its own."""
    return LEASE


@pytest.fixture
async def caches(
    server: Server, storage: dict[str, Any], lease: int
) -> AsyncIterator[tuple[AsyncRedisCache, AsyncRedisCache]]:
    """Two open caches."""
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                configured(server.url, loading_lease_timeout=lease, **storage)
            )
            for _ in range(2)
        ]
        yield one, two


@pytest.fixture
def one(caches: tuple[AsyncRedisCache, AsyncRedisCache]) -> AsyncRedisCache:
    """The first cache."""
    return caches[0]


@pytest.fixture
def other(caches: tuple[AsyncRedisCache, AsyncRedisCache]) -> AsyncRedisCache:
    """The second cache."""
    return caches[1]
