"""What `RedisCache` does in the calling thread, and how long that may block."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, NoReturn

import msgspec
import pytest

from async_redis_cache import (
    CacheError,
    CacheInputError,
    CacheLoadError,
    CacheOutcomeUnknown,
    CacheTimeout,
    RedisCache,
)
from async_redis_cache._common.clock import MonotonicClock
from code_blocks import ROOT
from harness import Server
from harness.blocked_loop import block_after_next_store
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = [pytest.mark.depends_on(), pytest.mark.usefixtures("private_loop")]

PATIENCE_SECONDS = 20.0
WHO: ContextVar[str] = ContextVar("WHO", default="")


def here() -> str:
    return threading.current_thread().name


class Noting:
    """A serializer of JSON that notes where it runs, and does there what it is told to."""

    def __init__(self, also: Callable[[Any], object] = lambda _: None) -> None:
        self.seen: set[tuple[str, bool]] = set()
        self._also = also

    def dumps(self, value: Any) -> bytes:
        self._note(value)
        return msgspec.json.encode(value)

    def loads(self, data: bytes) -> Any:
        value = msgspec.json.decode(data)
        self._note(value)
        return value

    def _note(self, value: Any) -> None:
        # What asks `asyncio` for the running loop, as Django does before it queries.
        self.seen.add((here(), asyncio._get_running_loop() is not None))
        self._also(value)


CALLS: dict[str, Callable[[RedisCache], object]] = {
    "store": lambda cache: cache.store(None, "key", 1),
    "store_tagged": lambda cache: cache.store(None, "key", 1, tags=["tag"]),
    "store_many": lambda cache: cache.store_many(None, {"key": 1, "other": 2}, tags=["tag"]),
    "retrieve": lambda cache: cache.retrieve(None, "key"),
    "retrieve_many": lambda cache: cache.retrieve_many(None, ["key", "tagged"]),
    "retrieve_entry": lambda cache: cache.retrieve_entry(None, "tagged"),
    "contains": lambda cache: cache.contains(None, "key"),
    "touch": lambda cache: cache.touch(None, "tagged"),
    "time_to_live": lambda cache: cache.time_to_live(None, "key"),
    "remove": lambda cache: cache.remove(None, "key"),
    "load_hit": lambda cache: cache.retrieve_or_load(None, "key", lambda: 1),
    "load": lambda cache: cache.retrieve_or_load(None, "new", lambda: 1),
    "load_coroutine": lambda cache: cache.retrieve_or_load(None, "new", one),
    "load_entry": lambda cache: cache.retrieve_or_load_entry(None, "new", lambda: 1, tags=["tag"]),
    "load_many": lambda cache: cache.retrieve_or_load_many(None, ["key", "new"], each_one),
    "refresh": lambda cache: cache.refresh(None, "key", lambda: 1),
}


async def one() -> int:
    return 1


def each_one(keys: list[str]) -> dict[str, int]:
    return dict.fromkeys(keys, 1)


@pytest.mark.parametrize("name", CALLS)
def test_serializer_runs_in_the_calling_thread(
    name: str, any_server: Server, key_prefix: str
) -> None:
    """Every method serializes and deserializes in the thread that calls it, under no running loop."""
    serializer = Noting()
    url = any_server.url
    with RedisCache.from_url(url, serializer=serializer, key_prefix=key_prefix) as cache:
        cache.store(None, "key", 1)
        cache.store(None, "tagged", 1, tags=["tag"])
        serializer.seen.clear()
        CALLS[name](cache)
    assert serializer.seen == {(here(), False)}


def test_value_of_another_process_is_read_in_the_calling_thread(
    any_server: Server, key_prefix: str
) -> None:
    """A load that another process does first ends in a value that the calling thread deserializes."""
    serializer = Noting()
    url = any_server.url
    gate = threading.Event()
    with (
        RedisCache.from_url(url, serializer=serializer, key_prefix=key_prefix) as cache,
        RedisCache.from_url(url, key_prefix=key_prefix) as other,
        ThreadPoolExecutor(1) as threads,
    ):
        loading = threads.submit(
            other.retrieve_or_load, None, "key", lambda: gate.wait(PATIENCE_SECONDS)
        )
        wait_until(lambda: other.stats().loads)
        threading.Timer(0.05, gate.set).start()
        assert cache.retrieve_or_load(None, "key", lambda: "mine") is True
        assert loading.result(PATIENCE_SECONDS) is True
    assert serializer.seen == {(here(), False)}


def test_serializer_that_blocks_holds_up_no_other_thread(
    any_server: Server, key_prefix: str
) -> None:
    """While a serializer blocks in one thread, the calls of others are answered."""
    others_done = threading.Event()
    entered = threading.Event()

    def block(value: Any) -> None:
        if value == "slow":
            entered.set()
            assert others_done.wait(PATIENCE_SECONDS)

    url = any_server.url
    with (
        RedisCache.from_url(url, serializer=Noting(block), key_prefix=key_prefix) as cache,
        ThreadPoolExecutor(2) as threads,
    ):
        storing = threads.submit(cache.store, None, "key", "slow")
        assert entered.wait(PATIENCE_SECONDS)
        assert cache.store(None, "other", 1) == cache.retrieve(None, "other") == 1
        entered.clear()
        loading = threads.submit(cache.retrieve_or_load, None, "loaded", lambda: "slow")
        assert entered.wait(PATIENCE_SECONDS)
        assert cache.retrieve_or_load(None, "another", lambda: 1) == 1
        others_done.set()
        assert storing.result(PATIENCE_SECONDS) == loading.result(PATIENCE_SECONDS) == "slow"


def test_serializer_may_take_longer_than_the_deadline(
    any_server: Server, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is for the way to the server and back: time spent in the calling thread is not counted."""
    clock, passed = MonotonicClock.time, [0.0]

    def pass_time(_: object) -> None:
        passed[0] += 3.0

    url = any_server.url
    with RedisCache.from_url(
        url, serializer=Noting(pass_time), key_prefix=key_prefix, command_timeout=2000
    ) as cache:
        monkeypatch.setattr(MonotonicClock, "time", lambda: clock() + passed[0])
        assert cache.store(None, "key", 1) == cache.retrieve(None, "key") == 1
        cache.store_many(None, {"key": 2, "other": 2})
        assert cache.contains(None, "other")
        assert cache.remove(None, "key") == 2
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["retrieve_or_load", "retrieve_or_load_entry", "refresh"])
def test_loader_runs_in_the_calling_thread(name: str, any_server: Server, key_prefix: str) -> None:
    """`in_thread="caller"` calls a plain loader where its thread-locals are."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        seen: list[str] = []

        def load() -> int:
            seen.append(here())
            return 1

        getattr(cache, name)(None, "key", load, in_thread="caller")
        assert seen == [here()]


def test_loader_of_many_runs_in_the_calling_thread(any_server: Server, key_prefix: str) -> None:
    """`in_thread="caller"` calls a plain loader of many keys in its caller's thread, once."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:

        def load(keys: list[str]) -> dict[str, str]:
            return {key: f"{here()} of {len(keys)}" for key in keys}

        loaded = cache.retrieve_or_load_many(None, ["a", "b"], load, in_thread="caller")
        assert loaded == dict.fromkeys("ab", f"{here()} of 2")


def test_coroutine_of_a_callers_loader_is_awaited(any_server: Server, key_prefix: str) -> None:
    """With `in_thread="caller"` what can be awaited still is, on the private loop."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:

        async def load() -> str:
            return here()

        for number, loader in enumerate((load, lambda: load())):  # noqa: PLW0108  it hides one
            assert (
                cache.retrieve_or_load(None, f"key-{number}", loader, in_thread="caller")
                == "RedisCache"
            )


def test_shared_load_runs_in_the_thread_that_leads_it(any_server: Server, key_prefix: str) -> None:
    """Threads that share a load get what the first of them loads, in its own thread."""
    gate = threading.Event()
    with (
        RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache,
        ThreadPoolExecutor(8) as threads,
    ):

        def load() -> str:
            assert gate.wait(PATIENCE_SECONDS)
            return here()

        def ask() -> tuple[str, Any]:
            return here(), cache.retrieve_or_load(None, "key", load, in_thread="caller")

        asking = [threads.submit(ask) for _ in range(8)]
        wait_until(lambda: cache.stats().misses == 8)
        gate.set()
        answers = [one.result(PATIENCE_SECONDS) for one in asking]
    assert len({loaded for _, loaded in answers}) == 1
    assert answers[0][1] in {name for name, _ in answers}


def test_loader_that_blocks_holds_its_own_caller_alone(any_server: Server, key_prefix: str) -> None:
    """33. A loader that runs beyond `hard_timeout` occupies the thread of its own caller only."""
    gate, entered = threading.Event(), threading.Event()

    def load() -> int:
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)
        return 1

    with (
        RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache,
        ThreadPoolExecutor(1) as threads,
    ):

        def ask() -> Any:
            return cache.retrieve_or_load(None, "key", load, in_thread="caller", hard_timeout=300)

        leading = threads.submit(ask)
        assert entered.wait(PATIENCE_SECONDS)
        with pytest.raises(CacheTimeout, match="hard_timeout"):
            ask()
        assert cache.store(None, "other", 1) == 1
        assert not leading.done()
        gate.set()
        assert isinstance(leading.exception(PATIENCE_SECONDS), CacheTimeout)


@pytest.mark.parametrize("in_thread", [True, "caller"])
def test_cancelled_error_of_a_load_is_load_cancelled(
    in_thread: Any, any_server: Server, key_prefix: str
) -> None:
    """A loader or serializer that raises CancelledError cancels no caller: nothing has cancelled it."""

    def cancel(_: object = None) -> Any:
        raise asyncio.CancelledError

    url = any_server.url
    with (
        RedisCache.from_url(url, key_prefix=key_prefix) as cache,
        RedisCache.from_url(url, key_prefix=key_prefix, serializer=Noting(cancel)) as other,
    ):
        for load in (
            lambda: cache.retrieve_or_load(None, "a", cancel, in_thread=in_thread),
            lambda: cache.retrieve_or_load_many(None, ["b", "c"], cancel, in_thread=in_thread),
            lambda: cache.refresh(None, "d", cancel, in_thread=in_thread),
            lambda: other.retrieve_or_load(None, "e", lambda: 1, in_thread=in_thread),
        ):
            with pytest.raises(CacheLoadError) as raised:
                load()
            assert raised.value.code == "LOAD_CANCELLED"


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
@pytest.mark.depends_on("loop")
def test_load_of_an_interrupted_caller_is_begun_again_by_another(
    end: type[BaseException], many: bool, any_server: Server, key_prefix: str
) -> None:
    """An interrupt in a loader is raised in its caller only; callers that share the load run a loader of their own."""
    gate, entered = threading.Event(), threading.Event()

    def interrupted(*_: object) -> NoReturn:
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)
        raise end

    with (
        RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache,
        ThreadPoolExecutor(3) as threads,
    ):

        def load() -> str:
            return here()

        def follow() -> bool:
            loaded: str = cache.retrieve_or_load(None, "key", load, in_thread="caller")
            return loaded == here()

        def lead() -> object:
            options: Any = {"in_thread": "caller", "hard_timeout": 600_000}
            if many:
                loader: Any = interrupted
                return cache.retrieve_or_load_many(None, ["key", "other"], loader, **options)
            return cache.retrieve_or_load(None, "key", interrupted, **options)

        leading = threads.submit(lead)
        assert entered.wait(PATIENCE_SECONDS)
        following = [threads.submit(follow) for _ in range(2)]
        wait_until(lambda: cache.stats().misses == 3 + many)
        gate.set()
        assert type(leading.exception(PATIENCE_SECONDS)) is end
        assert any(one.result(PATIENCE_SECONDS) for one in following)


def test_interrupt_after_a_loader_keeps_no_other_caller_waiting(
    any_server: Server, key_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt between the end of a loader and its notification ends the caller, not the load."""
    with (
        RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache,
        ThreadPoolExecutor(1) as threads,
    ):
        portal = cache._core.portal
        assert portal is not None
        post, interrupts = portal.post, [KeyboardInterrupt]

        def interrupted(*args: Any) -> None:
            if interrupts and here() == threading.main_thread().name:
                raise interrupts.pop()
            post(*args)

        monkeypatch.setattr(portal, "post", interrupted)

        def load(value: int) -> object:
            options: Any = {"in_thread": "caller", "hard_timeout": 600_000}
            return cache.retrieve_or_load(None, "key", lambda: value, **options)

        with pytest.raises(KeyboardInterrupt):
            load(1)
        after = threads.submit(load, 2)
        assert after.result(PATIENCE_SECONDS) == 2


def test_background_refresh_has_a_thread_of_its_own(any_server: Server, key_prefix: str) -> None:
    """Where no caller waits, a caller's loader runs in a worker thread with that caller's context."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        seen: list[tuple[str, bool]] = []

        def load() -> int:
            seen.append((WHO.get(), here() in {threading.main_thread().name, "RedisCache"}))
            return 1

        WHO.set("me")
        options: Any = {"in_thread": "caller", "stale_timeout": 60_000}
        cache.retrieve_or_load(None, "key", load, 50, **options)
        wait_until(lambda: cache.retrieve_or_load(None, "key", load, **options) and len(seen) > 1)
    assert seen[:2] == [("me", True), ("me", False)]


def test_wrong_thread_is_refused(any_server: Server, key_prefix: str) -> None:
    """`in_thread` is True, False or "caller"; anything else is BAD_LOAD_OPTION."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        wrong: Any = "callers"
        with pytest.raises(CacheInputError, match="in_thread"):
            cache.retrieve_or_load(None, "key", lambda: 1, in_thread=wrong)


def test_engine_of_threads_has_all_that_the_api_asks_for(
    any_server: Server, key_prefix: str
) -> None:
    """Whatever the methods of `AsyncRedisCache` ask of an engine, the one of calling threads has."""
    asked: set[str] = set()
    for module in (
        "async_cache",
        "async_entries",
        "async_loading",
        "batch_loading",
        "load_request",
        "load_results",
    ):
        text = (ROOT / "src" / "async_redis_cache" / "_api" / f"{module}.py").read_text()
        asked |= set(re.findall(r"\bengine\.((?:\w+\.)?\w+)\b", text))
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        engine = cache._cache._lifecycle.ready().engine
        # In a load it is another: what that asks for, it gets on the loop.
        in_loads = {"run_in_caller", "threads", "result_not_stored"}
        for path in asked - in_loads:
            seen: object = engine
            for name in path.split("."):
                assert hasattr(seen, name), path
                seen = getattr(seen, name)


def test_counts_of_many_threads_are_exact(any_server: Server, key_prefix: str) -> None:
    """What threads count side by side adds up."""
    rounds, before = 300, sys.getswitchinterval()
    with (
        RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache,
        ThreadPoolExecutor(16) as threads,
    ):
        cache.store(None, "key", 1)
        was = cache.stats().hits

        def work(_: int) -> None:
            for _ in range(rounds):
                cache.retrieve(None, "key")

        sys.setswitchinterval(5e-6)
        try:
            list(threads.map(work, range(16)))
        finally:
            sys.setswitchinterval(before)
        assert cache.stats().hits - was == 16 * rounds


BLOCKED: dict[str, Callable[[RedisCache], object]] = {
    "retrieve": lambda cache: cache.retrieve(None, "key"),
    "retrieve_many": lambda cache: cache.retrieve_many(None, ["key"]),
    "store": lambda cache: cache.store(None, "key", "new"),
    "store_many": lambda cache: cache.store_many(None, {"key": "new"}),
    "remove": lambda cache: cache.remove(None, "key"),
    "invalidate_tags": lambda cache: cache.invalidate_tags(None, "tag"),
    "load": lambda cache: cache.retrieve_or_load(None, "key", lambda: "new", hard_timeout=100),
    "ping": lambda cache: cache.ping(None),
}


def in_time(call: Callable[[], object]) -> object:
    """The result of a call, made again where the machine stalled until its deadline."""
    while True:
        with contextlib.suppress(CacheTimeout):
            return call()


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.depends_on("loop")
def test_call_ends_though_the_private_loop_is_blocked(
    name: str, any_server: Server, key_prefix: str
) -> None:
    """33. A coroutine loader blocks the private event loop: calls of other threads end by their deadline."""
    others_done = threading.Event()
    url = any_server.url
    with (
        RedisCache.from_url(url, key_prefix=key_prefix) as patient,
        RedisCache.from_url(url, key_prefix=key_prefix, command_timeout=200) as cache,
        ThreadPoolExecutor(1) as threads,
    ):
        patient.store(None, "key", "old", tags=["tag"])

        async def block() -> bool:
            return others_done.wait(PATIENCE_SECONDS)

        blocking = threads.submit(cache.retrieve_or_load, None, "blocking", block)
        wait_until(lambda: cache.stats().loads)
        with pytest.raises(CacheTimeout):
            BLOCKED[name](cache)
        assert not blocking.done()
        others_done.set()
        blocking.exception(PATIENCE_SECONDS)
        # Nothing was sent, and nothing is now; what was to be replaced or removed is not given again.
        value = in_time(lambda: cache.retrieve(None, "key"))
        is_change = name in {"store", "store_many", "remove", "invalidate_tags"}
        assert value == (None if is_change else "old")


def test_write_that_may_have_been_sent_is_unknown(any_server: Server, key_prefix: str) -> None:
    """A write that the loop has begun when it is blocked ends in OUTCOME_UNKNOWN."""
    others_done = threading.Event()
    url = any_server.url
    ends: list[CacheError] = []
    with (
        RedisCache.from_url(url, key_prefix=key_prefix, command_timeout=500) as cache,
        ThreadPoolExecutor(1) as threads,
    ):
        block_after_next_store(cache._core.lifecycle.engine(), others_done)

        def store() -> None:
            try:
                cache.store(None, "key", 1)
            except CacheError as error:
                ends.append(error)

        while len(ends) < 5 and CacheOutcomeUnknown not in map(type, ends):
            # Where the machine stalls until its deadline, it is not taken, nor sent.
            threads.submit(store).result(PATIENCE_SECONDS)
        others_done.set()
        assert {*map(type, ends[:-1])} <= {CacheTimeout}
        assert type(ends[-1]) is CacheOutcomeUnknown
