"""A user whose password changes on running servers, and the provider that knows the current one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from async_redis_cache import CacheLoginError
from harness.waiting import await_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from async_redis_cache import AsyncRedisCache
    from harness.clients import Client

USER = "shop"
FIRST = "first-s3cret"


class Rotation:
    """The password of a user, on one server or on several.

    Calling it returns the current login, as a credential provider does.

    Args:
        *servers: clients of them, as another user.
    """

    def __init__(self, *servers: Client) -> None:
        self.servers: Sequence[Client] = servers
        self.password = FIRST
        self.rotations = 0
        self.calls = 0

    @property
    def acl(self) -> dict[str, str]:
        """The user, for the options of a server."""
        return {USER: f"on >{FIRST} ~* &* +@all"}

    def __call__(self) -> tuple[str, str]:
        self.calls += 1
        return USER, self.password

    def rotate(self) -> None:
        """Replace the password, and close the connections of the user, as servers do when a token ends."""
        self.rotations += 1
        password = f"s3cret-{self.rotations}"
        for server in self.servers:
            server.execute_command("ACL", "SETUSER", USER, "resetpass", f">{password}")
        # Before the connections are gone: a cache in another thread asks for it at once.
        self.password = password
        for server in self.servers:
            server.execute_command("CLIENT", "KILL", "USER", USER)

    async def rotate_repeatedly(self, times: int, cache: AsyncRedisCache) -> None:
        """Rotate, each time when the cache has connected since the last time, which it has at the end as well."""
        for _ in range(times):
            connects = cache.stats().connects
            self.rotate()
            await await_until(lambda: cache.stats().connects > connects)  # noqa: B023


async def load_until(done: asyncio.Event, cache: AsyncRedisCache) -> int:
    """Load and refresh until an event is set; return how often. Any failure is raised."""
    loads = 0
    while not done.is_set():
        assert await cache.retrieve_or_load(None, f"key-{loads}", lambda: 7) == 7
        assert await cache.refresh(None, "key", lambda: 8) == 8
        loads += 2
        await asyncio.sleep(0.002)
    return loads


async def accepted(cache: AsyncRedisCache) -> None:
    """Wait until every server accepts the login: it may have refused the one of before the last rotation."""
    for number in range(100):
        is_accepted = False
        while not is_accepted:
            with contextlib.suppress(CacheLoginError):
                await cache.store(None, f"any-{number}", 1)
                is_accepted = True
            await asyncio.sleep(0)
