"""Spans and metrics of OpenTelemetry, named after its semantic conventions for database clients.

Needs the extra `otel`: `pip install 'async-redis-cache[otel]'`, and an SDK with an exporter of your choice.

    stop = instrument(cache, name="products")

Each call of a cache is a span, and is in the histogram `db.client.operation.duration`. What `stats()` counts is
read when metrics are collected, and costs the calls nothing. A span says
where the value came from, and which function it was for. No key, no value and no login is in any of it.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import partial, wraps
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

try:
    from opentelemetry import metrics, trace
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.otel needs the extra 'otel': pip install 'async-redis-cache[otel]'"
    ) from _error

from async_redis_cache import (
    AsyncRedisCache,
    CacheEntry,
    CacheError,
    CacheInputError,
    CacheServerError,
    CacheStats,
    RedisCache,
)
from async_redis_cache._api.cache_entry import Status
from async_redis_cache._api.loaders import name_of
from async_redis_cache._common.endpoint import DEFAULT_PORTS, Address, Endpoint
from async_redis_cache._common.stats import DEPRECATED_NAMES, LEVELS

__all__ = ["instrument"]

Cache = AsyncRedisCache | RedisCache
Attributes = dict[str, str | int | bool]

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
_LOADING: Final = frozenset(
    {"retrieve_or_load", "retrieve_or_load_entry", "retrieve_or_load_many", "refresh"}
)
_READING: Final = _LOADING | {"retrieve", "retrieve_entry", "retrieve_many"}
_LOADER: Final = 2
"""Which argument of a loading call is the loader."""
_HTTP_SERVER_ERROR: Final = 500
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
    "refused_loads": "{load}",
    "loader_threads": "{thread}",
    "uncacheable_results": "{value}",
    "refreshes": "{load}",
    "superseded_loads": "{value}",
    "open_circuits": "{server}",
    "near_flushes": "{flush}",
    "near_evictions": "{entry}",
    "near_entries": "{entry}",
    "near_bytes": "By",
    "near_connected": "1",
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
        name: what tells its spans and metrics from those of other caches, `async_redis_cache.name`; by
            default `options.name`, or the `key_prefix`.
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
    watched.count(_Counts)
    meters.watched.add(watched)

    def stop() -> None:
        if watched in meters.watched:
            meters.watched.discard(watched)
            watched.count(CacheStats)
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
        self._about = _where(None, None)

    def stats(self) -> tuple[CacheStats, Attributes]:
        """What it counts, and what these counts are of."""
        return self._cache.stats(), self.about()

    @property
    def _core(self) -> AsyncRedisCache:
        cache = self._cache
        return cache._cache if isinstance(cache, RedisCache) else cache  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def count(self, kind: type[CacheStats]) -> None:
        """Let the cache count in this kind of counters, which holds what it has counted so far."""
        self._core._counters.__class__ = kind  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    def about(self) -> Attributes:
        """The cache's name, and the server, as far as it is known."""
        lifecycle = self._core._lifecycle  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        engine = lifecycle.engine()
        known = lifecycle.endpoint(), None if engine is None else engine.master
        if known != self._known or engine is None:
            name = self._name or lifecycle.name
            self._known = known
            self._about = _where(*known) | ({"async_redis_cache.name": name} if name else {})
        return self._about

    def wrapped(self, call: str, duration: metrics.Histogram) -> Callable[..., Any]:
        """A method of the cache, each call of which is a span."""
        method: Callable[..., Any] = getattr(self._cache, call)

        @wraps(method)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with self._span(call, duration, args, kwargs) as outcome:
                outcome.given = await method(*args, **kwargs)
                return outcome.given

        @wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            with self._span(call, duration, args, kwargs) as outcome:
                outcome.given = method(*args, **kwargs)
                return outcome.given

        return awaited if inspect.iscoroutinefunction(method) else called

    @contextmanager
    def _span(
        self, call: str, duration: metrics.Histogram, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Generator[_Outcome]:
        about: Attributes = {**self.about(), "db.operation.name": call}
        if call in _LOADING:
            about["async_redis_cache.function"] = _function_of(args, kwargs)
        size = _size(call, args, kwargs)
        outcome = _Outcome(call)
        counted = _COUNTED.set(outcome.counted)
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
                yield outcome
            except Exception as error:
                failed = outcome.failed(error)
                about |= failed
                span.set_attributes(failed)
                if "error.type" in failed:
                    span.set_status(trace.StatusCode.ERROR)
                raise
            else:
                result = outcome.result()
                about |= result
                span.set_attributes(result | outcome.counts())
            finally:
                _COUNTED.reset(counted)
                duration.record(time.perf_counter() - began, about)


_SEEN: Final = (
    *("hits", "misses", "stale_hits", "load_failures", "near_hits", "near_misses", "errors"),
)
"""What is counted for each call."""


class _Outcome:
    """What became of one call: by what it counted, and by what it gave."""

    def __init__(self, call: str) -> None:
        self._call = call
        self.counted = dict.fromkeys(_SEEN, 0)
        self.given: Any = None

    def result(self) -> Attributes:
        """Where the value of a call about one key came from, and whether an error is kept from its caller."""
        result: Attributes = {}
        if self.counted["errors"]:
            result["async_redis_cache.failed_open"] = True
        if self._call in _READING and self._call not in _MANY:
            result["async_redis_cache.result"] = self._result()
        return result

    def _result(self) -> Status:
        counted = self.counted
        if self._call.endswith("_entry"):
            entry: CacheEntry[Any] = self.given
            return entry.status
        if self.given is None:
            return "missing"
        if counted["stale_hits"]:
            return "stale"
        if not counted["hits"]:
            return "loaded"
        return "near" if counted["near_hits"] and not counted["near_misses"] else "hit"

    def counts(self) -> Attributes:
        """Of a call about several keys, how many of them came from where."""
        if self._call not in _READING or self._call not in _MANY:
            return {}
        counted, values = self.counted, len(self.given)
        hits, stale = counted["hits"], counted["stale_hits"]
        near = min(counted["near_hits"], hits)
        loaded = max(0, values - hits - stale)
        counts = {
            "hit": hits - near,
            "near": near,
            "stale": stale,
            "loaded": loaded,
            "missing": max(0, counted["misses"] - loaded),
        }
        return {f"async_redis_cache.result.{name}": count for name, count in counts.items()}

    def failed(self, error: Exception) -> Attributes:
        """What a call ended in instead."""
        is_load = self._call in _LOADING and self._is_of_load(error)
        failed: Attributes = {"async_redis_cache.failure": "load" if is_load else "cache"}
        status = _http_status(error) if is_load else None
        if status is not None:
            failed["http.response.status_code"] = status
            if status < _HTTP_SERVER_ERROR:
                # A response of the origin such as 404 is not a failure of the load.
                return failed | {"async_redis_cache.failure": "response"}
        if not isinstance(error, CacheError):
            return failed | {"error.type": f"{type(error).__module__}.{type(error).__qualname__}"}
        failed["error.type"] = error.code
        if isinstance(error, CacheServerError) and not is_load:
            failed["db.response.status_code"] = error.code
        return failed

    def _is_of_load(self, error: Exception) -> bool:
        if isinstance(error, CacheError):
            # A loader may use another cache; what it gave may not suit this one, which is no failure of it.
            is_input = isinstance(error, CacheInputError)
            return error.code.startswith("LOAD_") or (
                self.counted["load_failures"] > 0 and not is_input
            )
        return True


class _Counts(CacheStats):
    """The counters of a cache that is instrumented: they tell each call what was counted for it.

    A cache that is not instrumented counts in a plain `CacheStats`, and pays nothing for this.
    """

    __slots__ = ()

    def snapshot(self) -> CacheStats:
        """As it is now."""
        return CacheStats(**{field.name: getattr(self, field.name) for field in fields(CacheStats)})


def _told(name: str) -> property:
    slot = getattr(CacheStats, name)

    def get(self: _Counts) -> int:
        count: int = slot.__get__(self)
        return count

    def put(self: _Counts, count: int) -> None:
        counted = _COUNTED.get()
        if counted is not None:
            counted[name] += count - slot.__get__(self)
        slot.__set__(self, count)

    return property(get, put)


_COUNTED: Final[ContextVar[dict[str, int] | None]] = ContextVar("async_redis_cache", default=None)
"""What is counted for the call that is under way. A load and a refresh run in the context of the call that
began them."""
for _name in _SEEN:
    setattr(_Counts, _name, _told(_name))


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
        names = {field.name: field.name for field in fields(CacheStats)}
        deprecated = {old: new for new, old in DEPRECATED_NAMES.items()}
        for name, field in (names | deprecated).items():
            about = (
                f"{_SCOPE}.{name}",
                (partial(self._observe, field),),
                _UNITS.get(field, "{key}"),
                f"Deprecated: use {_SCOPE}.{field}" if name in deprecated else f"stats().{field}",
            )
            if field in LEVELS:
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


def _function_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The function that a call is to load with."""
    loader = args[2] if len(args) > _LOADER else kwargs.get("loader")
    return name_of(loader) if callable(loader) else ""


def _http_status(error: Exception) -> int | None:
    """The status of an `HTTPException`, of whichever framework."""
    if not any(kind.__name__ == "HTTPException" for kind in type(error).__mro__):
        return None
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int):
            return status
    return None
