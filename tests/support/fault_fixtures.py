"""What the tests of bad weather share.

A test module takes the fixtures by `pytest_plugins = ["fault_fixtures"]`.
"""

from __future__ import annotations

import pytest

from async_redis_cache._engine.pending_invalidations import Debts


@pytest.fixture
def not_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that fails is left alone, to see what becomes of it."""

    def forget(debts: Debts, keys: object, failure: object) -> None:
        pass

    monkeypatch.setattr(Debts, "owe", forget)
