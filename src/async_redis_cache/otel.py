"""Spans and metrics of OpenTelemetry, named after its semantic conventions for database clients.

Needs the extra `otel`: `pip install 'async-redis-cache[otel]'`, and an SDK with an exporter of your choice.

    stop = instrument(cache, name="products")

Each call of a cache is a span, and is in the histogram `db.client.operation.duration`. What `stats()` counts is
read when metrics are collected, and costs the calls nothing. No key, no value and no login is in any of it.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import contextmanager
from dataclasses import fields
from functools import partial, wraps
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    raise ImportError(
        "async_redis_cache.otel needs the extra 'otel': pip install 'async-redis-cache[otel]'"
    ) from error

from async_redis_cache import AsyncRedisCache, CacheError, CacheServerError, CacheStats, RedisCache

from ._counters import LEVELS
from ._uri import DEFAULT_PORTS, Address, Endpoint

__all__ = ["instrument"]

Cache = AsyncRedisCache | RedisCache
Attributes = dict[str, str | int]

_SCOPE: Final = "async_redis_cache"
_DURATION: Final = "db.client.operation.duration"
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""In seconds: those that the semantic conventions ask for."""

_CALLS: Final = (
    *("store", "retrieve", "remove", "store_many", "retrieve_many", "remove_many"),
    *("retrieve_entry", "retrieve_or_load", "retrieve_or_load_entry", "retrieve_or_load_many"),
    *("refresh", "contains", "touch", "time_to_live", "invalidate_tags", "clear", "ping"),
)
_MANY: Final = {
    "store_many": "mapping",
    "retrieve_many": "keys",
    "remove_many": "keys",
    "retrieve_or_load_many": "keys",
}
"""By call, the parameter that holds what there are several of."""
_UNITS: Final = {
    "stores": "{value}",
    "removals": "{value}",
    "evictions": "{value}",
    "errors": "{call}",
    "unreadable": "{value}",
    "round_trips": "{exchange}",
    "batched_calls": "{call}",
    "retries": "{call}",
    "connects": "{connection}",
    "refreshes": "{load}",
    "overtaken": "{value}",
    "breakers_open": "{server}",
    "near_flushes": "{flush}",
    "near_evictions": "{entry}",
    "near_entries": "{entry}",
    "near_bytes": "By",
    "near_trusted": "1",
}
"""Of what is not counted in keys."""


def instrument(
    cache: Cache,
    *,
    name: str = "",
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Callable[[], None]:
    """Make spans and metrics of what this cache does, until the function that you get is called.

    Args:
        cache: open or not.
        name: what tells its metrics from those of other caches: `async_redis_cache.name`.
        tracer_provider: in place of the global one.
        meter_provider: in place of the global one.

    Raises:
        ValueError: the cache is instrumented already.
    """
    if any(call in vars(cache) for call in _CALLS):
        raise ValueError("this cache is instrumented already")
    meters = _Metrics.of(meter_provider or metrics.get_meter_provider())
    watched = _Watched(cache, name, trace.get_tracer(_SCOPE, tracer_provider=tracer_provider))
    for call in _CALLS:
        # On the instance: a cache that is not instrumented does not know that this exists.
        setattr(cache, call, watched.wrapped(call, meters.duration))
    meters.watched.add(watched)

    def stop() -> None:
        if watched in meters.watched:
            meters.watched.discard(watched)
            for call in _CALLS:
                delattr(cache, call)

    return stop


class _Watched:
    """A cache that is instrumented."""

    def __init__(self, cache: Cache, name: str, tracer: trace.Tracer) -> None:
        self._cache = cache
        self._tracer = tracer
        self._name = name
        self._known: tuple[Endpoint | None, Address | None] = (None, None)
        self._where = _where(None, None)

    def stats(self) -> tuple[CacheStats, Attributes]:
        """What it counts, and what these counts are of."""
        name = {"async_redis_cache.name": self._name} if self._name else {}
        return self._cache.stats(), {**self.where(), **name}

    def where(self) -> Attributes:
        """The server, as far as it is known."""
        cache = self._cache
        core = cache._cache if isinstance(cache, RedisCache) else cache  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        lifecycle = core._lifecycle  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        engine = lifecycle.engine()
        known = lifecycle.endpoint(), None if engine is None else engine.master
        if known != self._known:
            self._known, self._where = known, _where(*known)
        return self._where

    def wrapped(self, call: str, duration: metrics.Histogram) -> Callable[..., Any]:
        """A method of the cache, each call of which is a span."""
        method: Callable[..., Any] = getattr(self._cache, call)

        @wraps(method)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with self._span(call, duration, args, kwargs):
                return await method(*args, **kwargs)

        @wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self._span(call, duration, args, kwargs):
                return method(*args, **kwargs)

        return awaited if inspect.iscoroutinefunction(method) else called

    @contextmanager
    def _span(
        self, call: str, duration: metrics.Histogram, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Generator[None]:
        about: Attributes = {**self.where(), "db.operation.name": call}
        size = _size(call, args, kwargs)
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"{call} {about['db.namespace']}" if "db.namespace" in about else call,
            kind=trace.SpanKind.CLIENT,
            attributes=about if size is None else {**about, "db.operation.batch.size": size},
            # Its message and its stack are the caller's: of a loader, they may hold anything.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                failed = _failed(error)
                about |= failed
                span.set_attributes(failed)
                span.set_status(trace.StatusCode.ERROR)
                raise
            finally:
                duration.record(time.perf_counter() - began, about)


class _Metrics:
    """The instruments of one provider, for all caches that are instrumented with it."""

    def __init__(self, provider: metrics.MeterProvider) -> None:
        # A cache that is given up without a word is not held here.
        self.watched: WeakSet[_Watched] = WeakSet()
        meter = provider.get_meter(_SCOPE)
        self.duration = meter.create_histogram(
            _DURATION,
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        for field in fields(CacheStats):
            about = (
                f"{_SCOPE}.{field.name}",
                (partial(self._observe, field.name),),
                _UNITS.get(field.name, "{key}"),
                f"stats().{field.name}",
            )
            if field.name in LEVELS:
                meter.create_observable_up_down_counter(*about)
            else:
                meter.create_observable_counter(*about)

    @classmethod
    def of(cls, provider: metrics.MeterProvider) -> _Metrics:
        """Those of this provider: a second set of the same names would be refused."""
        with _LOCK:
            if provider not in _METRICS:
                _METRICS[provider] = cls(provider)
            return _METRICS[provider]

    def _observe(
        self, field: str, _options: metrics.CallbackOptions
    ) -> Iterable[metrics.Observation]:
        for watched in tuple(self.watched):
            stats, about = watched.stats()
            yield metrics.Observation(int(getattr(stats, field)), about)


_LOCK: Final = threading.Lock()
_METRICS: Final[WeakKeyDictionary[metrics.MeterProvider, _Metrics]] = WeakKeyDictionary()


def _where(endpoint: Endpoint | None, master: Address | None) -> Attributes:
    where: Attributes = {"db.system.name": "redis"}
    if endpoint is None:
        return where
    if endpoint.topology != "cluster":
        where["db.namespace"] = str(endpoint.database)
    if master is not None:
        endpoint = endpoint.at(master)
    if endpoint.topology == "single":
        where["server.address"] = endpoint.path or endpoint.host
        if not endpoint.path and endpoint.port != DEFAULT_PORTS["single"]:
            where["server.port"] = endpoint.port
    return where


def _size(call: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """How many keys a call is about, where there are several, and it can be told."""
    if call not in _MANY:
        return None
    many = args[1] if len(args) > 1 else kwargs.get(_MANY[call])
    return len(many) if isinstance(many, Sized) and len(many) > 1 else None


def _failed(error: Exception) -> Attributes:
    if not isinstance(error, CacheError):
        return {"error.type": f"{type(error).__module__}.{type(error).__qualname__}"}
    failed: Attributes = {"error.type": error.code}
    if isinstance(error, CacheServerError):
        failed["db.response.status_code"] = error.code
    return failed
