"""Where spans and metrics go, for the tests that ask for `telemetry`.

A test module takes the fixture by `pytest_plugins = ["otel_fixtures"]`.
"""

from __future__ import annotations

import pytest

from harness.telemetry import Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()
