"""A server that accepts no further connection."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import ExitStack

import pytest

from async_redis_cache import AsyncRedisCache
from harness import Server, StartServer, await_until
from harness.callers import Customers
from harness.figures import beside_limit, counts, in_time, report
from harness.loop_lag import MachineLag, Stopwatch, measured

pytestmark = pytest.mark.depends_on()

ROOM = 20
LIMIT = 0.5
GRACE_SECONDS = 0.050
RECOVERY_SECONDS = 0.200
TASKS = 50

takes_the_room_itself = pytest.mark.not_with("tls", reason="it takes the room itself, unencrypted")


def fill(server: Server, crowd: ExitStack) -> None:
    """Take all the room that is left."""
    while True:
        peer = crowd.enter_context(socket.create_connection((server.host, server.port), timeout=5))
        peer.sendall(b"PING\r\n")
        if peer.recv(64).startswith(b"-ERR max"):
            return


@takes_the_room_itself
@pytest.mark.no_leaks
async def test_calls_end_at_maxclients_and_succeed_afterwards(
    private_server: StartServer,
) -> None:
    """11. maxclients is reached: typed errors by D, recovery within 200 ms."""
    server = private_server(config={"maxclients": ROOM})
    raw = server.client()
    raw.set("key", b'"value"')
    loop = asyncio.get_running_loop()
    codes: Counter[str] = Counter()
    late = 0

    async def crowded(lag: MachineLag) -> tuple[float, float]:
        nonlocal late
        watch = Stopwatch(lag, LIMIT)
        async with (
            AsyncRedisCache.from_url(server.url, command_timeout=int(LIMIT * 1000)) as cache,
            asyncio.TaskGroup() as group,
        ):
            customers = Customers(cache, watch, TASKS)
            with ExitStack() as crowd:
                raw.client_kill_filter(_type="normal", skipme=True)
                fill(server, crowd)
                await await_until(lambda: "<ConnectionPool 0 open" in repr(cache))
                fill(server, crowd)
                customers.run(group)
                await await_until(lambda: customers.codes.total() >= 3 * TASKS)
                assert customers.codes["OK"] == 0
            left_at = loop.time()
            await await_until(lambda: min(customers.served_at) > left_at)
            customers.close()
            back_at = max(customers.served_at)
        codes.clear()
        codes.update(customers.codes)
        late = watch.late
        return watch.latest, back_at - left_at - lag.excuse(left_at, back_at)

    (latest, recovery), _ = await measured(
        crowded, lambda found: found[0] < GRACE_SECONDS and found[1] < RECOVERY_SECONDS
    )
    report(
        11,
        f"{beside_limit(latest)}, "
        f"all served {recovery * 1000:.1f} ms after a connection was available, {counts(codes)}",
        max(latest / GRACE_SECONDS, recovery / RECOVERY_SECONDS),
    )
    assert late == 0
    assert in_time(recovery, RECOVERY_SECONDS)
    assert codes.keys() <= {"OK", "CONNECT_FAILED", "TIMEOUT"}


@pytest.mark.not_with("debug", reason="it needs more to be served than debug mode can")
@takes_the_room_itself
async def test_one_connection_is_enough(private_server: StartServer) -> None:
    """Where there is room for one connection and no more, all calls are served on it."""
    server = private_server(config={"maxclients": ROOM})
    server.client().set("key", b'"value"')
    async with AsyncRedisCache.from_url(server.url) as cache:
        with ExitStack() as crowd, MachineLag() as lag:
            fill(server, crowd)
            async with asyncio.TaskGroup() as group:
                customers = Customers(cache, Stopwatch(lag, LIMIT), TASKS)
                customers.run(group)
                await await_until(lambda: customers.codes["OK"] >= 100 * TASKS)
                customers.close()
        assert customers.codes.keys() == {"OK"}
        assert (cache.stats().retries, cache.stats().connects) == (0, 1)
