"""The way of a call through the package: which modules it enters, and how often it goes from one to another.

`python tests/support/walks.py [SRC]` prints three walks on an embedded server: a plain hit, a near hit and
a cold load. SRC is the source directory to measure, by default that of this checkout; another checkout
gives the figures from before a change.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

    from async_redis_cache import AsyncRedisCache

SOURCE = Path(__file__).parents[2] / "src"
PACKAGE = "async_redis_cache"
PREFIX = "walks:"
LOOP_GAP_SECONDS = 0.025
"""Longer than a near cache serves entries without a look at its invalidation channel."""


class Walk(NamedTuple):
    """What one call has executed of the package.

    Attributes:
        steps: module and function of each call within the package, in order; resuming a coroutine is a call.
        calls: Python and C functions called, outside of the package too.
    """

    steps: tuple[tuple[str, str], ...]
    calls: int

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that were entered, in the order of their first step."""
        return tuple(dict.fromkeys(module for module, _ in self.steps))

    @property
    def changes(self) -> int:
        """How many steps were in another module than the step before; returning to a caller is no step."""
        modules = [module for module, _ in self.steps]
        return sum(here != there for here, there in itertools.pairwise(modules))

    def __str__(self) -> str:
        """The figures, then a line for each stay in a module with the functions called there."""
        lines = [f"{len(self.modules)} modules, {self.changes} changes, {self.calls} calls"]
        for module, steps in itertools.groupby(self.steps, key=lambda step: step[0]):
            lines.append(f"  {module}: {', '.join(function for _, function in steps)}")
        return "\n".join(lines)


class _Recorder:
    """Record the calls of one walk, as the profile function of its thread."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.calls = 0

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event in {"call", "c_call"}:
            self.calls += 1
        if event == "call" and (module := _module_of(frame)) is not None:
            self.steps.append((module, frame.f_code.co_name))


def _module_of(frame: FrameType) -> str | None:
    name: str = frame.f_globals.get("__name__", "")
    if name == PACKAGE or name.startswith(f"{PACKAGE}."):
        return name.removeprefix(f"{PACKAGE}.")
    return None


async def walk(call: Callable[[], Awaitable[object]]) -> Walk:
    """Record what this call executes; nothing else may run on the loop meanwhile."""
    recorder = _Recorder()
    sys.setprofile(recorder)
    try:
        await call()
    finally:
        sys.setprofile(None)
    return Walk(tuple(recorder.steps), recorder.calls)


async def plain_hit(url: str) -> Walk:
    """`retrieve` of a stored value, without a near cache."""
    async with _cache(url) as cache:
        await cache.store(None, "key", {"name": "value"})
        await cache.retrieve(None, "key")
        return await walk(lambda: cache.retrieve(None, "key"))


async def near_hit(url: str, *, after_gap: bool = False) -> Walk:
    """`retrieve` of a value that the near cache holds.

    Args:
        url: of the server.
        after_gap: whether the event loop was blocked before, so that the invalidation channel is checked.
    """
    async with _cache(url, near_cache_enabled=True, near_cache_heartbeat=10_000) as cache:
        await cache.store(None, "key", {"name": "value"})
        while not cache.stats().near_hits:
            await asyncio.sleep(0)
            await cache.retrieve(None, "key")
        if after_gap:
            time.sleep(LOOP_GAP_SECONDS)  # noqa: ASYNC251  the loop must not run
        else:
            await cache.retrieve(None, "key")
        hits = cache.stats().near_hits
        walked = await walk(lambda: cache.retrieve(None, "key"))
        if cache.stats().near_hits != hits + 1:
            raise RuntimeError("the value was not served from the near cache")
        return walked


async def cold_load(url: str) -> Walk:
    """`retrieve_or_load` of a key without a value."""

    async def loader() -> dict[str, str]:
        return {"name": "value"}

    async with _cache(url) as cache:
        # The first load also imports modules and registers scripts.
        await cache.retrieve_or_load(None, "first", loader)
        return await walk(lambda: cache.retrieve_or_load(None, "key", loader))


def _cache(url: str, **options: Any) -> AsyncRedisCache:
    from async_redis_cache import AsyncRedisCache

    return AsyncRedisCache.from_url(url, key_prefix=PREFIX, **options)


async def _main() -> None:
    for name, walking in (
        ("plain hit", plain_hit("embedded://")),
        ("near hit", near_hit("embedded://")),
        ("near hit after a blocked loop", near_hit("embedded://", after_gap=True)),
        ("cold load", cold_load("embedded://")),
    ):
        sys.stdout.write(f"{name}: {await walking}\n\n")


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1] if len(sys.argv) > 1 else str(SOURCE))
    asyncio.run(_main())
