"""In-memory spans and metrics of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from async_redis_cache.otel import instrument

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_redis_cache import AsyncRedisCache, RedisCache


class Telemetry:
    """Collects the spans and metrics of a test in memory."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])

    def of(self, cache: Any, name: str = "") -> Callable[[], None]:
        """Instrument a cache of either API."""
        api: AsyncRedisCache | RedisCache = getattr(cache, "blocking", cache)
        return instrument(api, name=name, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended since the last call."""
        spans = list(self._spans.get_finished_spans())
        self._spans.clear()
        return spans

    def metrics(self) -> dict[str, list[Any]]:
        """The current data points by metric."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def said_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})
