"""The database of the case study: slow, with few connections, failing at times and down once.

It counts its queries. One process runs it; the others query it over a Unix socket, with one connection per
request: one line of JSON each way.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from case_study_shop import Product, category_of

MAX_CONCURRENT_QUERIES = 10
USUAL_SECONDS = (0.04, 0.06)
LONG_SECONDS = (0.2, 0.4)
SLOW_SECONDS = (0.3, 0.6)
LONG_SHARE = 0.05
FAILING_SHARE = 0.5


@dataclass(frozen=True)
class Period:
    """A period of a step, in seconds from its beginning."""

    begin: float
    end: float

    def contains(self, second: float) -> bool:
        return self.begin <= second < self.end


LENGTH = 16.0
"""Seconds that a step takes by its own clock; `--seconds` runs it faster or slower."""
SLOW = Period(3, 5.5)
FAILING = Period(7.5, 8.5)
DOWN = Period(9, 11)
REDIS_DOWN = Period(13, 15)


class DatabaseError(Exception):
    """A query failed."""


class DatabaseServer:
    """Until `begin` is called, it replies at once and does not count queries.

    Args:
        pace: real seconds per second of the step.
        seed: seed of the random query durations.
    """

    def __init__(self, pace: float, seed: int) -> None:
        self.queries: list[float] = []
        """The time of each query, in seconds of the step."""
        self._pace = pace
        self._seed = seed
        self._queries_of: Counter[int] = Counter()
        self._connections = asyncio.Semaphore(MAX_CONCURRENT_QUERIES)
        self._price_lists: Counter[int] = Counter()
        self._began: float | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def begin(self, began: float) -> None:
        """Start the step at this time of `time.monotonic`."""
        self._began = began

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncGenerator[None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving = asyncio.create_task(self._serve(reader, writer))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

        server = await asyncio.start_unix_server(accepted, path, backlog=1000)
        async with server:
            yield
        while self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if not line:
                return  # The client was cancelled before it sent its request.
            operation, argument = json.loads(line)
            reply: Any
            try:
                if operation == "change":
                    reply = self._change(argument)
                else:
                    reply = await self._find(argument)
            except DatabaseError as error:
                reply = {"error": str(error)}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass  # The client was cancelled before it read the reply.
        finally:
            writer.close()

    async def _find(self, numbers: list[int]) -> list[Product]:
        if self._began is None:
            return self._rows(numbers)
        self._refuse_when_down()
        self.queries.append(self._now())
        chance = self._chance(numbers[0])
        async with self._connections:
            rows = self._rows(numbers)  # A snapshot: changes during the query are not visible.
            usual = LONG_SECONDS if chance.random() < LONG_SHARE else USUAL_SECONDS
            bounds = SLOW_SECONDS if SLOW.contains(self._now()) else usual
            await asyncio.sleep(chance.uniform(*bounds))
            self._refuse_when_down()
            if FAILING.contains(self._now()) and chance.random() < FAILING_SHARE:
                raise DatabaseError("deadlock detected")
        return rows

    def _chance(self, number: int) -> random.Random:
        """Random numbers that depend only on the product and on how often it was queried."""
        self._queries_of[number] += 1
        return random.Random(f"{self._seed}/{number}/{self._queries_of[number]}")  # noqa: S311

    def _change(self, category: int) -> dict[str, int]:
        """Change prices. This does not use one of the limited connections."""
        self._refuse_when_down()
        if FAILING.contains(self._now()):
            raise DatabaseError("deadlock detected")
        self._price_lists[category] += 1
        return {"price_list": self._price_lists[category]}

    def _rows(self, numbers: list[int]) -> list[Product]:
        return [
            {"number": number, "price_list": self._price_lists[category_of(number)]}
            for number in numbers
        ]

    def _refuse_when_down(self) -> None:
        if DOWN.contains(self._now()):
            raise DatabaseError("connection refused")

    def _now(self) -> float:
        """Seconds of the step; -1 before it begins."""
        return -1 if self._began is None else (monotonic() - self._began) / self._pace


class DatabaseClient:
    """A client of the database at a path. It opens one connection per query."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def find(self, number: int) -> Product:
        return (await self.find_many([number]))[0]

    async def find_many(self, numbers: list[int]) -> list[Product]:
        products: list[Product] = await self._request("find", numbers)
        return products

    async def change(self, category: int) -> int:
        """Create a new price list for a category, and return its number."""
        price_list: int = (await self._request("change", category))["price_list"]
        return price_list

    async def _request(self, operation: str, argument: int | list[int]) -> Any:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
            try:
                writer.write(json.dumps([operation, argument]).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
        except ConnectionError as error:
            raise DatabaseError("no database listens at this path") from error
        if not line:
            raise DatabaseError("the database closed the connection")
        reply = json.loads(line)
        if "error" in reply:
            raise DatabaseError(reply["error"])
        return reply
