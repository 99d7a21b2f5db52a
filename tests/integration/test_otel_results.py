"""The result attributes of a span: source of the value, cached function, and failure."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from fastapi import HTTPException
from opentelemetry.trace import StatusCode

from async_redis_cache import (
    AsyncRedisCache,
    CacheError,
    CacheInputError,
    CacheStats,
    CacheTimeout,
    CoalescingLoader,
    RedisCache,
    cached,
)
from async_redis_cache._api.loaders import name_of
from async_redis_cache._common.stats import Counters
from async_redis_cache.otel import instrument
from harness import Server, await_until
from harness.apis import Api, configured
from harness.near import near_options
from harness.near_waiting import cached_locally
from harness.telemetry import said_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from harness.telemetry import Telemetry

pytest_plugins = ["near_fixtures", "otel_fixtures"]
pytestmark = pytest.mark.depends_on("api")

RESULT = "async_redis_cache.result"
FAILURE = "async_redis_cache.failure"
FUNCTION = "async_redis_cache.function"


def load_price() -> int:
    return 7


def load_nothing() -> None:
    """There is none."""


def load_all(keys: list[str]) -> dict[str, int]:
    return {key: 1 for key in keys if key != "none"}


def results(spans: list[ReadableSpan]) -> list[Any]:
    return [said_of(span).get(RESULT) for span in spans]


async def test_span_has_result(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A span of a call that reads one key has its result; that of another call has none."""
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        await cache.store(None, "key", 1)
        await cache.retrieve(None, "key")
        await cache.retrieve(None, "none")
        await cache.retrieve_entry(None, "key")
        await cache.retrieve_or_load(None, "price", load_price)
        await cache.retrieve_or_load(None, "price", load_price)
        await cache.retrieve_or_load(None, "nothing", load_nothing)
        await cache.refresh(None, "price", load_price)
    assert results(telemetry.spans()) == [
        *(None, "hit", "missing", "hit"),
        *("loaded", "hit", "missing", "loaded"),
    ]


async def test_span_has_near_result(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A value from the near cache is `near`; with `RedisCache`, only an entry distinguishes it from a `hit`."""
    async with configured(
        server.url, api, **near_options("near:", near_cache_heartbeat=10_000)
    ) as cache:
        await cache.store(None, "key", 1)
        await cached_locally(cache, "key")
        telemetry.of(cache)
        await cache.retrieve(None, "key")
        await cache.retrieve_or_load(None, "key", load_price)
        await cache.retrieve_entry(None, "key")
    near = "near" if api == "async" else "hit"
    assert results(telemetry.spans()) == [near, near, "near"]


async def test_span_has_stale_result(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A value that is given past its timeout is `stale`."""
    options: dict[str, Any] = {"stale_timeout": 60_000}
    async with configured(server.url, api) as cache:
        await cache.retrieve_or_load(None, "key", load_price, 1, **options)
        await await_until(_expired(server))
        telemetry.of(cache)
        await cache.retrieve_or_load(None, "key", load_price, 60_000, **options)
    assert results(telemetry.spans()) == ["stale"]


def _expired(server: Server) -> Callable[[], bool]:
    """Whether the server's clock has gone on by some milliseconds."""

    def now() -> tuple[int, int]:
        with server.client() as raw:
            seconds, microseconds = raw.time()
            return int(seconds), int(microseconds)

    seconds, microseconds = now()
    return lambda: now() > (seconds, microseconds + 5_000)


async def test_span_counts_results_of_many_keys(
    server: Server, api: Api, telemetry: Telemetry
) -> None:
    """A span about several keys has how many of them came from where."""
    async with configured(server.url, api) as cache:
        await cache.store_many(None, {"a": 1, "b": 2})
        telemetry.of(cache)
        await cache.retrieve_many(None, ["a", "b", "c"])
        await cache.retrieve_or_load_many(None, ["a", "b", "c", "d", "e", "none"], load_all)
    counts = [
        {
            name.removeprefix(f"{RESULT}."): count
            for name, count in said_of(span).items()
            if name.startswith(RESULT)
        }
        for span in telemetry.spans()
    ]
    assert counts == [
        {"hit": 2, "near": 0, "stale": 0, "loaded": 0, "missing": 1},
        {"hit": 2, "near": 0, "stale": 0, "loaded": 3, "missing": 1},
    ]


async def test_concurrent_calls_have_their_own_results(
    server: Server, telemetry: Telemetry
) -> None:
    """What is counted for one call is not in the span of another, nor is it lost to `stats`."""
    async with configured(server.url) as cache:
        telemetry.of(cache)
        await cache.store(None, "key", 1)
        telemetry.spans()
        await asyncio.gather(
            *(cache.retrieve(None, "key" if number % 2 else "none") for number in range(40))
        )
        stats = cache.stats()
    found = results(telemetry.spans())
    assert (found.count("hit"), found.count("missing")) == (20, 20)
    assert (stats.hits, stats.misses, type(stats)) == (20, 20, CacheStats)


async def test_span_has_function(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A span of a call that loads has the function, which never is a key."""
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        await cache.retrieve_or_load(None, "kettle", load_price)
        await cache.refresh(None, "kettle", loader=functools.partial(load_price))
        await cache.retrieve_or_load_many(None, ["kettle", "cup"], load_all)
        await cache.retrieve(None, "kettle")
    assert [said_of(span).get(FUNCTION) for span in telemetry.spans()] == [
        f"{__name__}.load_price",
        f"{__name__}.load_price",
        f"{__name__}.load_all",
        None,
    ]


async def test_span_has_cached_function(server: Server, telemetry: Telemetry) -> None:
    """Of a cached function it is that function."""
    async with AsyncRedisCache.from_url(server.url) as cache:

        @cached(cache)
        async def price(name: str) -> int:
            return len(name)

        telemetry.of(cache)
        assert [await price("kettle"), await price("kettle"), await price.refresh("kettle")] == [
            6
        ] * 3
    spans = telemetry.spans()
    own = "test_span_has_cached_function.<locals>.price"
    assert {said_of(span)[FUNCTION] for span in spans} == {f"{__name__}.{own}"}
    assert results(spans) == ["loaded", "hit", "loaded"]


def test_name_of_loader() -> None:
    """Whatever kind of callable it is: its function's name, or its class's; bounded in length."""

    class Origin:
        def __call__(self) -> int:
            return 1

        def load(self) -> int:
            return 1

    own = f"{__name__}.test_name_of_loader.<locals>."
    assert name_of(Origin()) == f"{own}Origin"
    assert name_of(Origin().load) == f"{own}Origin.load"
    assert name_of(functools.partial(functools.partial(load_price))) == f"{__name__}.load_price"
    assert name_of(CoalescingLoader(load_all)) == f"{__name__}.load_all"
    assert name_of(dict) == "builtins.dict"
    load_long = functools.wraps(load_price)(lambda: 1)
    load_long.__qualname__ = "n" * 1000
    assert len(name_of(load_long)) == 200


async def failure(
    cache: AsyncRedisCache, error: BaseException, telemetry: Telemetry
) -> ReadableSpan:
    """The span of a call whose loader raises this."""

    def load() -> int:
        raise error

    with pytest.raises(type(error)):
        await cache.retrieve_or_load(None, "kettle", load)
    (span,) = telemetry.spans()
    return span


async def test_load_failure_differs_from_cache_failure(
    server: Server, api: Api, telemetry: Telemetry
) -> None:
    """What a loader raises is a failure of the load, a `CacheError` one of the cache."""
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        of_load = said_of(await failure(cache, LookupError("kettle"), telemetry))
        of_other = said_of(await failure(cache, CacheTimeout("TIMEOUT", "other"), telemetry))
        with pytest.raises(CacheError):
            await cache.retrieve_or_load(None, "", load_price)
        with pytest.raises(CacheInputError):
            await cache.retrieve_or_load(None, "kettle", lambda: "text", type=int)
        with pytest.raises(CacheInputError):
            await cache.store(None, "kettle", object())
        bad_key, bad_type, stored = map(said_of, telemetry.spans())
    assert (of_load[FAILURE], of_load["error.type"]) == ("load", "builtins.LookupError")
    assert (of_other[FAILURE], of_other["error.type"]) == ("load", "TIMEOUT")
    assert (bad_key[FAILURE], bad_key["error.type"]) == ("cache", "BAD_KEY")
    assert (bad_type[FAILURE], stored[FAILURE]) == ("cache", "cache")


async def test_load_timeout_is_load_failure(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A load that takes too long is a failure of the load."""

    async def load() -> int:
        await asyncio.Event().wait()
        return 1

    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        with pytest.raises(CacheTimeout):
            await cache.retrieve_or_load(None, "kettle", load, hard_timeout=20)
    (span,) = telemetry.spans()
    assert (said_of(span)[FAILURE], said_of(span)["error.type"]) == ("load", "LOAD_TIMEOUT")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HTTPException(404), HTTPStatus.NOT_FOUND),
        (web.HTTPForbidden(), HTTPStatus.FORBIDDEN),
        (HTTPException(503), HTTPStatus.SERVICE_UNAVAILABLE),
        (web.HTTPBadGateway(), HTTPStatus.BAD_GATEWAY),
    ],
)
async def test_http_exception_is_response_below_500(
    server: Server, api: Api, telemetry: Telemetry, error: Exception, status: HTTPStatus
) -> None:
    """An `HTTPException` of a loader has its status; below 500 it is a response, not an error."""
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        span = await failure(cache, error, telemetry)
    said = said_of(span)
    assert said["http.response.status_code"] == status
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        assert (said[FAILURE], span.status.status_code) == ("response", StatusCode.UNSET)
        assert "error.type" not in said
    else:
        assert (said[FAILURE], span.status.status_code) == ("load", StatusCode.ERROR)
        assert said["error.type"].endswith(type(error).__qualname__)


async def test_span_says_that_call_failed_open(api: Api, telemetry: Telemetry) -> None:
    """A call whose error is kept from its caller is no error of the span, which says so."""
    options = {"fail_open": "always", "require_connection": False, "command_timeout": 100}
    async with configured("redis://127.0.0.1:1", api, **options) as cache:
        telemetry.of(cache)
        assert await cache.retrieve(None, "kettle") is None
        assert await cache.contains(None, "kettle") is False
    for span in telemetry.spans():
        assert said_of(span)["async_redis_cache.failed_open"] is True
        assert span.status.status_code is StatusCode.UNSET


async def test_duration_has_result_and_function(
    server: Server, api: Api, telemetry: Telemetry
) -> None:
    """The histogram has them as well."""
    async with configured(server.url, api, name="products") as cache:
        telemetry.of(cache)
        for _ in range(3):
            await cache.retrieve_or_load(None, "price", load_price)
    points = telemetry.metrics()["db.client.operation.duration"]
    by_result = {point.attributes[RESULT]: point for point in points}
    assert {result: point.count for result, point in by_result.items()} == {"loaded": 1, "hit": 2}
    for point in points:
        assert point.attributes[FUNCTION] == f"{__name__}.load_price"
        assert point.attributes["async_redis_cache.name"] == "products"


async def test_background_refresh_is_in_trace_of_its_call(
    server: Server, api: Api, telemetry: Telemetry
) -> None:
    """A loader that is called ahead of time finds the span of the call that caused it."""
    tracer = telemetry.tracers.get_tracer("test")
    origin: list[ReadableSpan] = []

    def load() -> int:
        with tracer.start_as_current_span("origin") as span:
            origin.append(span)  # type: ignore[arg-type]
        return 1

    async with configured(server.url, api) as cache:
        await cache.retrieve_or_load(None, "key", load, 60_000)
        telemetry.of(cache)
        telemetry.spans()
        with tracer.start_as_current_span("request") as request:
            await cache.retrieve_or_load(None, "key", load, 60_000, refresh_at=1e-9)
        await await_until(lambda: len(origin) == 2)
    (call,) = [span for span in telemetry.spans() if span.name.startswith("retrieve_or_load")]
    assert call.parent == request.get_span_context()
    assert origin[1].parent == call.context


def test_spans_of_threads_have_their_own_parents(server: Server, telemetry: Telemetry) -> None:
    """Of calls of many threads at once, each span and each span of a loader is in its caller's trace."""
    tracer = telemetry.tracers.get_tracer("test")
    threads, calls = 8, 25
    start = threading.Barrier(threads)

    def load(name: str) -> str:
        with tracer.start_as_current_span(f"origin {name}"):
            return name

    with RedisCache.from_url(server.url) as cache:
        telemetry.of(cache)

        def call(thread: int) -> None:
            start.wait()
            for number in range(calls):
                name = f"{thread}.{number}"
                with tracer.start_as_current_span(f"request {name}"):
                    cache.retrieve_or_load(None, name, functools.partial(load, name))
                    cache.retrieve(None, name)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(call, range(threads)))
    spans = telemetry.spans()
    names = {span.context.span_id: span.name for span in spans if span.context}
    parents = [
        (names[span.parent.span_id], span.name, said_of(span).get(RESULT))
        for span in spans
        if span.parent
    ]
    assert Counter(parents) == Counter(
        edge
        for thread in range(threads)
        for number in range(calls)
        for edge in (
            (f"request {thread}.{number}", "retrieve_or_load 0", "loaded"),
            (f"request {thread}.{number}", "retrieve 0", "hit"),
            ("retrieve_or_load 0", f"origin {thread}.{number}", None),
        )
    )
    traces = {span.name: span.context.trace_id for span in spans if span.context}
    for thread in range(threads):
        for number in range(calls):
            name = f"{thread}.{number}"
            assert traces[f"origin {name}"] == traces[f"request {name}"]


def test_counters_are_plain_without_instrument() -> None:
    """A cache that is not instrumented counts in a plain `Counters`; so does one that was."""
    cache = AsyncRedisCache()
    counters: Any = cache._counters
    assert type(counters) is Counters
    stop = instrument(cache)
    assert type(counters) is not Counters
    stop()
    assert type(counters) is Counters
