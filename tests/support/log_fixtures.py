"""What the library tells the log, for the tests that ask for `told`.

A test module takes the fixture by `pytest_plugins = ["log_fixtures"]`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Told(logging.Handler):
    """The records of a test, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def events(self) -> list[str]:
        """By name."""
        return [record.__dict__["cache_event"] for record in self.records]

    def count(self, *events: str) -> int:
        """How often any of these was told."""
        return sum(event in events for event in self.events)


@pytest.fixture
def told() -> Iterator[Told]:
    logger = logging.getLogger("async_redis_cache")
    handler = Told()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)
