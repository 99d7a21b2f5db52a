"""Requests, writes and invalidations at the same time, over two caches, in random orders."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import (
    ResponseCache,
    ResponseOptions,
    add_response_tags,
    invalidate_url,
)
from harness.responses import ask
from harness.run_length import scaled

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

INTERLEAVINGS = scaled(1_000, 20_000)
AT_ONCE = 25
READERS, READS, WRITES = 3, 4, 2
RELOADS = 0.2
LONGEST_PAUSE_SECONDS = 0.004
RULES: dict[str, ResponseOptions] = {
    "/ignoring/*": {"ttl": 60, "ignored_parameters": ["utm"]},
    "/me/*": {"ttl": 60, "vary_on": lambda _: "ann"},
    "*": {"ttl": 60, "stale_while_revalidate": 60, "follows_requests": True},
}


class Versions:
    """An application with pages of a version each, which is read at the beginning and sent at the end of a run."""

    def __init__(self, seed: int) -> None:
        self.versions = Counter[str]()
        self.random = random.Random(seed)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the version of a page, or increment it."""
        page = scope["path"]
        await self.pause()
        if scope["method"] == "PUT":
            self.versions[page] += 1
        version = self.versions[page]
        late = self.random.random() < 0.5
        if not late:
            add_response_tags(page)
        await self.pause()
        if late:
            add_response_tags(page)
        headers = [(b"Vary", b"X-Tenant")] if page.startswith("/vary") else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d" % version})

    async def pause(self) -> None:
        """Let others go on, for a random time."""
        if self.random.random() < 0.7:
            await asyncio.sleep(self.random.random() * LONGEST_PAUSE_SECONDS)


class Interleaving:
    """One page, with clients that read and one that writes, each through one of two caches at random."""

    def __init__(
        self, app: Versions, page: str, both: list[tuple[AsyncRedisCache, ResponseCache]]
    ) -> None:
        self.hits = 0
        self._app = app
        self._page = page
        self._both = both
        self._acknowledged = 0

    async def run(self) -> None:
        """Let all of them go on at once."""
        await asyncio.gather(self._write(), *(self._read(each) for each in range(READERS)))

    async def _read(self, tenant: int) -> None:
        for _ in range(READS):
            await self._app.pause()
            known = self._acknowledged
            _, cached = self._app.random.choice(self._both)
            headers = [("host", "shop"), ("x-tenant", str(tenant % 2))]
            if self._app.random.random() < RELOADS:
                headers.append(("cache-control", "no-cache"))
            answer = await ask(cached, self._page, headers, query=self._query())
            self.hits += "hit" in answer.headers["cache-status"]
            assert known <= int(answer.body), (self._page, known, answer)

    async def _write(self) -> None:
        for _ in range(WRITES):
            await self._app.pause()
            cache, cached = self._app.random.choice(self._both)
            way = self._app.random.choice(["write", "tag", "url"])
            if way == "write":
                # A write is to a URI with its query, which pages other than these are stored under.
                query = "utm=1" if self._page.startswith("/ignoring") else ""
                answer = await ask(cached, self._page, method="PUT", query=query)
                written = int(answer.body)
            else:
                self._app.versions[self._page] += 1
                written = self._app.versions[self._page]
                if way == "tag":
                    await cache.invalidate_tags(None, self._page)
                else:
                    await invalidate_url(cache, f"http://shop{self._page}")
            self._acknowledged = max(self._acknowledged, written)

    def _query(self) -> str:
        ignores = self._page.startswith("/ignoring")
        return self._app.random.choice(["", "utm=1", "utm=2"]) if ignores else ""


async def test_no_response_is_older_than_an_acknowledged_invalidation(
    any_server: Server, key_prefix: str
) -> None:
    """In no interleaving is a body older than a write that was acknowledged before the request began."""
    app, hits = Versions(seed=17), 0
    async with AsyncExitStack() as stack:
        both: list[tuple[AsyncRedisCache, ResponseCache]] = []
        for _ in range(2):
            cache = AsyncRedisCache.from_url(
                any_server.url, key_prefix=key_prefix, command_timeout=10_000
            )
            await stack.enter_async_context(cache)
            both.append((cache, ResponseCache(app, cache=cache, rules=RULES)))
        for start in range(0, INTERLEAVINGS, AT_ONCE):
            kinds = ("plain", "vary", "ignoring", "me")
            pages = [
                Interleaving(app, f"/{kinds[number % 4]}/{number}", both)
                for number in range(start, start + AT_ONCE)
            ]
            await asyncio.gather(*(page.run() for page in pages))
            hits += sum(page.hits for page in pages)
        for _, cached in both:
            await cached.close()
    # Or it would say little about the cache.
    assert hits > INTERLEAVINGS
