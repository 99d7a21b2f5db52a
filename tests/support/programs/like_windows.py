"""Use both APIs where Python has what it has on Windows, on the event loop that is named: `like_windows.py URL proactor`.

Removed are fork, poll, Unix streams and modules of Unix. The loop called proactor is one of this platform
without `add_reader` and `add_writer`.
"""

import asyncio
import os
import select
import socket
import sys
from typing import Any, NoReturn

URL, KIND = sys.argv[1:]


class ProactorEventLoop(asyncio.SelectorEventLoop):
    """Watches no sockets for its users."""


def refuse_to_watch(*_: object) -> NoReturn:
    """Refuse, as on Windows."""
    raise NotImplementedError


for method in ("add_reader", "add_writer", "add_signal_handler"):
    setattr(ProactorEventLoop, method, refuse_to_watch)


def look_like_windows() -> None:
    """Remove what Windows lacks."""
    for module, names in (
        (os, ("fork", "forkpty", "register_at_fork", "getuid", "geteuid")),
        (select, ("poll", "epoll")),
        (socket, ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")),
        (asyncio, ("open_unix_connection", "start_unix_server")),
    ):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        sys.modules[name] = None  # type: ignore[assignment]
    asyncio.ProactorEventLoop = ProactorEventLoop  # type: ignore[attr-defined]


look_like_windows()

from async_redis_cache import AsyncRedisCache, CacheConfigError, RedisCache  # noqa: E402

seen: list[Any] = []


async def use() -> None:
    """Store and retrieve on this loop, and from any loop."""
    for any_loop in (False, True):
        async with AsyncRedisCache.from_url(
            URL,
            any_loop=any_loop,
            near_cache_enabled=True,
            key_prefix="windows:",
            command_timeout=20_000,
        ) as cache:
            await cache.store(None, "key", "value", None)
            seen.append(await cache.retrieve(None, "key"))
            seen.append(await cache.retrieve_or_load(None, f"{any_loop}", lambda: "loaded"))
            await cache.clear(None)


async def refuse(url: str) -> None:
    """Note the error of a URL that needs Unix sockets."""
    try:
        await AsyncRedisCache.from_url(url).open(None)
    except CacheConfigError as error:
        seen.append(f"{error.code} {error.message}")


with asyncio.Runner(
    loop_factory=ProactorEventLoop if KIND == "proactor" else asyncio.SelectorEventLoop
) as runner:
    runner.run(use())
    runner.run(refuse("unix:///run/cache.sock"))
    runner.run(refuse("embedded://"))
with RedisCache.from_url(URL, key_prefix="windows:", command_timeout=20_000) as blocking:
    blocking.store(None, "key", "value", None)
    seen.append(blocking.retrieve(None, "key"))
    blocking.clear(None)
print(*seen, sep="\n")  # noqa: T201  read by the test
