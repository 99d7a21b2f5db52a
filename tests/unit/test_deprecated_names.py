"""Names that were replaced keep working for one release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from async_redis_cache import AsyncRedisCache, CacheStats
from async_redis_cache._common.health_log import HealthLog
from async_redis_cache._common.log_events import DEPRECATED_EVENT_NAMES, EVENTS
from async_redis_cache._common.stats import DEPRECATED_NAMES
from async_redis_cache._runtime.monitors import _growth, _levels
from harness.telemetry import Telemetry

if TYPE_CHECKING:
    from log_fixtures import LogRecorder

pytest_plugins = ["log_fixtures", "otel_fixtures"]

RENAMED = sorted(DEPRECATED_NAMES.items())


@pytest.mark.parametrize(("new", "old"), RENAMED)
def test_deprecated_field_warns_and_reads_new_field(new: str, old: str) -> None:
    """The warning names the replacement and points at the line that reads the old name."""
    stats = CacheStats(**{new: 7})  # type: ignore[arg-type]
    message = f"`CacheStats.{old}` is deprecated: use `{new}`"
    with pytest.warns(DeprecationWarning, match=message) as warnings:
        assert getattr(stats, old) == 7
    assert warnings[0].filename == __file__


@pytest.mark.parametrize(("new", "old"), RENAMED)
def test_deprecated_field_is_read_only(new: str, old: str) -> None:
    """The old name can be neither assigned nor passed to the constructor, and is not in the `repr`."""
    stats = CacheStats()
    with pytest.raises(AttributeError):
        setattr(stats, old, 1)
    with pytest.raises(TypeError):
        CacheStats(**{old: 1})  # type: ignore[arg-type]
    assert f"{new}=" in repr(stats)
    assert f" {old}=" not in repr(stats)


def test_counters_have_both_names() -> None:
    """The container's counters get a renamed field under both names, with the same value."""
    before = CacheStats()
    now = CacheStats(
        uncacheable_results=2, superseded_loads=3, pending_invalidations=4, open_circuits=5
    )
    counters = {**_growth(before, now), **_levels(now)}
    for new, old in RENAMED:
        assert counters[f"cache.{new}"] == counters[f"cache.{old}"] == getattr(now, new)


def test_metrics_have_both_names(telemetry: Telemetry) -> None:
    """A renamed field is a metric under both names, with the same value and kind."""
    cache = AsyncRedisCache.from_url("redis://127.0.0.1:1")
    telemetry.of(cache)
    cache._counters.superseded_loads = 3
    cache._counters.near_connected = True
    metrics = telemetry.metrics()
    for new, old in RENAMED:
        (point,) = metrics[f"async_redis_cache.{new}"]
        (deprecated,) = metrics[f"async_redis_cache.{old}"]
        assert point.value == deprecated.value == int(getattr(cache.stats(), new))


def test_log_records_have_both_names(logged: LogRecorder) -> None:
    """The record of a renamed event has its former name as well, and that of another event an empty string."""
    health_log = HealthLog("here")
    health_log.begin()
    for event in EVENTS:
        health_log.once(event)
    assert logged.events == [event.name for event in EVENTS]
    assert DEPRECATED_EVENT_NAMES.keys() < set(logged.events)
    for record in logged.records:
        attributes = record.__dict__
        expected = DEPRECATED_EVENT_NAMES.get(attributes["cache_event"], "")
        assert attributes["cache_event_deprecated"] == expected
