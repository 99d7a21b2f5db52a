"""Programs with an event loop for each job, and one cache with `any_loop=True`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness import Server, StartServer
from harness.programs import PROGRAMS, Program, StartProgram
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")

JOBS = 60
KEYS = 8
HEARTBEAT_SECONDS = 0.05


def invoke(program: Program, key: str) -> dict[str, Any]:
    """Have the handler of `lambda_handler` called with an event."""
    program.say(json.dumps({"key": key}))
    found: dict[str, Any] = json.loads(program.line())
    return found


@pytest.mark.parametrize("near", ["near", "far"])
def test_handler_that_is_frozen_between_invocations(
    near: str, start_program: StartProgram, server: Server, key_prefix: str
) -> None:
    """Invocations share connections; after a freeze in which the server has closed these, none fails or reads an old value."""
    program = start_program("lambda_handler", server.url, key_prefix, near)
    with server.client() as raw:
        raw.set(f"{key_prefix}key", "1")
        for _ in range(6):
            found = invoke(program, "key")
            assert (found["read"], found["loaded"]) == (1, 1)
            # The two calls of an invocation share a connection only where the second comes before the first is sent.
            assert found["connects"] <= 2
        for read in (2, 3, 4):
            os.kill(program.pid, signal.SIGSTOP)
            os.waitpid(program.pid, os.WUNTRACED)
            frozen = time.monotonic()
            raw.set(f"{key_prefix}key", str(read))
            for kind in ("normal", "pubsub"):
                raw.execute_command("CLIENT", "KILL", "TYPE", kind)
            wait_until(lambda frozen=frozen: time.monotonic() - frozen > 2 * HEARTBEAT_SECONDS)  # type: ignore[misc]
            os.kill(program.pid, signal.SIGCONT)
            found = invoke(program, "key")
            assert (found["read"], found["loaded"]) == (read, 1)
    if near == "near":
        wait_until(lambda: invoke(program, "key")["near"] > found["near"])
    os.kill(program.pid, signal.SIGTERM)
    ended = program.wait()
    assert (ended.code, ended.errors) == (-signal.SIGTERM, "")


@pytest.fixture
def celery(environment: dict[str, str], private_server: StartServer) -> Iterator[dict[str, str]]:
    """A prefork worker of Celery; gives the environment of a client."""
    pytest.importorskip("celery")
    server = private_server()
    urls = {"APP_CACHE_URL": server.url, "APP_BROKER_URL": server.url}
    asked = environment | urls | {"PYTHONWARNINGS": ""}
    command = [sys.executable, "-m", "celery", "--workdir", str(PROGRAMS), "-A", "celery_jobs"]
    # Each process runs ten jobs, and the main process, where the cache is open, then forks another.
    command += ["worker", "--pool=prefork", "--concurrency=2", "--max-tasks-per-child=10"]
    command += ["--loglevel=ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = Program(command, asked)
    try:
        yield asked
        os.kill(worker.pid, signal.SIGTERM)
        ended = worker.wait()
        assert ended.code == 0
        assert "Traceback" not in ended.errors
    finally:
        worker.close()


@pytest.mark.not_with("user", "tls", reason="the broker's own login and TLS are not tested here")
def test_prefork_worker_of_celery(celery: dict[str, str]) -> None:
    """Jobs in processes forked after `open` share a cache; each value is loaded once."""
    client = Program([sys.executable, str(PROGRAMS / "celery_jobs.py"), str(JOBS)], celery)
    try:
        ended = client.wait()
    finally:
        client.close()
    assert ended.code == 0, ended.errors
    found: list[tuple[int, bool, int]] = json.loads(ended.lines[-1])
    assert [right for _, right, _ in found] == [True] * JOBS
    loads = {pid: max(count for other, _, count in found if other == pid) for pid, _, _ in found}
    assert len(loads) >= JOBS / 10
    assert sum(loads.values()) == KEYS
