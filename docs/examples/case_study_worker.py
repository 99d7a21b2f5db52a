"""A process of the service in the story: it takes its share of the requests. `case_study.py` starts it.

For each step it reads a line with a plan, says "ready", reads a line that says when to begin, serves,
and prints what came of it as JSON.
"""

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic

from async_redis_cache import CacheError
from case_study_database import DatabaseClient, DatabaseError
from case_study_shop import STEPS
from case_study_traffic import Event, events

PATIENCE = 2.0
"""Seconds after which whoever asked has left."""


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know."""

    step: str
    worker: int
    seconds: float
    life: int
    database: str
    cache_url: str


@dataclass(frozen=True)
class Answer:
    """What a request came to. Moments are those of `time.monotonic`."""

    number: int
    due: float
    began: float
    ended: float
    price_list: int | None
    """None for an error."""


@dataclass(frozen=True)
class Change:
    """A new price list, of which the service has been told at that moment."""

    category: int
    price_list: int
    told: float


@dataclass
class Served:
    """What a worker has to tell."""

    answers: list[Answer] = field(default_factory=list[Answer])
    changes: list[Change] = field(default_factory=list[Change])
    round_trips: int = 0

    @classmethod
    def parse(cls, text: str) -> "Served":
        told = json.loads(text)
        return cls(
            [Answer(**answer) for answer in told["answers"]],
            [Change(**change) for change in told["changes"]],
            told["round_trips"],
        )


class Worker:
    """One step, as one of the processes of the service sees it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._database = DatabaseClient(Path(plan.database))
        self._shop = STEPS[plan.step](self._database, plan.cache_url, plan.life)
        self._served = Served()

    async def run(self) -> None:
        async with self._shop.cache:
            print("ready", flush=True)
            if not await asyncio.to_thread(sys.stdin.readline):
                return  # Nobody is there any more to tell.
            before = self._shop.cache.stats().round_trips
            began = monotonic()
            async with asyncio.TaskGroup() as tasks:
                for event in events(self._plan.worker, self._plan.seconds):
                    await _until(began + event.due)
                    handle = self._ask if event.kind == "ask" else self._change
                    tasks.create_task(handle(event, began + event.due))
            self._served.round_trips = self._shop.cache.stats().round_trips - before
        print(json.dumps(asdict(self._served)), flush=True)

    async def _ask(self, event: Event, due: float) -> None:
        price_list = None
        began = monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                price_list = (await self._shop.product(event.number))["price_list"]
        except (TimeoutError, DatabaseError, CacheError):
            pass
        answer = Answer(event.number, due, began, monotonic(), price_list)
        self._served.answers.append(answer)

    async def _change(self, event: Event, _: float) -> None:
        try:
            price_list = await self._database.change(event.number)
            await self._shop.prices_changed(event.number)
        except (DatabaseError, CacheError):
            return  # Whoever changes prices is told, and nothing is promised.
        self._served.changes.append(Change(event.number, price_list, monotonic()))


async def _until(moment: float) -> None:
    """To the microsecond: a loop that sleeps wakes up to a millisecond late."""
    await asyncio.sleep(moment - monotonic() - 0.002)
    while monotonic() < moment:  # noqa: ASYNC110  nobody could set an event in time
        await asyncio.sleep(0)


if __name__ == "__main__":
    for line in sys.stdin:
        asyncio.run(Worker(Plan(**json.loads(line))).run())
