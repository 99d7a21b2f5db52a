"""`clear` of a namespace holds against what other processes are loading."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache
from harness.programs import PROGRAMS, SUPPORT, Program

if TYPE_CHECKING:
    from harness import Client, Server

PROCESSES = 3


@pytest.mark.parametrize("max_size", [0, 1000], ids=["unbounded", "bounded"])
async def test_load_of_another_process_is_not_stored(
    server: Server, raw: Client, max_size: int
) -> None:
    """What other processes load when a namespace is cleared is returned to their callers and not stored.

    Whether the lease of the load is a placeholder, or in the header of a stale value.
    """
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    with ExitStack() as stack:
        programs: list[Program] = []
        for number in range(PROCESSES):
            arguments = [server.url, f"missing{number}", f"stale{number}", str(max_size)]
            command = [sys.executable, str(PROGRAMS / "namespace_loading.py"), *arguments]
            programs.append(Program(command, environment))
            stack.callback(programs[-1].close)
        for program in programs:
            assert [program.line(), program.line()] == ["loading", "loading"]
        async with AsyncRedisCache.from_url(
            server.url, max_size=max_size, command_timeout=10_000
        ) as cache:
            await cache.namespace("nn").set("other", 1)
            assert await cache.namespace("n").clear() == 2 * PROCESSES
        for program in programs:
            program.say("go")
        ended = [program.wait() for program in programs]
    assert [(end.code, end.errors) for end in ended] == [(0, "")] * PROCESSES
    assert [end.lines for end in ended] == [["loaded [2, 2]", "found {}"]] * PROCESSES
    assert raw.keys("n*") == [b"nn:other"]
