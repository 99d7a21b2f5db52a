"""A process whose wall clock is wrong, and that says when values were fresh, on the monotonic clock of all.

Usage: loading_clock.py <url> <prefix> <seconds that its wall clock is ahead> <life in milliseconds> <near: 0 or 1>.
It reads requests, one a line, as JSON, and answers each with a line of JSON:

- `["load", key, ...]` loads each key, and tells between which two moments it did;
- `["watch", key, own]` asks for both keys until they are old, and tells between which two moments something was
  or became so: `gone`, from when on the first key has no value for a method that does not load; `stale`, from
  when on it is given as a stale one; `ends`, when its life ends by its remaining life, and `stored`, when it was
  stored by its age; and `ageing`, from when on the second key, that nobody else asks for, was loaded anew. With
  `doubt`, from 0 to what the process may be wrong about the server's clock: a half of how long it had to wait
  for the answer.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import math
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache

Between = tuple[float, float]
POLL_SECONDS = 0.002
NEVER = math.inf


def set_clock(ahead: float) -> None:
    """Let the wall clock of this process be so many seconds ahead."""
    right_time = time.time

    class Shifted(dt.datetime):
        """A calendar that goes wrong together with the clock."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return super().now(tz) + dt.timedelta(seconds=ahead)

    time.time = lambda: right_time() + ahead
    time.time_ns = lambda: int((right_time() + ahead) * 1e9)
    dt.datetime = Shifted  # type: ignore[misc]


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def width(between: Between) -> float:
    return between[1] - between[0]


class Change:
    """Between which two moments something that was so became otherwise."""

    def __init__(self) -> None:
        self.between: Between = (-NEVER, NEVER)

    def see(self, *, still: bool, began: float, ended: float) -> None:
        """It was seen by a call between these moments."""
        last, first = self.between
        self.between = (max(last, began), first) if still else (last, min(first, ended))

    @property
    def seen(self) -> bool:
        return self.between[1] < NEVER


async def load(cache: AsyncRedisCache, keys: list[str], life: int) -> dict[str, Between]:
    loaded: dict[str, Between] = {}
    for key in keys:
        began = time.monotonic()
        await cache.retrieve_or_load(None, key, lambda: 1, life, stale_timeout=60_000)
        loaded[key] = (began, time.monotonic())
    return loaded


async def watch(cache: AsyncRedisCache, key: str, own: str) -> dict[str, Between]:
    gone, stale, ageing = Change(), Change(), Change()
    ends: Between = (-NEVER, NEVER)
    stored: Between = (-NEVER, NEVER)
    refreshed: list[float] = []
    clock, doubt = cache._lifecycle.ready().engine.freshness._clock, 0.0

    def refresh() -> int:
        refreshed.append(time.monotonic())
        return 2

    def fail() -> int:
        raise OSError("the stale value is to stay")

    while not (gone.seen and stale.seen and ageing.seen):
        began = time.monotonic()
        entry = await cache.retrieve_entry(None, key)
        ended = time.monotonic()
        gone.see(still=entry.value is not None, began=began, ended=ended)
        if entry.value is not None and entry.remaining is not None and entry.age is not None:
            # In whole milliseconds, cut off; the shortest call knows best.
            left, age = entry.remaining / 1000, entry.age / 1000
            ends = min(ends, (began + left, ended + left + 0.001), key=width)
            stored = min(stored, (began - age - 0.001, ended - age), key=width)
        began = time.monotonic()
        entry = await cache.retrieve_or_load_entry(None, key, fail, stale_timeout=60_000)
        stale.see(still=entry.status != "stale", began=began, ended=time.monotonic())
        if not refreshed:
            began = time.monotonic()
            await cache.retrieve_or_load(None, own, refresh, refresh_at=0.5)
            await asyncio.sleep(0)
            ageing.see(still=not refreshed, began=began, ended=NEVER)
        if refreshed:
            ageing.see(still=False, began=-NEVER, ended=refreshed[0])
        doubt = max(doubt, clock._uncertainty)
        await asyncio.sleep(POLL_SECONDS)
    return {
        "doubt": (0.0, doubt),
        "gone": gone.between,
        "stale": stale.between,
        "ends": ends,
        "stored": stored,
        "ageing": ageing.between,
    }


async def main(url: str, prefix: str, ahead: float, life: int, *, near: bool) -> None:
    set_clock(ahead)
    from async_redis_cache import AsyncRedisCache

    options: dict[str, Any] = {"key_prefix": prefix, "near_cache_enabled": near}
    async with AsyncRedisCache.from_url(url, command_timeout=20_000, **options) as cache:
        say([time.time(), dt.datetime.now(dt.UTC).timestamp()])
        for line in sys.stdin:
            what, *keys = json.loads(line)
            told = await (load(cache, keys, life) if what == "load" else watch(cache, *keys))
            say(told)


URL, PREFIX, AHEAD, LIFE, NEAR = sys.argv[1:]
asyncio.run(main(URL, PREFIX, float(AHEAD), int(LIFE), near=NEAR == "1"))
