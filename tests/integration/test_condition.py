"""`condition=`: which results of loaders are stored."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheInputError, Load, RedisCache
from harness.apis import APIS, Api, configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Client, Server

pytestmark = pytest.mark.depends_on("api", "server")

PREFIX = "p:"
MINUTE = 60_000


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    """Both APIs have the same core."""
    chosen: Api = request.param
    return chosen


def is_even(number: int) -> bool:
    return number % 2 == 0


def is_odd(number: int) -> bool:
    return number % 2 == 1


class Numbers:
    """A loader of 1, 2, 3 and so on."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


async def test_refused_result_is_returned_and_not_stored(
    server: Server, api: Api, raw: Client
) -> None:
    """The next call loads again; a result that is kept is found by the third."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        load = Numbers()
        assert await cache.retrieve_or_load(None, "key", load, condition=is_even) == 1
        assert raw.keys(f"{PREFIX}*") == []
        entry = await cache.retrieve_or_load_entry(None, "key", load, condition=is_even)
        assert (entry.value, entry.status) == (2, "loaded")
        assert await cache.retrieve_or_load(None, "key", load, condition=is_even) == 2
        assert cache.stats().superseded_loads == 0


async def test_refresh_keeps_the_stored_value(server: Server, api: Api) -> None:
    """A refused result of `refresh` is returned, and readers get the value that is stored; but None removes it."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        await cache.store(None, "key", "stored")
        assert await cache.refresh(None, "key", lambda: 1, condition=is_even) == 1
        assert await cache.retrieve(None, "key") == "stored"
        assert await cache.refresh(None, "key", lambda: 2, condition=is_even) == 2
        assert await cache.retrieve(None, "key") == 2
        options: Any = {"missing_timeout": MINUTE, "condition": bool}
        assert await cache.refresh(None, "key", lambda: None, **options) is None
        assert await cache.retrieve(None, "key") is None


async def test_batch_asks_for_each_value(server: Server, api: Api) -> None:
    """Of the values of one load, some are stored and the others loaded again."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        loaded: list[list[str]] = []

        def load(keys: list[str]) -> dict[str, int]:
            loaded.append(sorted(keys))
            return {key: int(key) for key in keys}

        keys = ["1", "2", "3", "4"]
        for _ in range(2):
            found = await cache.retrieve_or_load_many(None, keys, load, condition=is_even)
            assert found == {"1": 1, "2": 2, "3": 3, "4": 4}
        assert loaded == [keys, ["1", "3"]]


async def test_background_refresh_asks_for_its_result(server: Server) -> None:
    """Until a result is kept, readers get the value that is stored."""
    async with configured(server.url, key_prefix=PREFIX) as cache:
        load = Numbers()
        load.count = 1

        async def read() -> int:
            number: int = await cache.retrieve_or_load(
                None, "key", load, MINUTE, condition=is_even, refresh_at=0.000001
            )
            return number

        assert await read() == 2
        seen: set[int] = set()
        async with asyncio.timeout(60):
            while 4 not in seen:
                seen.add(await read())
        assert seen == {2, 4}


async def test_condition_of_the_call_that_loads_decides(server: Server) -> None:
    """Callers that join a load get its result; their conditions are not asked."""
    async with configured(server.url, key_prefix=PREFIX) as cache:
        for kept, condition in ((True, is_even), (False, is_odd)):
            asked: list[int] = []
            loading, go = asyncio.Event(), asyncio.Event()

            async def load(loading: asyncio.Event = loading, go: asyncio.Event = go) -> int:
                loading.set()
                await go.wait()
                return 2

            def joined(result: int, asked: list[int] = asked) -> bool:
                asked.append(result)
                return True

            first = asyncio.create_task(
                cache.retrieve_or_load(None, "key", load, condition=condition)
            )
            await loading.wait()
            second = asyncio.create_task(
                cache.retrieve_or_load(None, "key", load, condition=joined)
            )
            # Its read and its joining take round trips; a later one is answered after them.
            await cache.ping(None)
            await cache.ping(None)
            go.set()
            assert (await first, await second) == (2, 2)
            assert asked == []
            assert await cache.remove(None, "key") == (2 if kept else None)


async def test_stored_value_is_not_asked_about(server: Server, api: Api) -> None:
    """A condition is about results of loaders: what is stored is returned."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        await cache.store(None, "key", 1)
        assert await cache.retrieve_or_load(None, "key", lambda: 2, condition=is_even) == 1


async def test_none_is_asked_about_where_it_would_be_stored(server: Server, api: Api) -> None:
    """By negative caching; otherwise the condition is not called for None."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        asked: list[object] = []

        def condition(result: object) -> bool:
            asked.append(result)
            return False

        loads = 0

        def load() -> None:
            nonlocal loads
            loads += 1

        await cache.retrieve_or_load(None, "key", load, condition=condition)
        assert asked == []
        for _ in range(2):
            await cache.retrieve_or_load(
                None, "key", load, condition=condition, missing_timeout=MINUTE
            )
        assert (asked, loads) == ([None, None], 3)


async def test_result_that_cannot_be_stored_is_reported_only_if_it_was_to_be(
    server: Server, api: Api
) -> None:
    """A refused result need not be serializable."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        result = object()
        got = await cache.retrieve_or_load(None, "a", lambda: result, condition=lambda _: False)
        assert got is result
        assert cache.stats().uncacheable_results == 0
        await cache.retrieve_or_load(None, "b", lambda: result, condition=lambda _: True)
        assert cache.stats().uncacheable_results == 1


async def test_unmodified_value_is_the_stale_one(server: Server) -> None:
    """For a loader that keeps the stale value, the condition is asked about that."""
    async with configured(server.url, key_prefix=PREFIX) as cache:
        asked: list[object] = []

        def condition(result: object) -> bool:
            asked.append(result)
            return True

        def load(load: Load[Any]) -> Any:
            return load.not_modified()

        await cache.store(None, "key", "stored")
        assert await cache.refresh(None, "key", load, condition=condition) == "stored"
        assert asked == ["stored"]


async def test_exception_of_a_condition_is_raised(server: Server, api: Api, raw: Client) -> None:
    """As one of the loader; nothing is stored, and the next call loads."""

    def failing(_: object) -> bool:
        raise LookupError("no verdict")

    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        with pytest.raises(LookupError, match="no verdict"):
            await cache.retrieve_or_load(None, "key", lambda: 1, condition=failing)
        assert await cache.retrieve_or_load(None, "key", lambda: 2) == 2


async def _coroutine(_: object) -> bool:
    raise AssertionError("called")


def _returning_a_coroutine(result: object) -> object:
    return _coroutine(result)


@pytest.mark.parametrize(
    "condition",
    [None, True, "even", _coroutine, _returning_a_coroutine],
    ids=["None", "True", "text", "coroutine function", "returns a coroutine"],
)
async def test_condition_that_is_no_plain_function_is_refused(
    server: Server, api: Api, condition: Any
) -> None:
    """BAD_LOAD_OPTION: a coroutine would be true whatever it returns."""
    async with configured(server.url, api, key_prefix=PREFIX) as cache:
        with pytest.raises(CacheInputError) as caught:
            await cache.retrieve_or_load(None, "key", lambda: 1, condition=condition)
        assert caught.value.code == "BAD_LOAD_OPTION"


async def test_namespace_has_a_condition(server: Server) -> None:
    """Its default applies to calls and to cached functions; that of a call or a function replaces it."""
    async with AsyncRedisCache.from_url(server.url, command_timeout=10_000) as cache:
        numbers = cache.namespace("number", condition=is_even)
        assert await numbers.get_or_load("a", lambda: 1) == 1
        assert await numbers.get("a") is None
        assert await numbers.get_or_load("a", lambda: 1, condition=lambda _: True) == 1
        assert await numbers.get("a") == 1
        assert await numbers.get_or_load_many(["1", "2"], lambda keys: {k: int(k) for k in keys})
        assert await numbers.get_many(["1", "2"]) == {"2": 2}
        calls: list[int] = []

        @numbers.cached("square:{number}")
        async def square(number: int) -> int:
            calls.append(number)
            return number * number

        @numbers.cached("cube:{number}", condition=lambda _: True)
        async def cube(number: int) -> int:
            calls.append(number)
            return number**3

        for function in (square, cube):
            for number in (1, 2):
                await function(number)
                await function(number)
        assert calls == [1, 1, 2, 1, 2]


def test_condition_runs_in_the_calling_thread(server: Server) -> None:
    """Of `RedisCache`, as the serializer does."""
    threads: list[threading.Thread] = []

    def condition(_: object) -> bool:
        threads.append(threading.current_thread())
        return True

    with RedisCache.from_url(server.url, command_timeout=10_000) as cache:
        cache.namespace("number").get_or_load("a", lambda: 1, condition=condition)
    assert threads == [threading.current_thread()]


async def test_condition_runs_on_the_calling_loop(server: Server) -> None:
    """Of a cache with `any_loop`, whose loads run in another thread."""
    seen: list[Any] = []

    def condition(_: object) -> bool:
        seen.append(asyncio.get_running_loop())
        return False

    async with AsyncRedisCache.from_url(server.url, any_loop=True) as cache:
        load: Callable[[], int] = Numbers()
        for expected in (1, 2):
            assert await cache.retrieve_or_load(None, "a", load, condition=condition) == expected
    assert seen == [asyncio.get_running_loop()] * 2
