"""Spans and metrics of namespaces and cached functions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import (
    AsyncRedisCache,
    CacheError,
    CacheInputError,
    CacheLockError,
    RedisCache,
    cached,
)
from harness.telemetry import said_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Server
    from harness.telemetry import Telemetry

pytest_plugins = ["otel_fixtures"]

NAMESPACE = "async_redis_cache.namespace"
FUNCTION = "async_redis_cache.function"
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "set": lambda space: space.set("key", 1),
    "get": lambda space: space.get("key"),
    "add": lambda space: space.add("key", 1),
    "incr": lambda space: space.incr("number"),
    "decr": lambda space: space.decr("number"),
    "set_many": lambda space: space.set_many({"key": 1}),
    "get_many": lambda space: space.get_many(["key"]),
    "get_or_load": lambda space: space.get_or_load("key", lambda: 1),
    "get_or_load_many": lambda space: space.get_or_load_many(["key"], dict),
    "get_entry": lambda space: space.get_entry("key"),
    "get_or_load_entry": lambda space: space.get_or_load_entry("key", lambda: 1),
    "refresh": lambda space: space.refresh("key", lambda: 1),
    "touch": lambda space: space.touch("key"),
    "ttl": lambda space: space.ttl("key"),
    "contains": lambda space: space.contains("key"),
    "invalidate_tags": lambda space: space.invalidate_tags("tag"),
    "delete": lambda space: space.delete("key"),
    "delete_many": lambda space: space.delete_many(["key"]),
    "clear": lambda space: space.clear(),
}


@pytest.mark.parametrize("is_instrumented_first", [True, False])
async def test_each_call_of_a_namespace_is_one_span(
    server: Server, telemetry: Telemetry, *, is_instrumented_first: bool
) -> None:
    """The span has the name of the namespace's method and of the namespace, whichever was created first."""
    async with AsyncRedisCache.from_url(server.url, key_prefix="shop:") as cache:
        if is_instrumented_first:
            telemetry.of(cache)
        space = cache.namespace("product")
        if not is_instrumented_first:
            telemetry.of(cache)
        for name, call in OPERATIONS.items():
            await call(space)
            (span,) = telemetry.spans()
            said = said_of(span)
            assert span.name == f"{name} product"
            assert (said["db.operation.name"], said[NAMESPACE]) == (name, "product")
            assert not any("key" in str(value) for value in said.values())
        await cache.retrieve(None, "key")
        (span,) = telemetry.spans()
        assert span.name == "retrieve 0"
        assert NAMESPACE not in said_of(span)


def test_each_call_of_a_synchronous_namespace_is_one_span(
    server: Server, telemetry: Telemetry
) -> None:
    """The same for a `SyncNamespace`; after `stop` there are no spans, of new namespaces neither."""
    with RedisCache.from_url(server.url) as cache:
        stop = telemetry.of(cache)
        space = cache.namespace("product")
        for name, call in OPERATIONS.items():
            call(space)
            assert [span.name for span in telemetry.spans()] == [f"{name} product"]
        stop()
        space.get("key")
        cache.namespace("other").get("key")
        assert telemetry.spans() == []
        telemetry.of(cache)
        space.get("key")
        assert [span.name for span in telemetry.spans()] == ["get product"]


async def test_result_and_error_of_a_namespace_call(server: Server, telemetry: Telemetry) -> None:
    """Spans of namespaces say where the value came from, and how a call failed."""
    async with AsyncRedisCache.from_url(server.url) as cache:
        early = cache.namespace("early")
        telemetry.of(cache)
        for space in (early, cache.namespace("late")):
            await space.get("key")
            await space.get_or_load("key", lambda: 1)
            await space.get("key")
            with pytest.raises(CacheInputError):
                await space.get("")
            spans = [said_of(span) for span in telemetry.spans()]
            results = [span.get("async_redis_cache.result") for span in spans]
            assert results == ["missing", "loaded", "hit", None]
            assert spans[-1]["error.type"] == "BAD_KEY"


async def test_lock_is_a_span_that_ends_when_it_is_held(
    server: Server, telemetry: Telemetry
) -> None:
    """The span `lock` is the wait; it is an error if another holds the lock all the time."""
    async with AsyncRedisCache.from_url(server.url) as cache:
        telemetry.of(cache)
        space = cache.namespace("job")
        async with space.lock("report"):
            (span,) = telemetry.spans()
            assert span.name == "lock job"
            assert said_of(span)["db.operation.name"] == "lock"
            with pytest.raises(CacheLockError):
                async with space.lock("report", wait=0):
                    pass
            (span,) = telemetry.spans()
            assert said_of(span)["error.type"] == "LOCK_TIMEOUT"
            assert not any("report" in str(value) for value in said_of(span).values())
    with RedisCache.from_url(server.url) as blocking:
        stop = telemetry.of(blocking)
        with blocking.namespace("job").lock("other"):
            assert [span.name for span in telemetry.spans()] == ["lock job"]
        stop()
        with blocking.namespace("job").lock("other"):
            assert telemetry.spans() == []


async def test_stored_none_is_a_hit(server: Server, telemetry: Telemetry) -> None:
    """A None that is a value of the namespace is a hit in `get` and in `get_or_load`."""
    async with AsyncRedisCache.from_url(server.url) as cache:
        telemetry.of(cache)
        optional = cache.namespace("optional", type=int, cache_none=True)
        await optional.set("a", None)
        assert await optional.get("a", 1) is None
        assert await optional.get_or_load("a", lambda: 1) is None
        assert await optional.get("b") is None
    results = [said_of(span).get("async_redis_cache.result") for span in telemetry.spans()]
    assert results == [None, "hit", "hit", "missing"]
    assert (optional.stats().hits, optional.stats().misses) == (2, 1)


async def test_cached_function_is_named_in_spans(server: Server, telemetry: Telemetry) -> None:
    """Calls of a cached function are spans with its name and that of its namespace."""
    async with AsyncRedisCache.from_url(server.url) as cache:

        @cache.namespace("product").cached()
        async def double(number: int) -> int:
            return 2 * number

        telemetry.of(cache)

        @cached(cache)
        async def triple(number: int) -> int:
            return 3 * number

        name = f"{__name__}.test_cached_function_is_named_in_spans.<locals>"
        await double(1)
        await double.invalidate(1)
        spans = telemetry.spans()
        assert [span.name for span in spans] == ["get_or_load product", "delete product"]
        assert {said_of(span)[FUNCTION] for span in spans} == {f"{name}.double"}
        await triple(1)
        (span,) = telemetry.spans()
        assert span.name == "retrieve_or_load 0"
        assert said_of(span)[FUNCTION] == f"{name}.triple"


@pytest.mark.parametrize("is_instrumented_first", [True, False])
async def test_metrics_by_namespace_and_function(
    server: Server, telemetry: Telemetry, *, is_instrumented_first: bool
) -> None:
    """Counters have the names of the namespace and the function; the data points add up to the counters of the cache."""
    async with AsyncRedisCache.from_url(server.url) as cache:
        if is_instrumented_first:
            telemetry.of(cache)
        space = cache.namespace("product")

        @space.cached()
        async def double(number: int) -> int:
            return 2 * number

        await double(1)
        if not is_instrumented_first:
            telemetry.of(cache)
        await asyncio.gather(double(1), space.get("7"), cache.retrieve(None, "7"))
        metrics = telemetry.metrics()
        named = {
            name: {
                (point.attributes.get(NAMESPACE), point.attributes.get(FUNCTION)): point.value
                for point in metrics[f"async_redis_cache.{name}"]
            }
            for name in ("hits", "misses", "loads", "round_trips")
        }
        function = f"{__name__}.test_metrics_by_namespace_and_function.<locals>.double"
        assert named["hits"] == {
            (None, None): 0,
            ("product", None): 0,
            ("product", function): 1,
        }
        assert named["misses"] == {
            (None, None): 1,
            ("product", None): 1,
            ("product", function): 1,
        }
        assert sum(named["loads"].values()) == cache.stats().loads == 1
        assert named["round_trips"] == {(None, None): cache.stats().round_trips}
        durations = metrics["db.client.operation.duration"]
        assert {point.attributes.get(NAMESPACE) for point in durations} == {None, "product"}


async def test_names_in_metrics_are_bounded(
    server: Server, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of namespaces beyond the bound have no name, in spans and in metrics."""
    monkeypatch.setattr("async_redis_cache._common.stats._MOST_PARTS", 2)
    async with AsyncRedisCache.from_url(server.url) as cache:
        telemetry.of(cache)
        for number in range(4):
            await cache.namespace(f"tenant{number}").get("a")
        names = [span.name for span in telemetry.spans()]
        assert names == ["get tenant0", "get tenant1", "retrieve 0", "retrieve 0"]
        points = telemetry.metrics()["async_redis_cache.misses"]
        assert [point.attributes.get(NAMESPACE) for point in points] == [
            None,
            "tenant0",
            "tenant1",
        ]
        assert sum(point.value for point in points) == 4


@pytest.mark.parametrize("kind", ["async", "any_loop", "sync"])
@pytest.mark.parametrize("is_instrumented", [True, False])
async def test_errors_have_the_trace_id_of_the_running_span(
    server: Server, telemetry: Telemetry, kind: str, *, is_instrumented: bool
) -> None:
    """Without a trace id of its own, an error has that of the running span, whatever raised it and wherever it ran."""
    opened = AsyncRedisCache.from_url(server.url, any_loop=kind == "any_loop")
    blocking = RedisCache.from_url(server.url)
    tracer = telemetry.tracers.get_tracer("test")
    async with opened:
        with blocking, server.client() as raw:
            raw.rpush("n:list", "a")
            cache: Any = blocking if kind == "sync" else opened
            if is_instrumented:
                telemetry.of(cache)
            space = cache.namespace("n")

            async def failed(result: Callable[[], Any]) -> str | None:
                try:
                    await result()
                except CacheError as error:
                    return error.trace_id
                raise AssertionError("nothing was raised")

            with tracer.start_as_current_span("request") as span:
                expected = f"{span.get_span_context().trace_id:032x}"
                assert await failed(lambda: space.get("")) == expected
                assert await failed(lambda: space.incr("list")) == expected
                assert await failed(lambda: cache.remove(None, "n:list")) == expected
                assert await failed(lambda: space.incr("list", trace_id="own")) == "own"
                assert await failed(lambda: cache.remove("own", "n:list")) == "own"
            if not is_instrumented:
                assert await failed(lambda: space.incr("list")) is None


async def test_caches_on_one_core_have_spans_each_and_report_once(
    server: Server, telemetry: Telemetry
) -> None:
    """Metrics are those of the counters, which both share; the spans of one outlive the instrumentation of the other."""
    async with AsyncRedisCache.from_url(server.url, any_loop=True) as cache:
        blocking = cache.as_sync()
        stops = [telemetry.of(cache, "first"), telemetry.of(blocking, "second")]
        await cache.namespace("n").set("key", 1)
        await cache.namespace("n").get("key")
        await asyncio.to_thread(blocking.namespace("n").get, "key")
        points = [
            point
            for point in telemetry.metrics()["async_redis_cache.hits"]
            if point.attributes.get(NAMESPACE) == "n"
        ]
        assert [point.value for point in points] == [2]
        assert points[0].attributes["async_redis_cache.name"] == "first"
        assert len(telemetry.spans()) == 3

        stops[0]()
        await asyncio.to_thread(blocking.namespace("n").get, "key")
        (span,) = telemetry.spans()
        assert said_of(span)["async_redis_cache.result"] == "hit"
        stops[1]()
