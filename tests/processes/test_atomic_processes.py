"""`add` and `incr` across processes."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from harness.apis import configured
from harness.programs import PROGRAMS, SUPPORT, Program

if TYPE_CHECKING:
    from harness import Server
    from harness.clusters import Cluster

pytest_plugins = ["cluster_fixtures"]
pytestmark = pytest.mark.depends_on()

PROCESSES = 8
INCREMENTS = 200


@pytest.mark.parametrize("max_size", [0, 100])
async def test_one_process_adds_and_no_increment_is_lost(server: Server, max_size: int) -> None:
    """Of 8 processes that add a key, one succeeds, and 8 x 200 increments give 1,600."""
    await _check(server.url, "single", max_size)


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("max_size", [0, 100])
async def test_the_same_on_a_cluster(cluster: Cluster, max_size: int) -> None:
    """On a cluster too: one addition succeeds, and no increment is lost."""
    await _check(cluster.uri, "cluster", max_size)


async def _check(url: str, topology: str, max_size: int) -> None:
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    arguments = [url, topology, str(INCREMENTS), str(max_size)]
    command = [sys.executable, str(PROGRAMS / "atomic_calls.py"), *arguments]
    with ExitStack() as stack:
        programs: list[Program] = []
        for _ in range(PROCESSES):
            programs.append(Program(command, environment))
            stack.callback(programs[-1].close)
        for program in programs:
            assert program.line() == "ready"
        for program in programs:
            program.say("go")
        ended = [program.wait() for program in programs]
    assert [(end.code, end.errors) for end in ended] == [(0, "")] * PROCESSES
    winners = [int(end.lines[-1]) for end in ended]
    assert sum(winners) == 1
    options = {"key_prefix": "p{all}:", "topology": topology, "max_size": max_size}
    async with configured(url, **options) as cache:
        assert await cache.retrieve(None, "count") == PROCESSES * INCREMENTS
        assert await cache.retrieve(None, "once") == programs[winners.index(1)].pid
        await cache.remove_many(None, ["count", "once"])
