"""The simulation can fail: defects that are planted break a promise under some seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache import _leases
from async_redis_cache._batcher import Batcher
from async_redis_cache._debts import Debts
from async_redis_cache._flights import Flight
from async_redis_cache._loading import Loading
from async_redis_cache._near_cache import NearCache
from harness.simulated import first_broken

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 600
"""Seeds within which a planted defect is found."""


def do_nothing(*_: object) -> None:
    """In place of what is to be done."""


def keep_what_has_changed(patch: pytest.MonkeyPatch) -> None:
    """Near: keep an answer though its key has changed since it was asked for."""
    settle = NearCache.settle

    def careless(self: NearCache, lease: Any, data: bytes | None, left: int) -> None:
        if lease is not None:
            self._leases[lease.key] = lease
        settle(self, lease, data, left)

    patch.setattr(NearCache, "settle", careless)


def trust_a_lost_link(patch: pytest.MonkeyPatch) -> None:
    """Near: go on with what was near when the link was lost."""

    def careless(self: NearCache) -> None:
        self._trusted_until = self._sure_until = -math.inf
        self._counters.near_trusted = False

    patch.setattr(NearCache, "distrust", careless)


def publish_anyway(patch: pytest.MonkeyPatch) -> None:
    """Loading: publish though the right to load is gone."""
    check = b"if not holds(head_of(key), token) then return nil end"
    assert check in _leases._PUBLISH
    for name in ("_PUBLISH", "_PUBLISH_BOUNDED"):
        patch.setattr(_leases, name, getattr(_leases, name).replace(check, b""))


def serve_what_is_overtaken(patch: pytest.MonkeyPatch) -> None:
    """Loading: let callers join a load that their own process has overtaken."""
    patch.setattr(Loading, "overtaken", do_nothing)


def give_late_what_is_invalid(patch: pytest.MonkeyPatch) -> None:
    """Loading: give all who have joined a load what it loads, whatever became of its tags."""
    patch.setattr(Flight, "good_below", property(lambda _: math.inf, do_nothing))


def forget_what_failed(patch: pytest.MonkeyPatch) -> None:
    """Changes: forget those that failed."""
    patch.setattr(Debts, "owe", do_nothing)


def watch_no_deadline(patch: pytest.MonkeyPatch) -> None:
    """Calls: let no deadline end them."""
    patch.setattr(Batcher, "_watch_for", do_nothing)


# A run that a defect breaks off leaves coroutines in the midst of it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "plant",
    [
        keep_what_has_changed,
        trust_a_lost_link,
        publish_anyway,
        serve_what_is_overtaken,
        give_late_what_is_invalid,
        forget_what_failed,
        watch_no_deadline,
    ],
)
def test_a_planted_defect_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeds can fail: each of these mistakes breaks a promise within some hundreds of them."""
    plant(monkeypatch)
    assert first_broken(range(MOST)) is not None
