"""The synchronous API among threads and event loops: calls succeed or are refused."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from async_redis_cache import CacheError, CacheStateError, RedisCache
from harness import Server, StartServer
from harness.contention import Contention
from harness.figures import in_time, report
from harness.operations import OPERATIONS, STEPS
from harness.run_length import scaled
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = [
    pytest.mark.depends_on("loop"),
    pytest.mark.usefixtures("private_loop"),
    pytest.mark.no_leaks,
]

THREADS = 32
PATIENCE_SECONDS = 60.0


@contextmanager
def often_switching() -> Generator[None]:
    """Threads that give way to each other after far fewer steps than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(20e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Calling:
    """A serializer of JSON that calls a cache first, on the thread on which it is called."""

    def __init__(self) -> None:
        self.call: Callable[[], object] = lambda: None
        self.threads: set[str] = set()
        self.refusals: list[CacheError] = []

    def dumps(self, value: Any) -> bytes:
        self._call()
        return msgspec.json.encode(value)

    def loads(self, data: bytes) -> Any:
        self._call()
        return msgspec.json.decode(data)

    def _call(self) -> None:
        self.threads.add(threading.current_thread().name)
        try:
            self.call()
        except CacheError as error:
            self.refusals.append(error)


def test_each_of_32_threads_reads_what_it_wrote(server: Server, key_prefix: str) -> None:
    """24. 32 threads with one cache: 0 wrong values, for their own keys and for shared keys."""
    shared = {f"shared-{number}": number for number in range(50)}
    rounds = scaled(50, 250)
    wrong: list[object] = []
    url = server.url
    with RedisCache.from_url(
        url, key_prefix=key_prefix, max_size=0, command_timeout=10_000
    ) as cache:
        cache.store_many(None, shared)

        def work(thread: int) -> None:
            for number in range(rounds):
                own, mine = f"{thread}-{number % 7}", [thread, number]
                seen = (
                    cache.store(None, own, mine),
                    cache.retrieve(None, own),
                    cache.retrieve(None, f"shared-{number % 50}"),
                    cache.remove(None, own) if number % 7 == 6 else mine,
                )
                if seen != (mine, mine, number % 50, mine):
                    wrong.append(seen)

        started = time.monotonic()
        with ThreadPoolExecutor(THREADS) as threads, often_switching():
            list(threads.map(work, range(THREADS)))
        seconds = time.monotonic() - started
        stats = cache.stats()
    calls = THREADS * rounds * 3
    report(
        24, f"{calls} calls of {THREADS} threads in {seconds:.1f} s, {len(wrong)} wrong", seconds
    )
    assert wrong == []
    assert (stats.errors, stats.misses) == (0, 0)
    assert stats.batched_calls > stats.round_trips


async def test_call_succeeds_on_a_thread_with_a_running_loop(
    server: Server, key_prefix: str
) -> None:
    """24. On a thread that runs an event loop, calls block that loop and return their results."""
    # The portal is another thread's loop, so the running one is not needed.
    with RedisCache.from_url(server.url, key_prefix=key_prefix) as cache:
        assert cache.store(None, "key", "value") == "value"
        assert cache.retrieve(None, "key") == "value"
        assert cache.retrieve_many(None, ["key", "none"]) == {"key": "value"}
        assert cache.remove(None, "key") == "value"
        assert await asyncio.to_thread(cache.retrieve, None, "key") is None


@pytest.mark.parametrize("operation", [*OPERATIONS, *STEPS])
@pytest.mark.depends_on
def test_call_on_the_private_loop_raises(operation: str, server: Server, key_prefix: str) -> None:
    """24. On the thread of its own loop, every method raises IN_EVENT_LOOP with the trace id."""
    with RedisCache.from_url(server.url, key_prefix=key_prefix) as cache:

        async def load() -> list[str | None]:
            try:
                (OPERATIONS | STEPS)[operation](cache)
            except CacheStateError as error:
                return [threading.current_thread().name, error.code, error.trace_id]
            return []

        seen = cache.retrieve_or_load(None, "loaded", load)
        assert seen == ["RedisCache", "IN_EVENT_LOOP", "trace"]
        assert cache.is_open()


@pytest.mark.parametrize("operation", [*OPERATIONS])
@pytest.mark.depends_on
def test_serializer_may_use_its_cache(operation: str, server: Server, key_prefix: str) -> None:
    """A serializer runs in the calling thread, and may make any call of the cache itself."""
    serializer = Calling()
    url = server.url
    with RedisCache.from_url(url, serializer=serializer, key_prefix=key_prefix) as cache:

        def once() -> None:
            serializer.call = lambda: None
            OPERATIONS[operation](cache)

        for call in (
            lambda: cache.store(None, "other", 1),
            lambda: cache.retrieve(None, "other"),
            lambda: cache.retrieve_or_load(None, "loaded", lambda: 1),
        ):
            serializer.call = once
            assert call() == 1
    assert serializer.threads == {threading.current_thread().name}
    assert serializer.refusals == []


def test_two_caches_that_use_each_other_do_not_deadlock(server: Server, key_prefix: str) -> None:
    """24. Caches whose serializers call each other raise IN_EVENT_LOOP inside, and return results outside."""
    first, second = Calling(), Calling()
    url = server.url
    asking = threading.local()

    def once(cache: RedisCache) -> None:
        if not getattr(asking, "asks", False):
            asking.asks = True
            try:
                assert cache.store(None, "key", 1) == 1
            finally:
                asking.asks = False

    with (
        RedisCache.from_url(url, serializer=first, key_prefix=f"{key_prefix}1:") as one,
        RedisCache.from_url(url, serializer=second, key_prefix=f"{key_prefix}2:") as other,
        ThreadPoolExecutor(8) as threads,
    ):
        first.call = lambda: once(other)
        second.call = lambda: once(one)
        calls = [threads.submit(cache.store, None, "key", 3) for cache in [one, other] * 20]
        assert [call.result(PATIENCE_SECONDS) for call in calls] == [3] * 40
        assert first.refusals + second.refusals == []


def test_calls_during_open_raise_at_once(private_server: StartServer) -> None:
    """A call made while another thread is opening does not wait for it: NOT_OPENED."""
    server = private_server()
    server.freeze()
    cache = RedisCache.from_url(server.url, connect_timeout=60_000)
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(cache.open, None)
        for _ in range(100):
            with pytest.raises(CacheStateError, match="not open"):
                cache.retrieve(None, "key")
        assert not opening.done()
        server.kill()
        with pytest.raises(CacheError):
            opening.result()
    assert not cache.is_open()


@pytest.mark.parametrize("away", [False, True], ids=["answering", "frozen"])
def test_close_ends_the_calls_of_20_threads(away: bool, private_server: StartServer) -> None:
    """26. Calls of every size that are interrupted by `close` end with a typed error; none keeps waiting."""
    limit = 1.5
    server = private_server()
    slowest = 0.0
    ends: set[object] = set()
    for attempt in range(scaled(8, 100)):
        cache = RedisCache.from_url(
            server.url, key_prefix="p:", max_size=0, command_timeout=int(limit * 1000)
        )
        cache.open(None)
        calls: list[Callable[[], object]] = [
            lambda cache=cache: cache.retrieve_many(None, map(str, range(1000))),  # type: ignore[misc]
            lambda cache=cache: cache.store_many(None, dict.fromkeys(map(str, range(600)), 1)),  # type: ignore[misc]
            lambda cache=cache: cache.clear(None),  # type: ignore[misc]
            lambda cache=cache: cache.store(None, "key", None),  # type: ignore[misc]
        ]
        contention = Contention(os.getpid(), server.pid)
        if away:
            server.freeze()
        begun: list[int] = []

        def call_until_closed(number: int, calls: Any = calls, begun: Any = begun) -> float:
            while True:
                begun.append(number)
                started = time.monotonic()
                try:
                    calls[number % len(calls)]()
                except CacheError as error:
                    ends.add(error.code)
                    if error.code != "OUTCOME_UNKNOWN":
                        return time.monotonic() - started

        with ThreadPoolExecutor(20) as threads:
            callers = [threads.submit(call_until_closed, number) for number in range(20)]
            # From before the first exchange to amid many; of a frozen server nobody gets further.
            enough = min(20, attempt) if away else 20 * attempt
            wait_until(lambda begun=begun, enough=enough: len(begun) >= enough)  # type: ignore[misc]
            started = time.monotonic()
            cache.close(None)
            closing = time.monotonic() - started
            latest = max(caller.result(PATIENCE_SECONDS) for caller in callers)
            slowest = max(slowest, latest - contention.seconds())
            assert in_time(closing - contention.seconds(), limit)
        if away:
            server.thaw()
    report(26, f"20 threads, slowest last call {slowest * 1e3:.0f} ms of {limit * 1e3:.0f}; {ends}")
    assert in_time(slowest, limit + 0.05)
    # A machine that stalls for as long as the deadline may end some before the close does.
    assert "NOT_OPENED" in ends
    assert ends <= {"NOT_OPENED", "OUTCOME_UNKNOWN", "TIMEOUT"}
