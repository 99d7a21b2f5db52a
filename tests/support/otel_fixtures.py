"""In-memory spans and metrics, for the tests that take `telemetry`.

A test module takes the fixture by `pytest_plugins = ["otel_fixtures"]`.
"""

from __future__ import annotations

import pytest

from harness.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()
