"""`options.max_size` holds across concurrent processes and tasks."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from harness.apis import configured
from harness.figures import report
from harness.programs import PROGRAMS, SUPPORT, Program
from harness.run_length import scaled

if TYPE_CHECKING:
    from harness import Client, Server

PROCESSES = scaled(3, 8)
SECONDS = scaled(0.7, 10.0)
BOUND = 60
INDEX = "p:\x00index"


def test_many_processes_keep_the_bound(server: Server, raw: Client) -> None:
    """31. While any number of processes store, the number of values never exceeds max_size after a call."""
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    with ExitStack() as stack:
        programs: list[Program] = []
        for seed in range(PROCESSES):
            arguments = [server.url, server.unix_url, str(BOUND), str(seed), str(SECONDS)]
            command = [sys.executable, str(PROGRAMS / "bounded_stores.py"), *arguments]
            program = Program(command, os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"})
            stack.callback(program.close)
            programs.append(program)
        for program in programs:
            assert program.line() == "ready"
        for program in programs:
            program.say("go")
        ended = [program.wait() for program in programs]
    assert [(end.code, end.errors) for end in ended] == [(0, "")] * PROCESSES
    figures = [tuple(map(int, end.lines[-1].split())) for end in ended]
    calls, most = sum(made for made, _ in figures), max(seen for _, seen in figures)
    report(31, f"{PROCESSES} processes, {calls} calls: at most {most - 1} values of {BOUND}")
    assert BOUND // 2 < most - 1 <= BOUND
    _index_is_right(raw)


async def test_many_tasks_keep_the_bound(server: Server, raw: Client) -> None:
    """Likewise many tasks on many caches in one process, whose calls travel together."""
    options = {"max_size": BOUND, "key_prefix": "p:"}
    async with (
        configured(server.url, **options) as one,
        configured(server.url, **options) as two,
    ):
        most = 0

        async def store(number: int) -> None:
            nonlocal most
            cache = one if number % 2 else two
            for turn in range(5):
                await cache.store(None, f"{(number * 7 + turn) % 150}", number, 30_000 + number)
                if number % 10 == 0:
                    most = max(most, raw.dbsize())

        await asyncio.gather(*map(store, range(200)))
    assert most - 1 == BOUND
    _index_is_right(raw)


def _index_is_right(raw: Client) -> None:
    values = [key for key in raw.keys("*") if key != INDEX.encode()]
    scores = dict(raw.zrange(INDEX, 0, -1, withscores=True))
    assert sorted(scores) == sorted(values)
    assert len(values) <= BOUND
    for value in values:
        assert abs(raw.pexpiretime(value) - scores[value]) <= 5
    assert raw.pexpiretime(INDEX) >= max(raw.pexpiretime(value) for value in values)
