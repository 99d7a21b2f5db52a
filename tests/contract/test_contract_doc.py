"""The example at the end of the contract's documentation runs unchanged on both classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pip_services4_components.config import ConfigParams
from pip_services4_components.context import Context

from async_redis_cache import AsyncRedisCache, RedisCache
from code_blocks import ROOT, Block, Page
from harness import Server
from harness.choices import by_host_and_port

EXAMPLE = """
cache = RedisCache()
cache.configure(ConfigParams.from_tuples(
    "host", "localhost",
    "port", 6379
))

cache.open("123")
cache.store("123", "key1", "ABC", None)
value = cache.retrieve("123", "key1") # Result: "ABC"
"""
"""As it stands in the documentation of the contract, to the letter."""

AWAITED = """
cache = AsyncRedisCache()
cache.configure(ConfigParams.from_tuples(
    "host", "localhost",
    "port", 6379
))

await cache.open("123")
await cache.store("123", "key1", "ABC", None)
value = await cache.retrieve("123", "key1") # Result: "ABC"
"""
"""The same, with `await` in front of each call that can wait."""

Run = Callable[[str], Page]


@pytest.fixture
def run(server: Server) -> Iterator[Run]:
    """Runs an example on the test's server; only the port differs from what is written."""
    with Page() as page:
        page.give(AsyncRedisCache=AsyncRedisCache, ConfigParams=ConfigParams, RedisCache=RedisCache)

        def run_example(example: str) -> Page:
            code = example.replace("6379", str(server.port))
            page.run(Block(ROOT / "tests" / "test_contract_doc.py", 1, "python", code))
            return page

        yield run_example


@by_host_and_port
def test_example_on_the_synchronous_cache(run: Run) -> None:
    """`RedisCache` runs the example and gets the documented value."""
    page = run(EXAMPLE)
    assert page.compared == 1
    run('assert value == "ABC"\ncache.close("123")')


@by_host_and_port
def test_example_on_the_asynchronous_cache(run: Run) -> None:
    """`AsyncRedisCache` does what the example says, with `await` in front of each call."""
    page = run(AWAITED)
    assert page.compared == 1
    run('assert value == "ABC"\nawait cache.close("123")')


def test_examples_differ_by_the_awaits_alone() -> None:
    """The example for the asynchronous class is the other one with `Async` and `await`."""
    assert AWAITED.replace("AsyncRedisCache", "RedisCache").replace("await ", "") == EXAMPLE


@by_host_and_port
@pytest.mark.parametrize("context", ["123", None, Context.from_trace_id("123")])
def test_rest_of_the_contract(server: Server, context: Context | str | None) -> None:
    """What the documentation promises of the other methods holds, with every kind of context."""
    cache = RedisCache()
    cache.configure(ConfigParams.from_tuples("host", "localhost", "port", server.port))
    assert not cache.is_open()
    cache.open(context)
    assert cache.is_open()
    assert cache.store(context, "key1", {"a": [1, None]}, 5_000) == {"a": [1, None]}
    assert cache.retrieve(context, "key1") == {"a": [1, None]}
    assert cache.remove(context, "key1") == {"a": [1, None]}
    assert cache.remove(context, "key1") is None
    assert cache.retrieve(context, "key1") is None
    cache.close(context)
    assert not cache.is_open()
