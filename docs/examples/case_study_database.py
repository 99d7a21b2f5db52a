"""The database of the story: slow, narrow, sometimes failing, away once; and it counts its queries.

One process has it. The others ask it over a Unix socket: a question a connection, one line of JSON,
and a line of JSON for an answer.
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

AT_ONCE = 10
USUAL_SECONDS = (0.04, 0.06)
LONG_SECONDS = (0.2, 0.4)
SLOW_SECONDS = (0.3, 0.6)
LONG_SHARE = 0.05
FAILING_SHARE = 0.5


@dataclass(frozen=True)
class Stretch:
    """Some seconds of the story, from its begin."""

    begin: float
    end: float

    def covers(self, moment: float) -> bool:
        return self.begin <= moment < self.end


LENGTH = 16.0
"""Seconds for which each step of the story is written; it may be told faster or slower."""
SLOW = Stretch(3, 5.5)
FAILING = Stretch(7.5, 8.5)
DOWN = Stretch(9, 11)
REDIS_DEAD = Stretch(13, 15)


class DatabaseError(Exception):
    """The database does not give what it was asked for."""


class DatabaseServer:
    """Until `begin` it answers at once, and does not count.

    Args:
        pace: real seconds for each second of the story.
        seed: for how long its queries take.
    """

    def __init__(self, pace: float, seed: int) -> None:
        self.queries: list[float] = []
        """When each was made, in seconds of the story."""
        self._pace = pace
        self._seed = seed
        self._asked: Counter[int] = Counter()
        self._connections = asyncio.Semaphore(AT_ONCE)
        self._price_lists: Counter[int] = Counter()
        self._began: float | None = None
        self._serving: set[asyncio.Task[None]] = set()

    def begin(self, began: float) -> None:
        """Let the story begin, at this moment of `time.monotonic`."""
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
                return  # Who was to ask has left.
            question, about = json.loads(line)
            answer: Any
            try:
                answer = self._change(about) if question == "change" else await self._find(about)
            except DatabaseError as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except ConnectionError:
            pass  # Likewise.
        finally:
            writer.close()

    async def _find(self, numbers: list[int]) -> list[Product]:
        if self._began is None:
            return self._rows(numbers)
        self._refuse_when_down()
        self.queries.append(self._moment())
        chance = self._chance(numbers[0])
        async with self._connections:
            rows = self._rows(numbers)  # What is changed while it answers, it does not see.
            usual = LONG_SECONDS if chance.random() < LONG_SHARE else USUAL_SECONDS
            bounds = SLOW_SECONDS if SLOW.covers(self._moment()) else usual
            await asyncio.sleep(chance.uniform(*bounds))
            self._refuse_when_down()
            if FAILING.covers(self._moment()) and chance.random() < FAILING_SHARE:
                raise DatabaseError("deadlock detected")
        return rows

    def _chance(self, number: int) -> random.Random:
        """The same for the nth query of a product, in whatever order they come."""
        self._asked[number] += 1
        return random.Random(f"{self._seed}/{number}/{self._asked[number]}")  # noqa: S311

    def _change(self, category: int) -> dict[str, int]:
        """Whoever changes prices has a connection of their own."""
        self._refuse_when_down()
        if FAILING.covers(self._moment()):
            raise DatabaseError("deadlock detected")
        self._price_lists[category] += 1
        return {"price_list": self._price_lists[category]}

    def _rows(self, numbers: list[int]) -> list[Product]:
        return [
            {"number": number, "price_list": self._price_lists[category_of(number)]}
            for number in numbers
        ]

    def _refuse_when_down(self) -> None:
        if DOWN.covers(self._moment()):
            raise DatabaseError("connection refused")

    def _moment(self) -> float:
        return -1 if self._began is None else (monotonic() - self._began) / self._pace


class DatabaseClient:
    """Asks the database that listens at a path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def find(self, number: int) -> Product:
        return (await self.find_many([number]))[0]

    async def find_many(self, numbers: list[int]) -> list[Product]:
        products: list[Product] = await self._ask("find", numbers)
        return products

    async def change(self, category: int) -> int:
        """Make a new price list for a category; its number."""
        price_list: int = (await self._ask("change", category))["price_list"]
        return price_list

    async def _ask(self, question: str, about: int | list[int]) -> Any:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
            try:
                writer.write(json.dumps([question, about]).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
        except ConnectionError as error:
            raise DatabaseError("there is no database") from error
        if not line:
            raise DatabaseError("the database has gone away")
        answer = json.loads(line)
        if "error" in answer:
            raise DatabaseError(answer["error"])
        return answer
