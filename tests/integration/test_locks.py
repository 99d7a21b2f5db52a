"""`lock` of namespaces: one holder at a time, fencing numbers, renewal, loss, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    FOREVER,
    AsyncRedisCache,
    CacheError,
    CacheInputError,
    CacheLockError,
    CacheStateError,
    Lock,
    Namespace,
    RedisCache,
)
from harness import await_until
from harness.stalls import outlasting_stalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from harness import Client, Server, StartProxy

pytestmark = pytest.mark.depends_on("server")

PREFIX = "p:"
INDEX = f"{PREFIX}\x00index"
LOCK = f"{PREFIX}\x00lock:job:a"
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bounded": {"max_size": 5},
    "near": {"near_cache_enabled": True},
    "any_loop": {"any_loop": True},
}


def opened(url: str, **options: Any) -> AsyncRedisCache:
    """A cache of this server, to be entered."""
    return AsyncRedisCache.from_url(url, key_prefix=PREFIX, **options)


@pytest.fixture(params=WAYS)
async def jobs(server: Server, request: pytest.FixtureRequest) -> AsyncIterator[Namespace[Any]]:
    """A namespace of each kind of cache."""
    async with opened(server.url, **WAYS[request.param]) as cache:
        yield cache.namespace("job")


async def test_lock_has_one_holder_and_growing_numbers(jobs: Namespace[Any], raw: Client) -> None:
    """Of many callers one works at a time, each with a greater number; then nothing holds the lock."""
    inside = 0
    numbers: list[int] = []

    async def work() -> None:
        nonlocal inside
        async with jobs.lock("a", wait=60) as lock:
            inside += 1
            assert inside == 1
            assert lock.is_held()
            numbers.append(lock.fencing_number)
            await asyncio.sleep(0)
            assert await jobs.get("a") is None
            inside -= 1
        assert not lock.is_held()

    await asyncio.gather(*(work() for _ in range(20)))
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 20
    assert raw.zcard(INDEX) == 0
    assert 0 < raw.pttl(LOCK) <= 61_000


async def test_acquiring_and_releasing_take_one_round_trip_each(jobs: Namespace[Any]) -> None:
    """Nothing else is sent."""
    cache = jobs._cache
    async with jobs.lock("a"):
        pass
    before = cache.stats().round_trips
    async with jobs.lock("a"):
        assert cache.stats().round_trips - before == 1
    assert cache.stats().round_trips - before == 2


async def test_waiting_ends(jobs: Namespace[Any]) -> None:
    """LOCK_TIMEOUT once the caller has waited as long as it said; 0 tries once, and is no error of the cache."""
    async with jobs.lock("a"):
        for wait in (0, 0.02, timedelta(milliseconds=1)):
            with pytest.raises(CacheLockError) as caught:
                async with jobs.lock("a", wait=wait, trace_id="t"):
                    raise AssertionError("entered")
            assert (caught.value.code, caught.value.trace_id) == ("LOCK_TIMEOUT", "t")
        async with jobs.lock("b", wait=0):
            pass
    assert jobs._cache.stats().errors == 0
    async with jobs.lock("a", wait=0):
        pass


def now_on(raw: Client) -> int:
    """The time of the server in milliseconds."""
    seconds, microseconds = raw.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def waiting_for(jobs: Namespace[Any], count: int) -> None:
    """Until so many callers of this process wait for a lock."""
    locks: Any = jobs._cache._lifecycle.ready().engine.locks
    engine_locks = getattr(locks.wait, "args", [None, locks.wait])[1].__self__
    await await_until(lambda: sum(map(len, engine_locks._waiting.values())) == count)


async def never_renewed(lock: Lock) -> None:
    """As if the process of its holder were suspended."""
    hold = lock._hold
    assert hold is not None
    await await_until(lambda: hold.renewal is not None)
    assert hold.renewal is not None
    hold.renewal.cancel()


async def test_lock_expires_without_its_holder(
    jobs: Namespace[Any], server: Server, request: Any
) -> None:
    """The next holder gets it after the TTL, with a greater number. The end of the block raises LOCK_LOST."""

    async def lose(other: Namespace[Any]) -> None:
        async with jobs.lock("a", 0.05) as lock:
            await never_renewed(lock)
            async with other.lock("a", wait=60) as next_lock:
                assert next_lock.fencing_number > lock.fencing_number
                assert not lock.is_held()
                with pytest.raises(CacheLockError):
                    lock.raise_if_lost()

    # `node` has a type since pytest 9.2 only.
    max_size = 5 if "bounded" in request.node.name else 0
    async with opened(server.url, max_size=max_size) as cache:
        with pytest.raises(CacheLockError) as caught:
            await lose(cache.namespace("job"))
        assert caught.value.code == "LOCK_LOST"


async def test_lock_is_renewed_while_it_is_held(jobs: Namespace[Any], raw: Client) -> None:
    """A block may take longer than the TTL; no other caller gets the lock meanwhile."""

    async def outlive(ttl: float) -> None:
        async with jobs.lock("a", ttl) as lock:
            first = raw.get(LOCK)
            number = lock.fencing_number
            with pytest.raises(CacheLockError):
                async with jobs.lock("a", wait=2.3 * ttl):
                    raise AssertionError("entered")
            assert lock.is_held()
            assert lock.fencing_number == number
            assert raw.get(LOCK) != first

    await outlasting_stalls(outlive, 0.3, 6.0)


async def test_removed_lock_is_lost(jobs: Namespace[Any], raw: Client) -> None:
    """The renewal finds out: `is_held` is false, and the end of the block raises LOCK_LOST."""

    async def lose() -> None:
        async with jobs.lock("a", 0.05) as lock:
            raw.delete(LOCK)
            await await_until(lambda: not lock.is_held())

    with pytest.raises(CacheLockError) as caught:
        await lose()
    assert caught.value.code == "LOCK_LOST"


async def test_exception_of_the_block_is_raised(jobs: Namespace[Any], raw: Client) -> None:
    """Also if the lock was lost; it is released."""

    async def fail(*, is_lost: bool) -> None:
        async with jobs.lock("a", wait=0):
            if is_lost:
                raw.delete(LOCK)
            raise LookupError

    for is_lost in (False, True, False):
        with pytest.raises(LookupError):
            await fail(is_lost=is_lost)


async def test_cancelled_callers_leave_no_lock(jobs: Namespace[Any]) -> None:
    """Cancelled while they request it, wait for it, work or release it: the next caller gets it at once."""

    async def work() -> None:
        async with jobs.lock("a", ttl=3000, wait=60):
            await asyncio.sleep(0.001)

    for round_ in range(60):
        tasks = [asyncio.create_task(work()) for _ in range(3)]
        for _ in range(round_ % 20):
            await asyncio.sleep(0)
        if round_ >= 40:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(60):
        async with jobs.lock("a", wait=60):
            pass


async def test_callers_of_a_process_get_the_lock_in_their_order(
    jobs: Namespace[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each release ends the wait of the next caller; one that is cancelled meanwhile passes it on."""
    monkeypatch.setattr("async_redis_cache._api.locks._LOCAL_PAUSE", 3000)
    entered: list[int] = []
    holding = jobs.lock("a")
    await holding.__aenter__()

    async def work(number: int) -> None:
        async with jobs.lock("a", wait=3000):
            entered.append(number)

    tasks: list[asyncio.Task[None]] = []
    for number in range(10):
        tasks.append(asyncio.create_task(work(number)))
        await waiting_for(jobs, number + 1)
    tasks[3].cancel()
    await holding.__aexit__(None, None, None)
    tasks[0].cancel()
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert [number for number in entered if number] == [1, 2, 4, 5, 6, 7, 8, 9]


async def test_late_acquisition_of_a_cancelled_caller_is_refused(
    jobs: Namespace[Any], server: Server
) -> None:
    """If its release arrives first, nothing holds the lock afterwards."""
    async with opened(server.url) as cache:
        lock = cache.namespace("job").lock("a")
        async with lock:
            pass
        hold = lock._hold
        assert hold is not None
        locks = cache._lifecycle.ready().engine.locks
        assert await locks.acquire(hold) > 0
    async with jobs.lock("a", wait=0):
        pass


async def test_unreachable_server(server: Server, proxy: StartProxy) -> None:
    """A lock that cannot be requested raises; one whose renewals fail is not held once its TTL has passed."""
    network = proxy(server)

    async def lose(jobs: Namespace[Any]) -> None:
        async with jobs.lock("a", 0.2) as lock:
            network.close()
            await await_until(lambda: not lock.is_held())

    async with opened(network.url) as cache:
        jobs = cache.namespace("job")
        with pytest.raises(CacheLockError) as caught:
            await lose(jobs)
        assert caught.value.code == "LOCK_LOST"
        with pytest.raises(CacheError):
            async with jobs.lock("b", wait=0):
                raise AssertionError("entered")


async def test_lost_replies_do_no_harm(server: Server, proxy: StartProxy, raw: Client) -> None:
    """A request whose reply is lost is sent again, and has the same answer."""
    network = proxy(server)
    for options in ({}, {"max_size": 5}):
        async with opened(network.url, retries=3, **options) as cache:
            jobs = cache.namespace("job")
            async with jobs.lock("a"):
                pass
            network.swallow_replies(command="EVALSHA")
            lock = await jobs.lock("a", wait=0).__aenter__()
            assert lock.is_held()
            network.swallow_replies(command="EVALSHA")
            await lock.__aexit__(None, None, None)
            assert cache.stats().retries >= 2
            async with jobs.lock("a", wait=0):
                pass
        raw.delete(LOCK, INDEX)


async def test_held_locks_count_and_are_evicted_by_no_value(server: Server, raw: Client) -> None:
    """In a full cache a lock evicts values. With as many locks as the bound, one more has to wait."""
    async with opened(server.url, max_size=5) as cache, AsyncExitStack() as stack:
        jobs = cache.namespace("job")
        for number in range(6):
            await jobs.set(str(number), number, FOREVER)
        locks = [await stack.enter_async_context(jobs.lock(f"{number}", 60)) for number in range(3)]
        assert raw.zcard(INDEX) == 5
        for number in range(10, 20):
            await jobs.set(str(number), number, FOREVER)
        assert raw.zcard(INDEX) == 5
        assert len(raw.keys(f"{PREFIX}job:*")) == 2
        assert cache.stats().evictions == 14
        for number in range(3, 5):
            await stack.enter_async_context(jobs.lock(f"{number}", 60))
        with pytest.raises(CacheLockError):
            async with jobs.lock("5", wait=0):
                raise AssertionError("entered")
        await jobs.set("no room", 1)
        assert raw.keys(f"{PREFIX}job:*") == []
        await stack.aclose()
        assert all(lock.fencing_number for lock in locks)
        assert raw.zcard(INDEX) == 0


async def test_expired_lock_leaves_the_index(server: Server, raw: Client) -> None:
    """With the next lock, so that a holder that died takes no room for long."""
    async with opened(server.url, max_size=5) as cache:
        jobs = cache.namespace("job")

        async def lose() -> None:
            async with jobs.lock("a", 0.01) as lock:
                await never_renewed(lock)
                await await_until(lambda: int((raw.get(LOCK) or b"").split()[1]) < now_on(raw))
                async with jobs.lock("b"):
                    assert raw.zrange(INDEX, 0, -1) == [f"{PREFIX}\x00lock:job:b".encode()]
                async with jobs.lock("a"):
                    pass

        with pytest.raises(CacheLockError):
            await lose()


async def test_lock_and_value_of_a_key_are_independent(jobs: Namespace[Any]) -> None:
    """So are the locks of two namespaces. `clear` of the namespace leaves locks."""
    await jobs.set("a", "value")
    async with jobs.lock("a") as lock, jobs._cache.namespace("other").lock("a", wait=0):
        assert await jobs.get("a") == "value"
        assert await jobs.clear() == 1
        assert [key async for key in jobs.scan()] == []
        lock.raise_if_lost()


async def test_number_grows_when_the_clock_was_set_back(jobs: Namespace[Any], raw: Client) -> None:
    """It is one more than the last, as long as that is known."""
    future = 4_000_000_000_000_000
    raw.set(LOCK, f"{future} 0 00", px=60_000)
    for number in (1, 2):
        async with jobs.lock("a") as lock:
            assert lock.fencing_number == future + number
        # Until the clock has caught up, an hour at most.
        assert raw.pttl(LOCK) > 3_000_000


@pytest.mark.parametrize(
    "data", ["", "x", "1 2", "99999999999999999999 1 zz", "5 9999999999999 00"]
)
async def test_damaged_lock_is_free(jobs: Namespace[Any], raw: Client, data: str) -> None:
    """So is one that would be held for more than an hour, as after the clock was set back."""
    raw.set(LOCK, data)
    async with jobs.lock("a", wait=0) as lock:
        assert lock.fencing_number > 5


@pytest.mark.parametrize("ttl", [0, -1, True, "10", FOREVER, 3601, float("nan"), None])
async def test_invalid_ttl_is_refused(ttl: Any) -> None:
    """A lock has a TTL of at most an hour."""
    with pytest.raises(CacheInputError) as caught:
        AsyncRedisCache().namespace("job").lock("a", ttl)
    assert caught.value.code == "BAD_TIMEOUT"


@pytest.mark.parametrize("wait", [-1, True, "10", FOREVER, float("inf"), None])
async def test_invalid_wait_is_refused(wait: Any) -> None:
    """A caller waits for a limited time."""
    with pytest.raises(CacheInputError) as caught:
        AsyncRedisCache().namespace("job").lock("a", wait=wait)
    assert caught.value.code == "BAD_TIMEOUT"


async def test_key_is_checked(jobs: Namespace[Any]) -> None:
    """As for values, when the lock is entered."""
    with pytest.raises(CacheInputError) as caught:
        async with jobs.lock("\n"):
            raise AssertionError("entered")
    assert caught.value.code == "BAD_KEY"
    with pytest.raises(CacheLockError) as unlocked:
        jobs.lock("a").fencing_number  # noqa: B018  it raises
    assert unlocked.value.code == "NOT_LOCKED"


async def test_lock_is_not_reentrant_and_can_be_entered_again(jobs: Namespace[Any]) -> None:
    """Entering it twice is a defect of the program; after the block it is another lock of the key."""
    lock = jobs.lock("a")
    async with lock:
        first = lock.fencing_number
        with pytest.raises(RuntimeError, match="reentrant"):
            await lock.__aenter__()
    async with lock:
        assert lock.fencing_number > first


async def test_closed_cache_holds_no_lock(server: Server) -> None:
    """A lock of a cache that is closed is lost, and expires; a closed cache gives none."""

    async def close(cache: AsyncRedisCache) -> None:
        async with cache.namespace("job").lock("a", 0.2) as lock:
            await cache.close(None)
            assert not lock.is_held()

    for options in ({}, {"any_loop": True}):
        async with opened(server.url, **options) as cache:
            jobs = cache.namespace("job")
            with pytest.raises(CacheLockError) as lost:
                await close(cache)
            assert lost.value.code == "LOCK_LOST"
        with pytest.raises(CacheStateError) as caught:
            async with jobs.lock("a"):
                raise AssertionError("entered")
        assert caught.value.code == "NOT_OPENED"


async def test_abandoned_lock_is_released(jobs: Namespace[Any]) -> None:
    """A holder that is gone without leaving its block, such as a generator, is not renewed for ever."""
    lock = jobs.lock("a", 0.1)
    await lock.__aenter__()
    del lock
    gc.collect()
    async with jobs.lock("a", wait=60):
        pass


def test_synchronous_lock(server: Server) -> None:
    """`with` in threads: one holder at a time, and the same errors."""
    with RedisCache.from_url(server.url, key_prefix=PREFIX) as cache:
        jobs = cache.namespace("job")
        inside = 0
        numbers: list[int] = []

        def work() -> None:
            nonlocal inside
            for _ in range(5):
                with jobs.lock("a", wait=60) as lock:
                    inside += 1
                    assert inside == 1
                    numbers.append(lock.fencing_number)
                    inside -= 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 20
        with jobs.lock("a"), pytest.raises(CacheLockError) as caught, jobs.lock("a", wait=0.01):
            raise AssertionError("entered")
        assert caught.value.code == "LOCK_TIMEOUT"

        def close() -> None:
            with jobs.lock("a", 0.3) as lock:
                cache.close(None)
                assert not lock.is_held()

        with pytest.raises(CacheLockError) as lost:
            close()
        assert lost.value.code == "LOCK_LOST"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_does_not_release_the_lock(server: Server, raw: Client) -> None:
    """The process that acquired it does."""
    with RedisCache.from_url(server.url, key_prefix=PREFIX) as cache:
        lock = cache.namespace("job").lock("a", 60)
        with lock:
            held = raw.get(LOCK)
            lock._hold._pid = -1  # type: ignore[union-attr]
            lock.__exit__(None, None, None)
            assert raw.get(LOCK) == held
            lock._hold._pid = os.getpid()  # type: ignore[union-attr]
        assert raw.get(LOCK) != held
