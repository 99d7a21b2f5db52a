"""While the server is unreachable, the loader is called and calls succeed."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

import pytest

from async_redis_cache import CacheEntry, CacheError, CachePermissionError, CacheUnavailable
from async_redis_cache._engine.engine import Engine
from harness import Server, StartProxy, StartServer, await_until
from harness.apis import Api, configured
from harness.figures import in_time, report
from harness.loop_lag import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["near_fixtures"]
pytestmark = pytest.mark.depends_on("api")

DEADLINE = 200


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_loads_succeed_while_the_server_is_unreachable(
    private_server: StartServer, proxy: StartProxy, api: Api, how: str
) -> None:
    """The loader's value is given without an error, within the deadline and the load."""
    server = private_server()
    network = proxy(server)
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        return loads

    options = {"command_timeout": DEADLINE, "max_size": 0}
    async with configured(network.url, api, **options) as cache:
        if how == "refused":
            server.stop()
        else:
            network.black_hole()
        # The network does not heal: the call ends by itself or not at all.
        begun = time.monotonic()
        assert await cache.retrieve_or_load(None, "key", load) == 1
        assert in_time(time.monotonic() - begun, DEADLINE / 1000 + 0.3)


async def test_callers_still_share_a_load(private_server: StartServer) -> None:
    """While the server is unreachable, one load serves all callers; afterwards values are stored again."""
    server = private_server()
    gate = asyncio.Event()

    async def load() -> str:
        await gate.wait()
        return "loaded"

    async with configured(server.url, command_timeout=DEADLINE) as cache:
        server.stop()
        calls = [asyncio.create_task(cache.retrieve_or_load(None, "key", load)) for _ in range(50)]
        loads = cache._lifecycle.ready().engine.single_flight._running
        # Their reads may fail one after the other.
        await await_until(lambda: sum(len(load.waiting) for load in loads) == 50)
        gate.set()
        assert await asyncio.gather(*calls) == ["loaded"] * 50
        assert cache.stats().loads == 1
        server.start()
        with server.client() as raw:
            while not raw.exists("key"):
                assert await cache.retrieve_or_load(None, "key", load) == "loaded"
        assert await cache.retrieve(None, "key") == "loaded"


async def test_refresh_joins_no_load(private_server: StartServer) -> None:
    """While the server is unreachable, too, `refresh` loads a value now, although one is being loaded."""
    server = private_server()
    gate = asyncio.Event()

    async def load_before() -> str:
        await gate.wait()
        return "before"

    async with configured(server.url, command_timeout=DEADLINE) as cache:
        server.stop()
        earlier = asyncio.create_task(cache.retrieve_or_load(None, "key", load_before))
        await await_until(lambda: cache.stats().loads == 1)
        refresh = asyncio.create_task(cache.refresh(None, "key", lambda: "now"))
        # A refresh that has joined the earlier load ends with it.
        await await_until(lambda: refresh.done() or cache.stats().misses == 2)
        gate.set()
        assert [await earlier, await refresh] == ["before", "now"]


async def test_load_returns_its_value_when_the_server_is_killed(
    private_server: StartServer,
) -> None:
    """A value loaded while the server dies is returned all the same."""
    server = private_server()
    gate = asyncio.Event()

    async def load() -> int:
        await gate.wait()
        return 1

    async with configured(server.url, command_timeout=DEADLINE) as cache:
        call = asyncio.create_task(cache.retrieve_or_load(None, "key", load))
        await await_until(lambda: cache.stats().loads == 1)
        server.kill()
        gate.set()
        assert await call == 1


@pytest.mark.parametrize(
    "operation", ["retrieve_or_load", "retrieve_or_load_many", "retrieve_or_load_entry"]
)
async def test_value_of_another_process_is_returned(
    server: Server, key_prefix: str, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """A caller that waited for the load of another process gets its value, even if the server fails just then."""
    asked = 0

    async def gone(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise CacheUnavailable("CONNECTION_LOST", "the connection was lost")

    async with (
        configured(server.url, key_prefix=key_prefix) as one,
        configured(server.url, key_prefix=key_prefix) as other,
    ):
        gate = asyncio.Event()
        loading = asyncio.create_task(one.retrieve_or_load(None, "key", gate.wait))
        await await_until(lambda: one.stats().loads == 1)
        if operation == "retrieve_or_load_many":
            waiting = asyncio.create_task(other.retrieve_or_load_many(None, ["key"], dict.fromkeys))
        else:
            waiting = asyncio.create_task(getattr(other, operation)(None, "key", lambda: "loaded"))
        await await_until(lambda: other.stats().misses == 1)
        monkeypatch.setattr(Engine, "time_to_live", gone)
        await one.store(None, "key", "stored")
        given: object = await waiting
        gate.set()
        await loading
    if operation == "retrieve_or_load_entry":
        assert given == CacheEntry("stored", "hit", None, None)
    else:
        assert given == ("stored" if operation == "retrieve_or_load" else {"key": "stored"})
    # What nobody wants to know is not asked for.
    assert asked == (operation == "retrieve_or_load_entry")


async def test_permission_error_is_raised(private_server: StartServer, api: Api) -> None:
    """A user without permission for scripts gets the error, and nothing is loaded."""
    server: Server = private_server(acl={"ann": "on >secret ~* +@all -eval"})
    loads: list[int] = []
    async with configured(server.login_url("ann", "secret"), api, max_size=0) as cache:
        with pytest.raises(CachePermissionError):
            await cache.retrieve_or_load(None, "key", lambda: loads.append(1))
    assert loads == []


async def test_dead_server_costs_one_timeout(private_server: StartServer) -> None:
    """200 requests a second, the server killed: no call exceeds its timeout, and soon none waits at all.

    After its return it is used again.
    """
    server = private_server()
    took: list[float] = []
    # Of calls that began with the circuit open: whether a tenth of the timeout overtook them, and how long they took.
    waited: list[tuple[bool, float]] = []
    late_calls = 0
    calls: set[asyncio.Task[None]] = set()
    keys = [f"key{number}" for number in range(50)]
    options = {"command_timeout": DEADLINE, "max_size": 0, "max_connections": 2}
    async with configured(server.url, **options) as cache:

        async def request(key: str) -> None:
            nonlocal late_calls
            is_open = bool(cache.stats().open_circuits)
            begun = time.monotonic()
            guard, tenth = Guard(DEADLINE / 1000 + 0.3), Guard(DEADLINE / 1000 / 10)
            assert await cache.retrieve_or_load(None, key, lambda: 1, 60_000) == 1
            late_calls += guard.fired
            took.append(time.monotonic() - begun)
            if is_open:
                waited.append((tenth.fired, took[-1]))
            guard.cancel()
            tenth.cancel()

        async def requests(until: Callable[[], object]) -> None:
            async with asyncio.timeout(60):
                for key in itertools.cycle(keys):
                    if until():
                        return
                    task = asyncio.create_task(request(key))
                    calls.add(task)
                    task.add_done_callback(calls.discard)
                    await asyncio.sleep(0.005)

        await requests(lambda: len(took) >= 50)
        await asyncio.to_thread(server.kill)
        await requests(lambda: len(waited) >= 150)
        assert cache.stats().open_circuits
        await asyncio.to_thread(server.start)
        await requests(lambda: not cache.stats().open_circuits)
        with server.client() as raw:
            await requests(lambda: raw.exists(*keys))
        await asyncio.gather(*calls)
        times = sorted(seconds for _, seconds in waited)
        report(
            24,
            f"{max(took) * 1000:.0f} ms at most (deadline {DEADLINE}), "
            f"with the breaker open {times[len(times) // 2] * 1e6:.0f} us in the median",
        )
        assert late_calls == 0
        # With the breaker open at least half of the calls take next to nothing of what they might wait for.
        assert sum(was_overtaken for was_overtaken, _ in waited) < len(waited) / 2


async def test_circuit_opens_after_consecutive_failures(
    private_server: StartServer, api: Api
) -> None:
    """Two are not enough; while it is open, callers share a load; the plain methods still try."""
    server = private_server()
    async with configured(server.url, api, retries=0, max_size=0) as cache:
        server.kill()
        for number in range(3):
            assert not cache.stats().open_circuits
            assert await cache.retrieve_or_load(None, "key", lambda: 5) == 5
            assert cache.stats().loads == number + 1
        assert cache.stats().open_circuits
        with pytest.raises(CacheError) as caught:
            await cache.retrieve(None, "key")
        assert caught.value.code != "BREAKER_OPEN"
        server.start()
        await await_until(lambda: not cache.stats().open_circuits)
        assert await cache.retrieve_or_load(None, "key", lambda: 6) == 6
        assert await cache.retrieve(None, "key") == 6
        server.kill()
        for _ in range(3):
            assert await cache.retrieve_or_load(None, "key", lambda: 7) == 7
        assert cache.stats().open_circuits
    assert not cache.stats().open_circuits
