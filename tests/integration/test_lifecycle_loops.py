"""One AsyncRedisCache on several event loops: typed refusal, never a wrong value."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from async_redis_cache import AsyncRedisCache, CacheStateError
from harness import Client, Server
from harness.figures import report
from harness.leaks import open_descriptors
from harness.operations import OPERATIONS, STEPS
from harness.programs import PrivateLoop
from harness.run_length import scaled
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")

NOWHERE = "redis://127.0.0.1:1"
T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect garbage after a test, before the next one can see its warnings."""
    yield
    gc.collect()


@pytest.fixture
def run(private_loop: PrivateLoop) -> Run[Any]:
    """As asyncio.run: a new loop for each, that is closed at the end."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        if private_loop == "asyncio":
            return asyncio.run(work)
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)

    return run


async def refusals(cache: AsyncRedisCache, steps: dict[str, Callable[[Any], Any]]) -> set[object]:
    """The errors of these operations."""
    seen: set[object] = set()
    for step in steps.values():
        with pytest.raises(CacheStateError) as caught:
            await step(cache)
        seen.add((caught.value.code, caught.value.trace_id))
    return seen


@pytest.mark.no_leaks
def test_another_loop_is_refused(run: Run[Any], server: Server, key_prefix: str) -> None:
    """25. While the cache is open on one loop, every method raises WRONG_LOOP on another."""
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
    opened, done = threading.Event(), threading.Event()

    async def own() -> int:
        rounds = 0
        async with cache:
            await cache.store(None, "own", 1)
            opened.set()
            while not done.is_set():
                assert await cache.retrieve(None, "own") == 1
                rounds += 1
        return rounds

    async def other() -> set[object]:
        seen: set[object] = set()
        for _ in range(20):
            seen |= await refusals(cache, OPERATIONS | STEPS)
            assert cache.is_open()
            assert cache.stats().hits >= 0
        return seen

    with ThreadPoolExecutor(1) as threads:
        owner = threads.submit(run, own())
        try:
            assert opened.wait(5)
            assert run(other()) == {("WRONG_LOOP", "trace")}
        finally:
            done.set()
        assert owner.result(60) > 0
    assert not cache.is_open()


@pytest.mark.no_leaks
def test_two_loops_that_open_at_once_share_nothing(
    run: Run[Any], server: Server, raw: Client, key_prefix: str
) -> None:
    """25. If two loops open one cache at the same time, one succeeds and the other raises."""
    outcomes: list[str] = []
    connected = raw.info("clients")["connected_clients"]
    for _ in range(scaled(20, 500)):
        cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)
        both = threading.Barrier(2)

        async def use(cache: AsyncRedisCache = cache, both: Any = both) -> str:
            both.wait(5)
            try:
                await cache.open(None)
                await cache.store(None, "key", 1)
            except CacheStateError as error:
                outcome = error.code
            else:
                outcome = "open"
            both.wait(5)
            if outcome == "open":
                await cache.close(None)
            return outcome

        with ThreadPoolExecutor(2) as threads:
            users = [threads.submit(run, use()) for _ in range(2)]
            outcomes.append(" ".join(sorted(user.result(60) for user in users)))
    assert set(outcomes) == {"WRONG_LOOP open"}
    wait_until(lambda: raw.info("clients")["connected_clients"] == connected)


@pytest.mark.no_leaks
def test_one_run_after_another_with_close(run: Run[Any], server: Server, key_prefix: str) -> None:
    """A cache that is closed in each run is opened in the next, on another loop."""
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix)

    async def job(number: int) -> object:
        async with cache:
            before = await cache.retrieve(None, "key")
            await cache.store(None, "key", number)
        return before

    assert [run(job(number)) for number in range(5)] == [None, 0, 1, 2, 3]


@pytest.mark.no_leaks
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Deserved: nobody closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # The same, uvloop.
def test_one_run_after_another_without_close(
    run: Run[Any], server: Server, raw: Client, key_prefix: str
) -> None:
    """25. After a loop was closed, the cache raises until it is opened again, and leaks no connection."""
    cache = AsyncRedisCache.from_url(server.url, key_prefix=key_prefix, max_connections=4)
    connected = raw.info("clients")["connected_clients"]
    most = 0
    descriptors = len(open_descriptors())
    runs = scaled(20, 200)

    async def job(number: int) -> None:
        if number:
            assert await refusals(cache, OPERATIONS) == {("WRONG_LOOP", "trace")}
        if not cache.is_open():
            await cache.open(None)
        await cache.store(None, "key", number)
        assert await asyncio.gather(*(cache.retrieve(None, "key") for _ in range(20))) == (
            [number] * 20
        )

    for number in range(runs):
        run(job(number))
        most = max(most, len(open_descriptors()) - descriptors)
    run(cache.close(None))
    gc.collect()
    report(25, f"{runs} runs without close: at most {most} descriptors open between them", most)
    assert most <= 4
    assert not cache.is_open()
    wait_until(lambda: raw.info("clients")["connected_clients"] == connected)


# The loop may end in the midst of an attempt to connect, before redis-py has awaited its own clean-up.
@pytest.mark.filterwarnings("ignore:coroutine 'AbstractConnection.disconnect' was never awaited")
@pytest.mark.usefixtures("collected")
def test_loop_may_end_while_the_circuit_is_open(run: Run[Any]) -> None:
    """On the next loop the circuit is closed, and the cache works as usual."""
    cache = AsyncRedisCache.from_url(NOWHERE, require_connection=False, command_timeout=30)

    async def load() -> list[int]:
        await cache.open(None)
        seen = [cache.stats().open_circuits]
        for _ in range(3):
            assert await cache.retrieve_or_load(None, "key", lambda: 1) == 1
        return [*seen, cache.stats().open_circuits]

    for _ in range(2):
        assert run(load()) == [0, 1]
    run(cache.close(None))
    assert cache.stats().open_circuits == 0
