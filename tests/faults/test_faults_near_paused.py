"""Invalidations are not read for a while: the process is stopped, or its loop is busy."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Client, Server, wait_until
from harness.figures import in_time, report
from harness.loop_lag import MachineLag, measured
from harness.near import HEARTBEAT_SECONDS, comes_back, hold, near_options
from harness.programs import PROGRAMS, SUPPORT, Program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.depends_on()

LONGER_SECONDS = 3 * HEARTBEAT_SECONDS
HEARD_SECONDS = 0.100


@pytest.fixture
def program(server: Server, raw: Client, key_prefix: str) -> Iterator[Program]:
    """A process that holds a local entry and reads it continuously."""
    raw.set(f"{key_prefix}key", b'"first"')
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    arguments = [server.url, key_prefix, str(int(HEARTBEAT_SECONDS * 1000))]
    program = Program(
        [sys.executable, str(PROGRAMS / "near_watching.py"), *arguments],
        os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"},
    )
    assert json.loads(program.line()) == ["first", 0.0]
    assert json.loads(program.line()) == "near"
    yield program
    program.close()


def pass_by(moment: float) -> None:
    """Let time pass, and nothing else happen here."""
    wait_until(lambda: time.monotonic() > moment)


def test_stopped_process_serves_no_stale_entry(
    program: Program, raw: Client, key_prefix: str
) -> None:
    """20. The process is stopped for more than two heartbeats: later reads are not stale."""
    for value in ("second", "third"):
        os.kill(program.pid, signal.SIGSTOP)
        os.waitpid(program.pid, os.WUNTRACED)  # A signal is sent long before it is obeyed.
        stopped_at = time.monotonic()
        raw.set(f"{key_prefix}key", json.dumps(value))
        pass_by(stopped_at + LONGER_SECONDS)
        os.kill(program.pid, signal.SIGCONT)
        now, last_began = json.loads(program.line())
        report(
            20,
            f"stopped: the last stale read began {stopped_at - last_began:.3f} s before it",
        )
        assert now == value
        assert last_began < stopped_at
        # The link is made anew.
        assert json.loads(program.line()) == "near"


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize("heartbeat", [HEARTBEAT_SECONDS, 5.0], ids=["longer", "shorter"])
async def test_busy_loop_serves_no_stale_entry(
    server: Server, raw: Client, key_prefix: str, heartbeat: float, many: bool
) -> None:
    """20. The loop is blocked for more or less than two heartbeats: later reads are not stale."""
    options = near_options(key_prefix, near_cache_heartbeat=int(heartbeat * 1000))
    async with AsyncRedisCache.from_url(server.url, **options) as cache:
        keys = [f"key{number}" for number in range(10)]
        await hold(cache, raw, key_prefix, dict.fromkeys(keys, "old"))
        busy_since = time.monotonic()
        writing = threading.Thread(
            target=lambda: raw.mset({key_prefix + key: '"new"' for key in keys})
        )
        writing.start()
        pass_by(busy_since + LONGER_SECONDS)
        writing.join()
        # In the same turn of the loop: it has not come to read what the link says.
        if many:
            assert await cache.retrieve_many(None, keys) == dict.fromkeys(keys, "new")
        else:
            assert [await cache.retrieve(None, key) for key in keys] == ["new"] * len(keys)
        await comes_back(cache, raw, key_prefix)


@pytest.mark.parametrize("together", [True, False], ids=["one message", "many messages"])
async def test_loop_with_many_invalidations_serves_no_stale_entry(
    server: Server, raw: Client, key_prefix: str, together: bool
) -> None:
    """20. The loop is busy, with more invalidations than it reads in one turn: later reads are not stale.

    Of one message nothing is known before all of it is here.
    """

    def change(key: str) -> None:
        # Messages bring what changed in one turn of the server: in a transaction, that is all.
        with raw.pipeline(transaction=together) as pipeline:
            for number in range(20_000):
                pipeline.set(f"{key_prefix}a-key-that-is-rather-long-{number}", b"1")
            pipeline.set(f"{key_prefix}{key}", b'"new"')
            pipeline.execute()

    options = near_options(key_prefix, near_cache_heartbeat=10_000)
    async with AsyncRedisCache.from_url(server.url, **options) as cache:
        await hold(cache, raw, key_prefix, {"zz": "old"})
        change("zz")  # The loop does not run meanwhile.
        assert await cache.retrieve(None, "zz") == "new"
        await hold(cache, raw, key_prefix, {"zz": "old"})
        change("zz")
        assert await cache.retrieve_many(None, ["zz"]) == {"zz": "new"}
        await comes_back(cache, raw, key_prefix)
        assert cache.stats().near_flushes == 0


async def test_reader_without_pauses_gets_no_stale_entry(
    server: Server, raw: Client, key_prefix: str
) -> None:
    """20. A task that only reads from the near cache sees a change within 100 ms."""

    async def seconds_until_heard(lag: MachineLag) -> float:
        async with AsyncRedisCache.from_url(
            server.url, key_prefix=key_prefix, near_cache_enabled=True, near_cache_heartbeat=5_000
        ) as cache:
            await hold(cache, raw, key_prefix, {"key": "old"})
            written_at: list[float] = []

            def write() -> None:
                wait_until(lambda: cache.stats().near_hits > 1_000)
                raw.set(f"{key_prefix}key", '"new"')
                written_at.append(time.monotonic())

            writing = threading.Thread(target=write)
            writing.start()
            while await cache.retrieve(None, "key") == "old":
                pass
            heard_at = time.monotonic()
            writing.join()
            return heard_at - written_at[0] - lag.excuse(written_at[0], heard_at)

    seconds, _ = await measured(seconds_until_heard, lambda seconds: seconds < HEARD_SECONDS)
    report(20, f"a task that only reads: change seen after {seconds * 1000:.1f} ms", seconds)
    assert in_time(seconds, HEARD_SECONDS)
