"""One load across processes, even if its process dies; superseded loads are not stored."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache
from harness.apis import configured
from harness.figures import in_time, report
from harness.programs import PROGRAMS, SUPPORT, Program
from harness.run_length import scaled

if TYPE_CHECKING:
    from harness import Client, Server

PROCESSES = 8
CALLERS = 100
RUNS = scaled(200, 1_000)
LEASE = 3_000
"""Milliseconds; a second process loads if the machine stalls so long during a load."""
SCHEDULING = 0.5
"""Seconds that two busy cores may keep one of many processes from its turn."""


def started(stack: ExitStack, server: Server, count: int, *arguments: int) -> list[Program]:
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    programs: list[Program] = []
    for _ in range(count):
        urls = [server.url, server.unix_url]
        command = [sys.executable, str(PROGRAMS / "loading.py"), *urls, *map(str, arguments)]
        program = Program(command, os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"})
        stack.callback(program.close)
        programs.append(program)
    for program in programs:
        assert program.line() == "ready"
    return programs


def test_processes_share_one_load(server: Server, raw: Client) -> None:
    """21. 8 processes with 100 callers each request a missing key: one load in total, and all receive its value."""
    with ExitStack() as stack:
        programs = started(stack, server, PROCESSES, CALLERS, 100, 20_000)
        for program in programs:
            program.say("go")
        ended = [program.wait() for program in programs]
    assert [(end.code, end.errors) for end in ended] == [(0, "")] * PROCESSES
    assert [end.lines[-1] for end in ended] == ["answers [1]"] * PROCESSES
    assert raw.get("loads") == b"1"


@pytest.mark.depends_on
def test_another_process_loads_when_the_lease_holder_dies(server: Server, raw: Client) -> None:
    """21. SIGKILL during a load: one more load, and all callers are served when the lease has expired."""
    with ExitStack() as stack:
        (holder,) = started(stack, server, 1, 1, 60_000, LEASE)
        others = started(stack, server, 3, CALLERS, 0, LEASE)
        holder.say("go")
        assert holder.line() == "loading"
        for other in others:
            other.say("go")
        os.kill(holder.pid, signal.SIGKILL)
        killed = time.monotonic()
        first = [other.line() for other in others]
        answers = [
            other.line() if line == "loading" else line
            for other, line in zip(others, first, strict=True)
        ]
        answered = time.monotonic() - killed
        ended = [other.wait() for other in others]
    assert [(end.code, end.errors) for end in ended] == [(0, "")] * 3
    assert answers == ["answers [2]"] * 3
    assert first.count("loading") == 1
    assert raw.get("loads") == b"2"
    report(
        21,
        f"300 callers served {answered * 1000:.0f} ms after a SIGKILL, lease {LEASE} ms",
        answered,
    )
    assert in_time(answered, LEASE / 1000 + 0.2 + SCHEDULING)


class Origin:
    """A database whose reader takes its time, before and after it has read."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.value = 0

    async def load(self) -> int:
        await asyncio.sleep(self._chance.random() * 0.004)
        found = self.value
        await asyncio.sleep(self._chance.random() * 0.004)
        return found


async def naive(cache: AsyncRedisCache, origin: Origin) -> int:
    """What everybody writes first."""
    found = await cache.retrieve(None, "key")
    if found is None:
        found = await cache.store(None, "key", await origin.load())
    return int(found)


async def leased(cache: AsyncRedisCache, origin: Origin) -> int:
    found: int = await cache.retrieve_or_load(None, "key", origin.load)
    return found


@pytest.mark.parametrize("way", [leased, naive])
@pytest.mark.depends_on
async def test_superseded_load_never_restores_the_old_value(server: Server, way: object) -> None:
    """The database changes, then the key is removed or stored: afterwards no old value is cached.

    The proof that the test sees: what everybody writes first leaves the old value.
    """
    chance = random.Random(21)
    stale = 0
    read = leased if way is leased else naive
    async with configured(server.url) as reading, configured(server.url) as writing:
        for turn in range(RUNS):
            await writing.remove(None, "key")
            origin = Origin(chance)
            reads = [asyncio.create_task(read(reading, origin)) for _ in range(3)]
            await asyncio.sleep(chance.random() * 0.008)
            origin.value = 1
            writer = writing if turn % 2 else reading
            if turn % 3:
                await writer.remove(None, "key")
            else:
                await writer.store(None, "key", 1)
            assert set(await asyncio.gather(*reads)) <= {0, 1}
            stale += await writing.retrieve(None, "key") == 0
    report(21, f"{read.__name__}: {stale} of {RUNS} loads brought back what was overtaken")
    assert (stale == 0) is (way is leased)
