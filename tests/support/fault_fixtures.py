"""Fixtures of the fault-injection tests.

A test module takes the fixtures by `pytest_plugins = ["fault_fixtures"]`.
"""

from __future__ import annotations

import pytest

from async_redis_cache._engine.pending_invalidations import PendingInvalidations


@pytest.fixture
def no_pending_invalidations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed changes are not kept as pending invalidations, so that nothing repeats them."""

    def forget(debts: PendingInvalidations, keys: object, failure: object) -> None:
        pass

    monkeypatch.setattr(PendingInvalidations, "add", forget)
