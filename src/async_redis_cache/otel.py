"""OpenTelemetry spans and metrics, named by the semantic conventions for database clients.

Needs the extra `otel`: `pip install 'async-redis-cache[otel]'`, and an SDK with an exporter.

    stop = instrument(cache, name="products")

Each call of a cache is a span, and is recorded in the histogram `db.client.operation.duration`. Attributes of the span
say where the value came from, and which function loads it. The counters of `stats()` are read when metrics are
collected, and cost the calls nothing. Spans and metrics contain no key, value or login.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import partial, wraps
from itertools import count
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet, ref

try:
    from opentelemetry import metrics, trace
except ImportError as _error:
    raise ImportError(
        "async_redis_cache.otel needs the extra 'otel': pip install 'async-redis-cache[otel]'"
    ) from _error

from async_redis_cache import AsyncRedisCache, CacheStats, RedisCache
from async_redis_cache._api.call_outcome import (
    LOADING,
    PER_CALL,
    Attributes,
    CallOutcome,
    function_of,
    name_in_namespace,
    size_of,
)
from async_redis_cache._common.endpoint import DEFAULT_PORTS, Address, Endpoint
from async_redis_cache._common.stats import (
    COUNTED_BY_PART,
    DEPRECATED_NAMES,
    LEVELS,
    Counters,
    Part,
)
from async_redis_cache._http.cache_status import CacheStatus
from async_redis_cache._http.observers import OBSERVERS, Observe

__all__ = ["instrument"]

Cache = AsyncRedisCache | RedisCache

_SCOPE: Final = "async_redis_cache"
_DURATION: Final = "db.client.operation.duration"
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
"""In seconds, as recommended by the semantic conventions."""
_NAMESPACE: Final = "async_redis_cache.namespace"
_FUNCTION: Final = "async_redis_cache.function"
_ROUTE: Final = "async_redis_cache.route"
_RESPONSE: Final = "async_redis_cache.response"
_STORED: Final = "async_redis_cache.stored"

_CALLS: Final = (
    *("store", "retrieve", "remove", "store_many", "retrieve_many", "remove_many"),
    *("retrieve_entry", "retrieve_or_load", "retrieve_or_load_entry", "retrieve_or_load_many"),
    *("add", "incr", "decr", "refresh", "contains", "touch", "time_to_live", "invalidate_tags"),
    *("clear", "ping"),
)
_CALLS_OF_VIEWS: Final = (*_CALLS, "_acquire_lock")
"""The calls of namespaces and their cached functions."""
_UNITS: Final = {
    "stores": "{value}",
    "removals": "{value}",
    "evictions": "{value}",
    "errors": "{call}",
    "unreadable": "{value}",
    "round_trips": "{round_trip}",
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
"""Units of the counters; "{key}" for those that are not listed."""


def instrument(
    cache: Cache,
    *,
    name: str = "",
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Callable[[], None]:
    """Create spans and metrics for a cache.

    Args:
        cache: the cache, open or not.
        name: the attribute `async_redis_cache.name` of its spans and metrics; by default `options.name`, or the
            `key_prefix`.
        tracer_provider: used instead of the global one.
        meter_provider: used instead of the global one.

    Returns:
        A function that removes the instrumentation.

    Raises:
        ValueError: the cache is already instrumented.
    """
    if any(call in vars(cache) for call in _CALLS):
        raise ValueError(
            "this cache is already instrumented: call the function that instrument() returned first"
        )
    meters = _Metrics.of(meter_provider or metrics.get_meter_provider())
    instrumented = _InstrumentedCache(
        cache, name, trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
    )
    wrap = partial(instrumented.wrap, duration=meters.duration)
    views = cache._views  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    instrumented.count_with(_Counts)
    wrap(cache)
    views.prepare_each(wrap)
    meters.instrumented.add(instrumented)
    if isinstance(cache, AsyncRedisCache):
        OBSERVERS[cache] = _observer_of(instrumented, meters.responses)

    def stop() -> None:
        if instrumented in meters.instrumented:
            meters.instrumented.discard(instrumented)
            if isinstance(cache, AsyncRedisCache):
                OBSERVERS.pop(cache, None)
            views.release_each(_unwrap)
            _unwrap(cache)
            everywhere = [each for known in tuple(_METRICS.values()) for each in known.caches()]
            if all(each.counters is not instrumented.counters for each in everywhere):
                instrumented.count_with(Counters)

    return stop


def _observer_of(instrumented: _InstrumentedCache, responses: metrics.Counter) -> Observe:
    """Return an observer that does not keep the cache alive."""
    cache = ref(instrumented)

    def observe(namespace: str, route: str, status: CacheStatus) -> None:
        observed = cache()
        if observed is not None:
            observed.count_response(responses, namespace, route, status)

    return observe


def _unwrap(cache: Cache) -> None:
    for call in _calls_of(cache):
        delattr(cache, call)


def _calls_of(cache: Cache) -> tuple[str, ...]:
    return _CALLS_OF_VIEWS if _counters_of(cache).part.namespace else _CALLS


def _core_of(cache: Cache) -> AsyncRedisCache:
    return cache._cache if isinstance(cache, RedisCache) else cache  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _counters_of(cache: Cache) -> Counters:
    return _core_of(cache)._counters  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


class _InstrumentedCache:
    """Creates the spans of one cache, and provides the attributes of its metrics."""

    def __init__(self, cache: Cache, name: str, tracer: trace.Tracer) -> None:
        self.counters = _counters_of(cache)
        """Shared with the cache that `as_sync` or `as_async` has returned."""
        self.number = next(_NUMBERS)
        self._cache = cache
        self._tracer = tracer
        self._name = name
        self._server: tuple[Endpoint | None, Address | None] = (None, None)
        self._attributes = _server_attributes(None, None)

    def counts(self, field: str) -> Iterator[tuple[int, Attributes]]:
        """Yield the counts of a field, each with the attributes of its metric: one for each namespace and function."""
        attributes = self.attributes()
        for part in self.counters.each() if field in COUNTED_BY_PART else (self.counters,):
            yield int(getattr(part, field)), attributes | _part_attributes(part.part)

    def count_with(self, kind: type[Counters]) -> None:
        """Change the class of the cache's counters, which keep their values."""
        for counters in self.counters.each():
            counters.__class__ = kind

    def count_response(
        self, responses: metrics.Counter, namespace: str, route: str, status: CacheStatus
    ) -> None:
        """Count an HTTP response, and tell the current span, which is that of the request, how it was handled."""
        attributes: Attributes = {
            _NAMESPACE: namespace,
            _ROUTE: route,
            _RESPONSE: status.outcome,
            _STORED: status.stored,
        }
        trace.get_current_span().set_attributes(attributes)
        responses.add(1, self.attributes() | attributes)

    def wrap(self, cache: Cache, *, duration: metrics.Histogram) -> None:
        """Create a span for each call of the cache, or of a view of it."""
        part = _counters_of(cache).part
        for call in _calls_of(cache):
            # On the instance, so that caches without instrumentation have no overhead.
            setattr(cache, call, self._wrapped(cache, call, part, duration))

    def attributes(self) -> Attributes:
        """Return the name of the cache, and the server if it is known."""
        lifecycle = _core_of(self._cache)._lifecycle  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        engine = lifecycle.engine()
        server = lifecycle.endpoint(), None if engine is None else engine.master
        if server != self._server or engine is None:
            name = self._name or lifecycle.name
            self._server = server
            self._attributes = _server_attributes(*server) | (
                {"async_redis_cache.name": name} if name else {}
            )
        return self._attributes

    def _wrapped(
        self, cache: Cache, call: str, part: Part, duration: metrics.Histogram
    ) -> Callable[..., Any]:
        # A view has the attributes of its cache, such as a wrapped method.
        method: Callable[..., Any] = (
            getattr(cache, call)
            if cache is self._cache
            else getattr(type(cache), call).__get__(cache)
        )
        attributes = _part_attributes(part)

        @wraps(method)
        async def traced_coroutine(*args: Any, **kwargs: Any) -> Any:
            with self._span(call, attributes, duration, args, kwargs) as outcome:
                outcome.returned = await method(*args, **kwargs)
                return outcome.returned

        @wraps(method)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with self._span(call, attributes, duration, args, kwargs) as outcome:
                outcome.returned = method(*args, **kwargs)
                return outcome.returned

        return traced_coroutine if inspect.iscoroutinefunction(method) else traced

    @contextmanager
    def _span(
        self,
        call: str,
        part: Attributes,
        duration: metrics.Histogram,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Generator[CallOutcome]:
        attributes: Attributes = {**self.attributes(), **part, "db.operation.name": call}
        if call in LOADING:
            attributes[_FUNCTION] = function_of(args, kwargs)
        size = size_of(call, args, kwargs)
        target = attributes.get("db.namespace")
        if _NAMESPACE in part:
            target = part[_NAMESPACE]
            attributes["db.operation.name"] = name_in_namespace(call, args)
        outcome = CallOutcome(call)
        token = _COUNTED.set(outcome.counted)
        started = time.perf_counter()
        with self._tracer.start_as_current_span(
            call if target is None else f"{attributes['db.operation.name']} {target}",
            kind=trace.SpanKind.CLIENT,
            attributes=attributes
            if size is None
            else {**attributes, "db.operation.batch.size": size},
            # The message and the stack of a loader's exception may contain anything.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield outcome
            except Exception as error:
                failed = outcome.failed(error)
                attributes |= failed
                span.set_attributes(failed)
                if "error.type" in failed:
                    span.set_status(trace.StatusCode.ERROR)
                raise
            else:
                result = outcome.result()
                attributes |= result
                span.set_attributes(result | outcome.counts())
            finally:
                _COUNTED.reset(token)
                duration.record(time.perf_counter() - started, attributes)


class _Counts(Counters):
    """The counters of an instrumented cache: they also count for the current call.

    A cache without instrumentation uses a plain `Counters`, which has no overhead.
    """

    __slots__ = ()


def _counter(name: str) -> property:
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
"""The counters of the current call. A load or refresh runs in the context of the call that started it."""
for _name in PER_CALL:
    setattr(_Counts, _name, _counter(_name))


class _Metrics:
    """The instruments of one meter provider, shared by all caches that are instrumented with it."""

    def __init__(self, provider: metrics.MeterProvider) -> None:
        # Weak references: a cache that is dropped without being closed can be collected.
        self.instrumented: WeakSet[_InstrumentedCache] = WeakSet()
        meter = provider.get_meter(_SCOPE)
        self.duration = meter.create_histogram(
            _DURATION,
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.responses = meter.create_counter(
            f"{_SCOPE}.responses",
            unit="{response}",
            description="HTTP responses, by route and how the cache handled the request.",
        )
        names = {field.name: field.name for field in fields(CacheStats)}
        deprecated = {old: new for new, old in DEPRECATED_NAMES.items()}
        for name, field in (names | deprecated).items():
            arguments = (
                f"{_SCOPE}.{name}",
                (partial(self._observe, field),),
                _UNITS.get(field, "{key}"),
                f"Deprecated: use {_SCOPE}.{field}" if name in deprecated else f"stats().{field}",
            )
            if field in LEVELS:
                meter.create_observable_up_down_counter(*arguments)
            else:
                meter.create_observable_counter(*arguments)

    @classmethod
    def of(cls, provider: metrics.MeterProvider) -> _Metrics:
        """Return the instruments of a provider, which refuses a second set with the same names."""
        with _LOCK:
            if provider not in _METRICS:
                _METRICS[provider] = cls(provider)
            return _METRICS[provider]

    def caches(self) -> list[_InstrumentedCache]:
        """Return the instrumented caches, latest first: of those that share counters, the first one reports them."""
        return sorted(self.instrumented, key=lambda each: each.number, reverse=True)

    def _observe(
        self, field: str, _options: metrics.CallbackOptions
    ) -> Iterable[metrics.Observation]:
        for instrumented in {id(each.counters): each for each in self.caches()}.values():
            for number, attributes in instrumented.counts(field):
                yield metrics.Observation(number, attributes)


_NUMBERS: Final = count()
_LOCK: Final = threading.Lock()
_METRICS: Final[WeakKeyDictionary[metrics.MeterProvider, _Metrics]] = WeakKeyDictionary()


def _part_attributes(part: Part) -> Attributes:
    """Return the names of the namespace and the cached function of a call."""
    attributes: Attributes = {}
    if part.namespace:
        attributes[_NAMESPACE] = part.namespace
    if part.function:
        attributes[_FUNCTION] = part.function
    return attributes


def _server_attributes(endpoint: Endpoint | None, master: Address | None) -> Attributes:
    attributes: Attributes = {"db.system.name": "redis"}
    if endpoint is None:
        return attributes
    if endpoint.topology != "cluster":
        attributes["db.namespace"] = str(endpoint.database)
    if master is not None:
        endpoint = endpoint.at(master)
    if endpoint.topology == "single":
        attributes["server.address"] = endpoint.path or endpoint.host
        if not endpoint.path and endpoint.port != DEFAULT_PORTS["single"]:
            attributes["server.port"] = endpoint.port
    return attributes
