"""The log records of the library, for the tests that take `logged`.

A test module takes the fixture by `pytest_plugins = ["log_fixtures"]`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class LogRecorder(logging.Handler):
    """Collects the records of a test in order."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def events(self) -> list[str]:
        """The events of the records, by name."""
        return [record.__dict__["cache_event"] for record in self.records]

    def count(self, *events: str) -> int:
        """The number of records of any of these events."""
        return sum(event in events for event in self.events)


@pytest.fixture
def logged() -> Iterator[LogRecorder]:
    logger = logging.getLogger("async_redis_cache")
    handler = LogRecorder()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)
