"""Request a page that is not stored, many times at once: `http_cold.py CACHE URL REQUESTS`.

Prints "ready" when the service runs, and begins when it reads a line. The handler counts its runs in the key "runs" of
the server, and takes an element of the list "release".
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

import httpx
import redis.asyncio

from harness.response_services import SERVICES, Reply, Site


async def main(cache: str, url: str, requests: int) -> None:
    """Run a service, and be its clients."""
    async with redis.asyncio.from_url(url) as server:

        async def read(fields: Mapping[str, str]) -> Reply:
            await server.incr("runs")
            await server.blpop(["release"])
            return Reply(1)

        async with SERVICES[cache](Site(read, lambda: None, 60, has_values=True), url) as service:
            print("ready", flush=True)  # noqa: T201
            await asyncio.to_thread(sys.stdin.readline)
            transport = httpx.ASGITransport(service.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
                found = await asyncio.gather(*(client.get("/page") for _ in range(requests)))
            print(*{response.text for response in found}, flush=True)  # noqa: T201


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
