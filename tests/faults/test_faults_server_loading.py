"""A server that loads its data before it serves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import pytest
import redis

from async_redis_cache import AsyncRedisCache
from harness import Client, Server, StartProxy, StartServer, await_until
from harness.callers import KEY, Customers
from harness.figures import beside_limit, counts, in_time, report
from harness.loop_lag import MachineLag, Stopwatch, measured

pytestmark = pytest.mark.depends_on()

PREFIX = "p:"
LIMIT = 0.5
RECOVERY_SECONDS = 0.250
MOST_PROBES_PER_SECOND = 10
LOADING_SECONDS = 2
KEYS = 2_000
SLOW: dict[str, str | int] = {
    "save": "3600 1",
    "rdbcompression": "no",
    # Microseconds for each key. In between it looks for clients often, to tell them that it loads.
    "key-load-delay": LOADING_SECONDS * 1_000_000 // KEYS,
    "loading-process-events-interval-bytes": 1024,
}


Way = Callable[[Server], Coroutine[Any, Any, None]]


class Loaded(NamedTuple):
    """What was seen while a server loaded, and right after."""

    seconds: float
    """How long it loaded."""
    probes: int
    """Exchanges and attempts to connect."""
    latest: float
    """The latest end of a call after its deadline."""
    late: int
    """Calls that did not end before a timer set for a little later."""
    recovery: float
    """Seconds from the end of the loading until all had been served."""

    @property
    def per_second(self) -> float:
        return self.probes / self.seconds

    @property
    def fits(self) -> bool:
        return (
            self.per_second <= MOST_PROBES_PER_SECOND
            and not self.late
            and in_time(self.recovery, RECOVERY_SECONDS)
        )


def state_of(raw: Client) -> str:
    try:
        raw.get(PREFIX + KEY)
    except redis.BusyLoadingError:
        return "loading"
    except redis.RedisError:
        return "away"
    return "serving"


async def reload(server: Server) -> None:
    """Let it load while it keeps its connections, as a replica does that is sent all data anew."""
    with server.client() as raw:
        await asyncio.to_thread(raw.execute_command, "DEBUG", "RELOAD", "NOSAVE")


async def restart(server: Server) -> None:
    """Let it load while it takes new connections."""
    await asyncio.to_thread(server.restart)


async def loaded(
    lag: MachineLag, server: Server, probes: Callable[[], int], customers: Customers, way: Way
) -> Loaded:
    """Let the server load while all ask, and see to it that all are served in the end."""
    loop = asyncio.get_running_loop()
    with server.client() as raw:
        loading = asyncio.create_task(way(server))
        await await_until(lambda: state_of(raw) == "loading")
        began, before = loop.time(), probes()
        await await_until(lambda: state_of(raw) == "serving")
        ended, after = loop.time(), probes()
        await loading
        await await_until(lambda: min(customers.served_at) > ended)
    served = max(customers.served_at)
    recovery = served - ended - lag.excuse(ended, served)
    return Loaded(ended - began, after - before, 0.0, 0, recovery)


@pytest.mark.no_leaks
@pytest.mark.parametrize("near", [False, True], ids=["", "near"])
@pytest.mark.parametrize("way", [reload, restart])
async def test_loading_server_opens_the_circuit(
    private_server: StartServer, proxy: StartProxy, way: Way, near: bool
) -> None:
    """15. LOADING for 2 s: at most 10 probes per second and process; calls are served within 250 ms afterwards."""
    server = private_server(config=SLOW)
    with server.client() as raw:
        raw.set(PREFIX + KEY, b'"value"')
        raw.mset({f"other:{number}": "x" * 200 for number in range(KEYS)})
        raw.save()
    network = proxy(server)
    codes: Counter[str] = Counter()

    async def asked(lag: MachineLag) -> Loaded:
        watch = Stopwatch(lag, LIMIT)
        async with (
            AsyncRedisCache.from_url(
                network.url,
                key_prefix=PREFIX,
                near_cache_enabled=near,
                command_timeout=int(LIMIT * 1000),
            ) as cache,
            asyncio.TaskGroup() as group,
        ):
            customers = Customers(cache, watch)
            customers.run(group)
            await await_until(lambda: min(customers.served_at) > 0)
            found = await loaded(
                lag, server, lambda: cache.stats().round_trips + network.opened, customers, way
            )
            customers.close()
        codes.clear()
        codes.update(customers.codes)
        return found._replace(latest=watch.latest, late=watch.late)

    found, _ = await measured(asked, lambda found: found.fits)
    report(
        15,
        f"{way.__name__}{', near cache' if near else ''}: {found.probes} probes in "
        f"{found.seconds:.1f} s, {beside_limit(found.latest)}, all served "
        f"{found.recovery * 1000:.0f} ms after, {counts(codes)}",
        found.per_second,
    )
    assert found.fits, found
    assert codes["LOADING"] > 0
    assert codes.keys() <= {"OK", "LOADING", "CONNECT_FAILED", "CONNECTION_LOST", "TIMEOUT"}
