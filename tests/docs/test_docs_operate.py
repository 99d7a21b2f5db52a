"""The lists of the operator's page match the code."""

from __future__ import annotations

import logging
import re
from dataclasses import fields

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from async_redis_cache import AsyncRedisCache, CacheStats
from async_redis_cache._common.log_events import EVENTS
from async_redis_cache._common.stats import DEPRECATED_NAMES, LEVELS
from async_redis_cache.otel import instrument
from code_blocks import ROOT
from test_docs_tables import REFERENCE, rows

PAGE = ROOT / "docs" / "how-to" / "operate.md"


def test_every_event_is_listed() -> None:
    """The table has each event with its level and message, in the same order."""
    cells = re.findall(
        r"^\| `(\w+)` \| (ERROR|WARNING|INFO) \| (.*?) \|", PAGE.read_text(), re.MULTILINE
    )
    assert cells == [
        (event.name, logging.getLevelName(event.level), event.text) for event in EVENTS
    ]


def test_alerts_are_on_fields_that_exist() -> None:
    """What to alert on is in `stats()`."""
    names = {field.name for field in fields(CacheStats)}
    watched = {name for row in rows(PAGE, "## What to alert on") for name in row[0]}
    assert watched
    assert watched <= names


def test_each_code_has_a_runbook_entry() -> None:
    """Each code that can be met is in the table, once."""
    codes = [code for row in rows(PAGE, "## What an error means") for code in row[1]]
    explained = [row[0][0] for row in rows(REFERENCE / "errors.md", "## By code")]
    assert sorted(codes) == sorted(explained)


def test_every_metric_is_listed() -> None:
    """Each counter and metric stands in the table, with unit and kind, in the order of `stats()`.

    The deprecated names are in the changelog only.
    """
    deprecated = {f"async_redis_cache.{name}" for name in DEPRECATED_NAMES.values()}
    reader = InMemoryMetricReader()
    cache = AsyncRedisCache.from_url("redis://127.0.0.1:1")
    instrument(cache, meter_provider=MeterProvider([reader]))
    data = reader.get_metrics_data()
    assert data is not None
    (metrics,) = [scope.metrics for one in data.resource_metrics for scope in one.scope_metrics]
    sums = [
        (metric.name, metric.unit, metric.data)
        for metric in metrics
        if metric.name not in deprecated
    ]
    listed = re.findall(
        r"^\| `cache\.(\w+)` \| (\w+) \| `(\S+)` \| `(\S+)` \| (\w+) \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    assert [metric for _, _, *metric in listed] == [
        [name, unit, "Counter" if data.is_monotonic else "UpDownCounter"]
        for name, unit, data in sums
        if isinstance(data, Sum)
    ]
    assert [(name, how) for name, how, *_ in listed] == [
        (field.name, "last" if field.name in LEVELS else "increment")
        for field in fields(CacheStats)
    ]
    assert len(sums) == len(fields(CacheStats))
