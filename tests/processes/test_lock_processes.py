"""`lock` across processes, on one server and in a cluster."""

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
INCREMENTS = 10


@pytest.mark.parametrize("max_size", [0, 100])
async def test_no_increment_under_a_lock_is_lost(server: Server, max_size: int) -> None:
    """8 processes that read, add 1 and store, 10 times each, count to 80, and their fencing numbers grow."""
    await _check(server.url, "single", max_size)


@pytest.mark.xdist_group("cluster")
async def test_the_same_on_a_cluster(cluster: Cluster) -> None:
    """The node of a lock decides."""
    await _check(cluster.uri, "cluster", 100)


async def _check(url: str, topology: str, max_size: int) -> None:
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    arguments = [url, topology, str(INCREMENTS), str(max_size)]
    command = [sys.executable, str(PROGRAMS / "lock_calls.py"), *arguments]
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
    options = {"key_prefix": "p{all}:", "topology": topology, "max_size": max_size}
    async with configured(url, **options) as cache:
        count, _ = await cache.retrieve(None, "count:n")
        assert count == PROCESSES * INCREMENTS
        await cache.remove(None, "count:n")
