"""uvicorn with two workers, whose responses are cached."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator

import httpx
import pytest

from harness import Server
from harness.addresses import LOOPBACK, free_port
from harness.programs import PROGRAMS, Program
from harness.waiting import await_until

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on()

COLD = 200
ASKED = 20


@pytest.fixture
async def client(
    environment: dict[str, str], any_server: Server
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the workers that opens a connection for each request, which either accepts."""
    with any_server.client() as raw:
        raw.flushall()
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "http_shop:app", "--app-dir", str(PROGRAMS)]
    command += ["--host", LOOPBACK, "--port", str(port), "--workers", "2", "--log-level", "error"]
    program = Program(
        command, environment | {"APP_CACHE_URL": any_server.url, "PYTHONWARNINGS": ""}
    )
    limits = httpx.Limits(max_connections=COLD, max_keepalive_connections=0)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{LOOPBACK}:{port}", limits=limits, timeout=60
        ) as client:
            await await_until(lambda: accepts(port))
            # Until both workers serve.
            workers: set[str] = set()
            while len(workers) < 2:
                workers |= {
                    response.headers["x-worker"]
                    for response in await asyncio.gather(*(client.get("/") for _ in range(ASKED)))
                }
            yield client
        os.kill(program.pid, signal.SIGTERM)
        program.wait()
    finally:
        program.close()


def accepts(port: int) -> bool:
    """Return whether something listens on a port."""
    try:
        httpx.get(f"http://{LOOPBACK}:{port}/")
    except httpx.TransportError:
        return False
    return True


async def test_cold_requests_on_two_workers_run_the_handler_once(
    client: httpx.AsyncClient, any_server: Server
) -> None:
    """200 requests for a page that is not stored, on two workers, run its handler once."""
    runs = 0
    workers: set[str] = set()
    # On a busy machine one worker may accept all connections before the other has its turn.
    while len(workers) < 2:
        runs += 1
        await client.put("/stock/clear", json=runs)
        responses = await asyncio.gather(*(client.get("/stock") for _ in range(COLD)))
        assert {response.text for response in responses} == {f'{{"amount":{runs},"run":{runs}}}'}
        workers = {response.headers["x-worker"] for response in responses}
    with any_server.client() as raw:
        assert raw.get("shop:runs:read") == b"%d" % runs


async def test_write_on_one_worker_is_seen_on_the_other(client: httpx.AsyncClient) -> None:
    """After a write or an invalidation is acknowledged, no worker serves the page that was stored before."""
    writers: set[str] = set()
    amount = 0
    while len(writers) < 2:
        for path in ("/stock", "/stock/clear"):
            amount += 1
            written = await client.put(path, json=amount)
            writers.add(written.headers["x-worker"])
            responses = await asyncio.gather(*(client.get("/stock") for _ in range(ASKED)))
            assert {response.json()["amount"] for response in responses} == {amount}
    hits = await asyncio.gather(*(client.get("/stock") for _ in range(ASKED)))
    # The response may still be being stored when its last client has it.
    assert all(re.search("hit|collapsed", response.headers["cache-status"]) for response in hits)
