"""Spans and metrics of OpenTelemetry: what they say of each call, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from async_redis_cache import AsyncRedisCache, CacheError, CacheStats, RedisCache
from harness import Server
from harness.apis import APIS, Api, configured
from harness.operations import OPERATIONS, STEPS
from harness.sentinels import Sentinels
from harness.telemetry import said_of

if TYPE_CHECKING:
    from harness.telemetry import Telemetry

pytest_plugins = ["otel_fixtures"]
pytestmark = pytest.mark.depends_on("api")

OURS = "async_redis_cache."
"""What attributes begin with that are not of the semantic conventions."""
NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture(params=APIS)
def api(request: pytest.FixtureRequest) -> Api:
    chosen: Api = request.param
    return chosen


def operations_of_class() -> set[str]:
    """The operations of a cache besides its lifecycle and configuration."""
    configuring = {"configure", "set_references", "from_url", "as_sync", "namespace"}
    other = configuring | {"is_open", "stats", *STEPS}
    return {name for name in dir(AsyncRedisCache) if not name.startswith("_")} - other


async def test_each_call_is_a_span(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A client span named after the operation, with system, database and server."""
    async with configured(server.url, api, key_prefix="otel:") as cache:
        telemetry.of(cache)
        for name, call in OPERATIONS.items():
            await call(cache)
            (span,) = telemetry.spans()
            assert (span.name, span.kind) == (f"{name} 0", SpanKind.CLIENT)
            said = said_of(span)
            assert {name: said[name] for name in said if not name.startswith(OURS)} == {
                "db.system.name": "redis",
                "db.operation.name": name,
                "db.namespace": "0",
                "server.address": server.host,
                "server.port": server.port,
            }
            assert said[f"{OURS}name"] == "otel:"
            assert span.status.status_code is StatusCode.UNSET


def test_every_operation_has_a_span(telemetry: Telemetry) -> None:
    """Each method that asks the server or loads is wrapped, of both classes."""
    for cache in (AsyncRedisCache(), RedisCache()):
        telemetry.of(cache)
        assert set(vars(cache)) & set(dir(cache.__class__)) == operations_of_class()


async def test_several_keys(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A call for several keys has their number, unless counting would consume an iterator."""
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        await cache.store_many(None, {"a": 1, "b": 2})
        await cache.retrieve_many(None, keys=["a", "b", "c"])
        await cache.remove_many(None, (key for key in "ab"))
    sizes = [said_of(span).get("db.operation.batch.size") for span in telemetry.spans()]
    assert sizes == [2, 3, None]


async def test_where_sentinels_lead(telemetry: Telemetry) -> None:
    """The address is that of the master, and after a failover that of the next; not of the sentinels."""
    with Sentinels() as sentinels:
        async with AsyncRedisCache.from_url(sentinels.uri) as cache:
            telemetry.of(cache)
            await cache.store(None, "key", 1)
            (before,) = telemetry.spans()
            old = sentinels.master()
            await asyncio.to_thread(sentinels.fail_over)
            new = sentinels.master()
            async with asyncio.timeout(60):
                # The cache may be told a moment later.
                while True:
                    await cache.contains(None, "key")
                    (after,) = telemetry.spans()
                    if said_of(after) != {**said_of(before), "db.operation.name": "contains"}:
                        break
    for span, server in ((before, old), (after, new)):
        said = said_of(span)
        where = said["server.address"], said["server.port"], said["db.namespace"]
        assert where == (server.host, server.port, "0")


async def test_unix_socket(server: Server, telemetry: Telemetry) -> None:
    """The address of a server on a unix socket is its path."""
    async with AsyncRedisCache.from_url(server.unix_url) as cache:
        telemetry.of(cache)
        await cache.ping(None)
    (span,) = telemetry.spans()
    assert said_of(span)["server.address"] == str(server.socket_file)
    assert "server.port" not in said_of(span)


async def test_errors(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A call that fails says how, by its code; the server's own word is its status."""
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        with server.client() as raw:
            raw.execute_command("RPUSH", "list", "a")
        with pytest.raises(CacheError):
            await cache.retrieve(None, "")
        with pytest.raises(CacheError):
            await cache.remove(None, "list")
    bad_key, wrong_type = telemetry.spans()
    assert said_of(bad_key)["error.type"] == "BAD_KEY"
    assert "db.response.status_code" not in said_of(bad_key)
    assert said_of(wrong_type)["error.type"] == "WRONGTYPE"
    assert said_of(wrong_type)["db.response.status_code"] == "WRONGTYPE"
    assert bad_key.status.status_code is wrong_type.status.status_code is StatusCode.ERROR


async def test_nothing_secret(server: Server, api: Api, telemetry: Telemetry) -> None:
    """Neither keys nor values are in spans and metrics, nor what a loader has said of them.

    Nor is the prefix, where the cache has a name.
    """
    secrets = ("kettle", "pin-4111", "shop:")

    def load() -> str:
        raise LookupError("no kettle, and no pin-4111")

    async with configured(server.url, api, key_prefix="shop:", name="products") as cache:
        telemetry.of(cache)
        await cache.store(None, "kettle", "pin-4111")
        await cache.retrieve_many(None, ["kettle", "kettle-pin-4111"])
        with pytest.raises(LookupError):
            await cache.retrieve_or_load(None, "kettle-pin-4111", load)
        told = [span.to_json() for span in telemetry.spans()] + [str(telemetry.metrics())]
    assert "builtins.LookupError" in told[-2]
    for text in told:
        assert not any(secret in text for secret in secrets)


async def test_parent_and_child(server: Server, api: Api, telemetry: Telemetry) -> None:
    """A span is the child of the caller's."""
    tracer = telemetry.tracers.get_tracer("test")
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        with tracer.start_as_current_span("request") as parent:
            await cache.ping(None)
    child, _ = telemetry.spans()
    assert child.parent == parent.get_span_context()


def matching(points: list[Any], **wanted: object) -> list[Any]:
    """The data points with these attributes, dots written as underscores."""
    return [
        point
        for point in points
        if wanted.items()
        <= {name.replace(".", "_"): value for name, value in point.attributes.items()}.items()
    ]


async def test_durations(server: Server, api: Api, telemetry: Telemetry) -> None:
    """How long calls take is a histogram, by operation and by error."""
    async with configured(server.url, api) as cache:
        telemetry.of(cache)
        for key in ("a", "b", ""):
            try:
                await cache.store(None, key, 1)
            except CacheError:
                continue
    points = telemetry.metrics()["db.client.operation.duration"]
    (failed,) = matching(points, error_type="BAD_KEY")
    assert failed.count == 1
    assert {point.count for point in matching(points, db_operation_name="store")} == {1, 2}
    assert failed.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


async def test_counts(server: Server, api: Api, telemetry: Telemetry) -> None:
    """Each field of `stats()` is a metric, and has its value when it is read."""
    async with configured(server.url, api, near_cache_enabled=True, key_prefix="o:") as cache:
        telemetry.of(cache, "products")
        await cache.store(None, "key", 1)
        for _ in range(3):
            await cache.retrieve(None, "key")
        metrics, stats = telemetry.metrics(), cache.stats()
        for field in fields(CacheStats):
            (point,) = metrics[f"async_redis_cache.{field.name}"]
            assert point.value == getattr(stats, field.name), field.name
            assert point.attributes["async_redis_cache.name"] == "products"
            assert point.attributes["server.port"] == server.port


async def test_spans_name_their_cache(server: Server, telemetry: Telemetry) -> None:
    """Caches of one provider share its metrics, each under its name."""
    caches = [AsyncRedisCache.from_url(server.url, key_prefix=f"{name}:") for name in "ab"]
    async with caches[0], caches[1]:
        for cache, name in zip(caches, "ab", strict=True):
            telemetry.of(cache, name)
        await caches[0].retrieve(None, "key")
        points = telemetry.metrics()["async_redis_cache.misses"]
    assert [
        [point.value for point in matching(points, async_redis_cache_name=name)] for name in "ab"
    ] == [[1], [0]]


async def test_stop(server: Server, api: Api, telemetry: Telemetry) -> None:
    """After that the cache is as it was, and nothing is read of it; it may be instrumented anew."""
    async with configured(server.url, api) as cache:
        before = dict(vars(getattr(cache, "blocking", cache)))
        stop = telemetry.of(cache)
        with pytest.raises(ValueError, match="already instrumented"):
            telemetry.of(cache)
        stop()
        stop()
        after: Mapping[str, object] = vars(getattr(cache, "blocking", cache))
        assert after == before
        await cache.ping(None)
        assert telemetry.spans() == []
        assert telemetry.metrics() == {}
        telemetry.of(cache)
        await cache.ping(None)
        assert len(telemetry.spans()) == 1


async def test_unreachable_server_is_an_error_in_the_span(telemetry: Telemetry) -> None:
    """A cache that was never open has spans and metrics as well."""
    cache = AsyncRedisCache.from_url(NOWHERE)
    telemetry.of(cache)
    with pytest.raises(CacheError):
        await cache.ping(None)
    (span,) = telemetry.spans()
    assert (span.name, said_of(span)["error.type"]) == ("ping", "NOT_OPENED")
    assert [point.value for point in telemetry.metrics()["async_redis_cache.errors"]] == [1]


def test_a_cache_that_is_dropped_is_not_held(telemetry: Telemetry) -> None:
    """An instrumented cache that is dropped without `stop` is freed."""
    cache = AsyncRedisCache.from_url(NOWHERE)
    telemetry.of(cache)
    gone = weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None
    assert telemetry.metrics() == {}
