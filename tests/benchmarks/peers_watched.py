"""This library with a span and a measured duration for each call, beside itself without."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from async_redis_cache.otel import instrument

from .peers import AsyncPeer
from .peers_ours import Ours
from .servers import Target
from .workloads import UNWATCHED


class Watched(Ours):
    """Spans are made and sampled by the SDK, and sent nowhere: that costs what the exporter costs."""

    async def open(self, server: Target) -> None:
        await super().open(server)
        self._stop = instrument(
            self._cache,
            tracer_provider=TracerProvider(),
            meter_provider=MeterProvider([InMemoryMetricReader()]),
        )

    async def close(self) -> None:
        self._stop()
        await super().close()


def watched() -> list[AsyncPeer]:
    """With spans, and without."""
    return [Watched(), Ours(UNWATCHED)]
