"""User code runs in the context of its caller, and no context is kept alive."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from typing import Any

import flask
import msgspec
import pytest

from async_redis_cache import AsyncRedisCache, CoalescingLoader, RedisCache, cached
from harness import Server
from harness.waiting import await_until, wait_until

pytest_plugins = ["program_fixtures"]

USER: ContextVar[Any] = ContextVar("USER", default="nobody")
THREADS = 8
ROUNDS = 40


async def user_of_coroutine() -> Any:
    """What a coroutine function sees, before and after it has waited."""
    before = USER.get()
    await asyncio.sleep(0)
    after = USER.get()
    return before if before == after else [before, after]


def hidden() -> Coroutine[Any, Any, Any]:
    """A plain function that hides a coroutine function."""
    return user_of_coroutine()


def loaders() -> dict[str, Callable[[], Any]]:
    """Every kind of loader, each of which gives the user that it sees."""
    return {
        "plain": USER.get,
        "coroutine": user_of_coroutine,
        "hidden": hidden,
    }


def of_many(keys: list[str]) -> dict[str, Any]:
    return dict.fromkeys(keys, USER.get())


def one_of_many(keys: list[str]) -> dict[str, int]:
    return dict.fromkeys(keys, 1)


class Seeing:
    """A serializer of JSON that notes which user it sees."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def dumps(self, value: Any) -> bytes:
        self.seen.append(USER.get())
        return msgspec.json.encode(value)

    def loads(self, data: bytes) -> Any:
        self.seen.append(USER.get())
        return msgspec.json.decode(data)


def each_as_a_user(work: Callable[[str], object]) -> list[object]:
    """What many threads at once got of this work, each for users of its own."""
    ready = threading.Barrier(THREADS)

    def all_of(thread: int) -> list[object]:
        ready.wait(10)
        wrong: list[object] = []
        for number in range(ROUNDS):
            user = f"user-{thread}-{number}"
            USER.set(user)
            got = work(user)
            if got != user:
                wrong.append((user, got))
        return wrong

    with ThreadPoolExecutor(THREADS) as threads:
        return [one for wrong in threads.map(all_of, range(THREADS)) for one in wrong]


@pytest.mark.parametrize("kind", loaders())
@pytest.mark.usefixtures("private_loop")
def test_loader_sees_the_context_of_its_own_thread(
    kind: str, any_server: Server, key_prefix: str
) -> None:
    """Threads that load at once each get what their own context says, from every kind of loader."""
    loader = loaders()[kind]
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        assert each_as_a_user(lambda user: cache.retrieve_or_load(None, user, loader)) == []


@pytest.mark.usefixtures("private_loop")
def test_flask_request_is_the_callers(any_server: Server, key_prefix: str) -> None:
    """A cached function that reads `flask.request` sees the request that it is called for."""
    app = flask.Flask(__name__)
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:

        @cached(cache, key="user:{name}")
        def profile(name: str) -> str:
            return flask.request.args["name"]

        @app.get("/")
        def show() -> str:
            return profile(flask.request.args["name"])

        def ask(user: str) -> str:
            return app.test_client().get("/", query_string={"name": user}).text

        assert each_as_a_user(ask) == []
        assert each_as_a_user(ask) == []


def test_loader_sees_a_copied_context(any_server: Server, key_prefix: str) -> None:
    """A call made in `copy_context().run` loads in that context."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        USER.set("outer")
        context = copy_context()
        context.run(USER.set, "inner")
        assert context.run(cache.retrieve_or_load, None, "key", USER.get) == "inner"


async def test_loader_sees_the_context_that_to_thread_carries(
    any_server: Server, key_prefix: str
) -> None:
    """Calls in `asyncio.to_thread` load in the contexts of the tasks that make them."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:

        async def load(user: str) -> Any:
            USER.set(user)
            return await asyncio.to_thread(cache.retrieve_or_load, None, user, USER.get)

        users = [f"user-{number}" for number in range(50)]
        assert await asyncio.gather(*map(load, users)) == users


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("kind", loaders())
async def test_loader_sees_the_context_of_its_own_task(
    kind: str, in_thread: bool, any_server: Server, key_prefix: str
) -> None:
    """Tasks that load at once each get what their own context says, from every kind of loader."""
    loader = loaders()[kind]
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:

        async def load(user: str) -> Any:
            USER.set(user)
            return await cache.retrieve_or_load(None, user, loader, in_thread=in_thread)

        users = [f"user-{number}" for number in range(50)]
        assert await asyncio.gather(*map(load, users)) == users


@pytest.mark.usefixtures("private_loop")
def test_serializer_sees_the_context_of_its_caller(any_server: Server, key_prefix: str) -> None:
    """Whatever method serializes or deserializes does so in its caller's context, in each thread."""
    serializer = Seeing()
    url = any_server.url
    with RedisCache.from_url(url, serializer=serializer, key_prefix=key_prefix) as cache:

        def use(user: str) -> str:
            cache.store(None, user, 1)
            cache.store(None, user, 1, tags=["tag"])
            cache.store_many(None, {user: 1})
            cache.retrieve(None, user)
            cache.retrieve_many(None, [user])
            cache.retrieve_entry(None, user)
            cache.contains(None, user)
            cache.touch(None, user)
            cache.time_to_live(None, user)
            cache.retrieve_or_load(None, f"{user}-1", lambda: 1)
            cache.retrieve_or_load(None, f"{user}-1", lambda: 1)
            cache.retrieve_or_load_entry(None, f"{user}-2", lambda: 1, tags=["tag"])
            cache.retrieve_or_load_many(None, [f"{user}-2", f"{user}-3"], one_of_many)
            cache.refresh(None, user, lambda: 1)
            cache.remove(None, user)
            return user

        before = threading.Thread(target=use, args=("begin",))
        before.start()
        before.join()
        each_turn = len(serializer.seen)
        assert set(serializer.seen) == {"nobody"}
        serializer.seen.clear()
        assert each_as_a_user(use) == []
    counts = {user: serializer.seen.count(user) for user in set(serializer.seen)}
    assert len(counts) == THREADS * ROUNDS
    assert set(counts.values()) == {each_turn}


def test_refresh_in_the_background_has_the_context_of_its_cause(
    any_server: Server, key_prefix: str
) -> None:
    """A value that is refreshed in the background is loaded in the context of the call that asked."""
    with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        seen: list[Any] = []

        def load() -> Any:
            seen.append(USER.get())
            return USER.get()

        def ask(user: str) -> Any:
            USER.set(user)
            return cache.retrieve_or_load(None, "key", load, 50, stale_timeout=60_000)

        assert Context().run(ask, "first") == "first"
        wait_until(lambda: Context().run(ask, "second") and len(seen) > 1)
        assert seen[:2] == ["first", "second"]


async def test_loader_of_many_sees_the_context_of_its_call(
    any_server: Server, key_prefix: str
) -> None:
    """A loader of many keys runs in its call's context, though other loads end last."""
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        gate = asyncio.Event()

        async def slow() -> str:
            await gate.wait()
            return "slow"

        async def one() -> Any:
            USER.set("one")
            return await cache.retrieve_or_load(None, "shared", slow)

        async def many() -> Any:
            USER.set("many")
            return await cache.retrieve_or_load_many(None, ["own", "shared"], of_many)

        async with asyncio.TaskGroup() as group:
            first = group.create_task(one())
            await await_until(lambda: cache.stats().loads == 1)
            second = group.create_task(many())
            await await_until(lambda: cache.stats().misses == 3)
            gate.set()
        assert (first.result(), second.result()) == ("slow", {"own": "many", "shared": "slow"})


async def test_coalescing_loader_has_no_callers_context(
    any_server: Server, key_prefix: str
) -> None:
    """A coalescing loader loads for many callers, in the context in which it was made."""
    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        USER.set("maker")
        loader = CoalescingLoader(of_many)

        async def load(user: str) -> Any:
            USER.set(user)
            return await cache.retrieve_or_load(None, user, loader)

        assert set(await asyncio.gather(*map(load, "abc"))) == {"maker"}


class Request:
    """What an application keeps in its context while it answers."""


def run_with(loop: str, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run this on a loop of this kind."""
    factory: Any = asyncio.new_event_loop
    if loop == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def collected(request: weakref.ref[Request]) -> bool:
    gc.collect()
    return request() is None


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "near": {"near_cache_enabled": True},
    "bounded": {"max_size": 100},
}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("way", OPTIONS)
def test_connections_and_timers_keep_no_request_alive(
    loop: str, way: str, any_server: Server, key_prefix: str
) -> None:
    """The objects of a task that opened or used the cache are freed when the task ends."""

    async def use(cache: AsyncRedisCache, requests: list[weakref.ref[Request]]) -> None:
        request = Request()
        USER.set(request)
        requests.append(weakref.ref(request))
        await cache.open(None)
        await asyncio.gather(*(cache.store(None, f"key-{number}", 1) for number in range(50)))
        await cache.store(None, "key", 1, tags=["tag"])
        await cache.retrieve(None, "key")
        await cache.retrieve_or_load(None, "loaded", lambda: 1, 1, stale_timeout=60_000)
        await cache.retrieve_or_load(None, "loaded", lambda: 1, stale_timeout=60_000)
        await cache.retrieve_or_load_many(None, ["a", "b"], one_of_many, tags=["tag"])
        await cache.retrieve_or_load(None, "threaded", lambda: 1, in_thread=True)

    async def main() -> None:
        # asyncio keeps a cancelled timer, and its context, until its time.
        cache = AsyncRedisCache.from_url(
            any_server.url, key_prefix=key_prefix, command_timeout=3_000, **OPTIONS[way]
        )
        requests: list[weakref.ref[Request]] = []
        await asyncio.create_task(use(cache, requests))
        await asyncio.create_task(use(cache, requests))
        await cache.ping(None)
        await await_until(lambda: all(map(collected, requests)))
        await cache.close(None)

    run_with(loop, main)


@pytest.mark.usefixtures("private_loop")
def test_private_loop_keeps_no_request_alive(any_server: Server, key_prefix: str) -> None:
    """The objects of a thread that opened or used a `RedisCache` are freed afterwards."""
    cache = RedisCache.from_url(any_server.url, key_prefix=key_prefix, near_cache_enabled=True)

    def use() -> weakref.ref[Request]:
        request = Request()
        USER.set(request)
        cache.open(None)
        cache.store(None, "key", 1)
        cache.retrieve(None, "key")
        cache.retrieve_or_load(None, "loaded", lambda: 1)
        cache.retrieve_or_load_many(None, ["a", "b"], one_of_many, tags=["tag"])
        return weakref.ref(request)

    requests = [Context().run(use), Context().run(use)]
    wait_until(lambda: all(map(collected, requests)))
    cache.close(None)
