"""`retrieve_or_load` of both APIs on every server and storage format."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError, CacheInputError, LoadOptions

if TYPE_CHECKING:
    from contract_fixtures import Setup

pytest_plugins = ["contract_fixtures"]


@dataclass
class Product:
    name: str


class Origin:
    """What is loaded from; it counts."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.loads = 0

    def load(self) -> Any:
        self.loads += 1
        return self.value

    async def fetch(self) -> Any:
        await asyncio.sleep(0)
        return self.load()


async def test_cold_key_is_loaded_once_and_stored(cache: AsyncRedisCache) -> None:
    """The loader is called for a cold key and not for a warm one; its value is stored."""
    origin = Origin({"n": 1})
    before = cache.stats()
    for _ in range(3):
        assert await cache.retrieve_or_load(None, "key", origin.load, 30_000) == {"n": 1}
    assert origin.loads == 1
    assert await cache.retrieve(None, "key") == {"n": 1}
    left = await cache.time_to_live(None, "key")
    assert left is not None
    assert 25_000 < left <= 30_000
    after = cache.stats()
    assert (after.loads - before.loads, after.load_failures, after.superseded_loads) == (1, 0, 0)
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 3)
    assert after.unreadable == before.unreadable


@pytest.mark.parametrize("kind", ["plain", "coroutine", "lambda", "partial", "thread"])
@pytest.mark.depends_on("api")
async def test_any_kind_of_loader(cache: AsyncRedisCache, kind: str) -> None:
    """A plain function, a coroutine function, or anything whose result can be awaited."""
    origin = Origin([1])
    loader: Any = {
        "plain": origin.load,
        "coroutine": origin.fetch,
        "lambda": lambda: origin.fetch(),  # noqa: PLW0108  it hides a coroutine function
        "partial": partial(origin.fetch),
        "thread": origin.load,
    }[kind]
    options: LoadOptions = {"in_thread": True} if kind == "thread" else {}
    assert await cache.retrieve_or_load(None, "key", loader, **options) == [1]
    assert await cache.retrieve(None, "key") == [1]


@pytest.mark.depends_on("api")
async def test_a_blocking_loader_runs_beside_the_loop(cache: AsyncRedisCache, setup: Setup) -> None:
    """With `in_thread`, and by the synchronous API always, a plain loader has its own thread."""
    options: LoadOptions = {} if setup.api == "sync" else {"in_thread": True}
    names: list[str] = []

    def loader() -> int:
        names.append(threading.current_thread().name)
        return 1

    assert await cache.retrieve_or_load(None, "key", loader, **options) == 1
    assert names[0] not in {"RedisCache", "MainThread"}


@pytest.mark.depends_on("api", "storage", "near")
async def test_first_call_returns_what_later_calls_return(
    cache: AsyncRedisCache, setup: Setup
) -> None:
    """A loaded value is returned as it is stored: decoded, and of the requested type."""
    if setup.storage == "pickle":
        values: list[Any] = [(1, 2), (1, 2)]
    else:
        values = [(1, 2), [1, 2]]
    given, expected = values
    assert await cache.retrieve_or_load(None, "key", lambda: given) == expected
    assert await cache.retrieve_or_load(None, "key", Origin(None).load) == expected
    if setup.storage != "pickle":
        load = partial(Product, "kettle")
        for _ in range(2):
            found = await cache.retrieve_or_load(None, "product", load, type=Product)
            assert found == Product("kettle")


async def test_none_is_returned_and_not_stored(cache: AsyncRedisCache) -> None:
    """None from a loader is given, and the next call loads again."""
    origin = Origin(None)
    for _ in range(2):
        assert await cache.retrieve_or_load(None, "key", origin.fetch) is None
    assert origin.loads == 2
    assert not await cache.contains(None, "key")


@pytest.mark.depends_on("api", "storage", "near")
async def test_error_is_not_cached(cache: AsyncRedisCache) -> None:
    """What the loader raises is raised, and the next call loads at once."""

    def fail() -> None:
        raise LookupError("kettle")

    failures = cache.stats().load_failures
    with pytest.raises(LookupError, match="kettle"):
        await cache.retrieve_or_load(None, "key", fail)
    assert cache.stats().load_failures == failures + 1
    assert await cache.retrieve_or_load(None, "key", lambda: 1) == 1


@pytest.mark.parametrize(
    ("code", "arguments", "options"),
    [
        ("BAD_KEY", ("", lambda: 1), {}),
        ("BAD_TIMEOUT", ("key", lambda: 1, -1), {}),
        ("BAD_TYPE", ("key", lambda: "text"), {"type": int}),
    ],
)
@pytest.mark.depends_on("api")
async def test_bad_input_raises_and_stores_nothing(
    cache: AsyncRedisCache,
    setup: Setup,
    code: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Bad input, and a loaded value of another type, is an error and leaves nothing."""
    if code == "BAD_TYPE" and setup.storage == "pickle":
        return  # What was pickled has its type: nothing is validated.
    with pytest.raises(CacheInputError) as caught:
        await cache.retrieve_or_load("t", *arguments, **options)
    assert (caught.value.code, caught.value.trace_id) == (code, "t")
    assert await cache.retrieve_or_load(None, "key", lambda: 1) == 1


async def test_a_value_of_another_type_is_replaced(cache: AsyncRedisCache, setup: Setup) -> None:
    """What is stored and does not fit the type is loaded anew."""
    if setup.storage == "pickle":
        return  # What was pickled has its type: nothing is validated.
    await cache.store(None, "key", "text")
    assert await cache.retrieve_or_load(None, "key", lambda: 7, type=int) == 7
    assert await cache.retrieve(None, "key") == 7


@pytest.mark.depends_on("api", "near")
async def test_a_loader_may_use_the_cache(cache: AsyncRedisCache, setup: Setup) -> None:
    """Loads within loads do not wait for each other."""
    if setup.api == "sync":
        blocking: Any = cache

        def outer() -> Any:
            return blocking.blocking.retrieve_or_load(None, "inner", lambda: 1)

        assert await cache.retrieve_or_load(None, "outer", outer) == 1
    else:
        inner = partial(cache.retrieve_or_load, None, "inner", lambda: 1)
        assert await cache.retrieve_or_load(None, "outer", inner) == 1
    assert await cache.retrieve(None, "inner") == 1


@pytest.mark.depends_on("api")
async def test_a_closed_cache_loads_nothing(new_cache: Any, setup: Setup) -> None:
    """A cache that is not open is an error, and no load."""
    if setup.server == "embedded":
        return  # One is open for all tests.
    origin = Origin(1)
    with pytest.raises(CacheError) as caught:
        await new_cache().retrieve_or_load("t", "key", origin.load)
    assert (caught.value.code, caught.value.trace_id) == ("NOT_OPENED", "t")
    assert origin.loads == 0
