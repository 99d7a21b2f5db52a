"""One process of the service in the case study, started by `case_study.py`. It serves a share of the requests.

For each step it reads a line with a plan, prints "ready", reads a line that starts the step, serves the
requests, and prints the results as JSON.
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

CLIENT_TIMEOUT = 2.0
"""Seconds after which a client gives up its request."""


@dataclass(frozen=True)
class Plan:
    """The parameters of a worker for one step."""

    step: str
    worker: int
    seconds: float
    ttl: int
    database: str
    cache_url: str


@dataclass(frozen=True)
class Answer:
    """The result of a request. Times are those of `time.monotonic`."""

    number: int
    due: float
    began: float
    ended: float
    price_list: int | None
    """None if the request failed."""


@dataclass(frozen=True)
class Change:
    """A new price list, and the time at which the service had invalidated the old one."""

    category: int
    price_list: int
    applied: float


@dataclass
class Served:
    """The results of a worker in one step."""

    answers: list[Answer] = field(default_factory=list[Answer])
    changes: list[Change] = field(default_factory=list[Change])
    round_trips: int = 0

    @classmethod
    def parse(cls, text: str) -> "Served":
        served = json.loads(text)
        return cls(
            [Answer(**answer) for answer in served["answers"]],
            [Change(**change) for change in served["changes"]],
            served["round_trips"],
        )


class Worker:
    """One step, in one process of the service."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._database = DatabaseClient(Path(plan.database))
        self._shop = STEPS[plan.step](self._database, plan.cache_url, plan.ttl)
        self._served = Served()

    async def run(self) -> None:
        async with self._shop.cache:
            print("ready", flush=True)
            if not await asyncio.to_thread(sys.stdin.readline):
                return  # The parent process has exited.
            before = self._shop.cache.stats().round_trips
            began = monotonic()
            async with asyncio.TaskGroup() as tasks:
                for event in events(self._plan.worker, self._plan.seconds):
                    await _sleep_until(began + event.due)
                    handle = self._request if event.kind == "request" else self._change
                    tasks.create_task(handle(event, began + event.due))
            self._served.round_trips = self._shop.cache.stats().round_trips - before
        print(json.dumps(asdict(self._served)), flush=True)

    async def _request(self, event: Event, due: float) -> None:
        price_list = None
        began = monotonic()
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT):
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
            return  # The change failed with an error, so requests may still return the old prices.
        self._served.changes.append(Change(event.number, price_list, monotonic()))


async def _sleep_until(time: float) -> None:
    """Sleep to within a microsecond. `asyncio.sleep` alone returns up to a millisecond late."""
    await asyncio.sleep(time - monotonic() - 0.002)
    while monotonic() < time:  # noqa: ASYNC110  there is no event to wait for
        await asyncio.sleep(0)


if __name__ == "__main__":
    for line in sys.stdin:
        asyncio.run(Worker(Plan(**json.loads(line))).run())
