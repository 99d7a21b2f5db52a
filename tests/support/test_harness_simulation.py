"""The simulation can fail: planted defects break a promise under some seed."""

from __future__ import annotations

import gc
import math
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache._api.batch_loading import AsyncBatchLoading
from async_redis_cache._api.load_request import NO_LOOKUP, LoadRequest, Lookup, lookup
from async_redis_cache._calls import cached_calls as _calls
from async_redis_cache._client.batcher import Batcher
from async_redis_cache._client.request import Request
from async_redis_cache._common.failures import Failure
from async_redis_cache._connection.pool import ConnectionPool
from async_redis_cache._engine import single_flight as _loading
from async_redis_cache._engine.in_flight_load import InFlightLoad
from async_redis_cache._engine.load_lease import LoadLease
from async_redis_cache._engine.load_source import LoadSpec
from async_redis_cache._engine.near_cache import NearCache
from async_redis_cache._engine.pending_invalidations import PendingInvalidations
from async_redis_cache._engine.single_flight import SingleFlight
from async_redis_cache._protocol import lease_scripts as _leases
from harness.simulated import first_broken
from harness.simulated_loop import SimulatedLoop

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 600
"""Seeds within which a planted defect is found."""
RARE = 290
"""From which seed on what is found once in some hundreds is looked for, to be found soon."""


def do_nothing(*_: object) -> None:
    """In place of what is to be done."""


def keep_what_has_changed(patch: pytest.MonkeyPatch) -> None:
    """Near: store a reply though its key has changed since the request."""
    settle = NearCache.fill

    def careless(self: NearCache, lease: Any, data: bytes | None, left: int) -> None:
        if lease is not None:
            self._pending_fills[lease.key] = lease
        settle(self, lease, data, left)

    patch.setattr(NearCache, "fill", careless)


def trust_a_lost_link(patch: pytest.MonkeyPatch) -> None:
    """Near: return local entries after the channel was lost."""

    def careless(self: NearCache) -> None:
        self._connected_until = self._current_until = -math.inf
        self._counters.near_connected = False

    patch.setattr(NearCache, "disconnected", careless)


def publish_anyway(patch: pytest.MonkeyPatch) -> None:
    """Loading: publish though the right to load is gone."""
    check = b"if not holds(header_of(key), token) then return nil end"
    assert check in _leases._PUBLISH
    for name in ("_PUBLISH", "_PUBLISH_BOUNDED"):
        patch.setattr(_leases, name, getattr(_leases, name).replace(check, b""))


def serve_what_is_overtaken(patch: pytest.MonkeyPatch) -> None:
    """Loading: let callers join a load that their own process has superseded."""
    patch.setattr(SingleFlight, "supersede", do_nothing)


def give_late_what_is_invalid(patch: pytest.MonkeyPatch) -> None:
    """Loading: return the result to all joiners, whatever happened to its tags."""
    patch.setattr(InFlightLoad, "serves_below", property(lambda _: math.inf, do_nothing))


def forget_what_failed(patch: pytest.MonkeyPatch) -> None:
    """Changes: forget those that failed."""
    patch.setattr(PendingInvalidations, "add", do_nothing)


def watch_no_deadline(patch: pytest.MonkeyPatch) -> None:
    """Calls: let no deadline end them."""
    patch.setattr(Batcher, "_set_timer", do_nothing)


def believe_what_many_have_read(patch: pytest.MonkeyPatch) -> None:
    """Many: give what was read, whatever became of its tags and of its time."""

    async def careless(_: object, read: tuple[LoadRequest, bytes | None]) -> Lookup:
        asked, data = read
        return NO_LOOKUP if data is None else lookup(asked, data)

    patch.setattr(AsyncBatchLoading, "_lookup_read", careless)


def load_many_on_and_on(patch: pytest.MonkeyPatch) -> None:
    """Many: do not cancel a batch without waiters."""
    create_task = SimulatedLoop.create_task

    def uncancelled(self: SimulatedLoop, work: Any, **about: Any) -> Any:
        task = create_task(self, work, **about)
        if work.__qualname__ == "Batch._load":
            patch.setattr(task, "cancel", do_nothing)
        return task

    patch.setattr(SimulatedLoop, "create_task", uncancelled)


def take_one_call_for_another(patch: pytest.MonkeyPatch) -> None:
    """Decorator: know all calls of a function by the same key."""

    def careless(*_: object) -> str:
        return "a"

    patch.setattr(_calls.Calls, "key", careless)


def load_for_each_without_server(patch: pytest.MonkeyPatch) -> None:
    """Loading: share no load where the server could not be asked."""
    serves = InFlightLoad.serves

    def careless(self: InFlightLoad, wanted: LoadSpec) -> bool:
        return wanted.read is not None and serves(self, wanted)

    patch.setattr(InFlightLoad, "serves", careless)


def go_on_only_if_it_is_easy(patch: pytest.MonkeyPatch) -> None:
    """Loading: fail when the server becomes unreachable during the lease request."""
    patch.setattr(_loading, "SERVER_FAILURES", ())


def close_connections_last(patch: pytest.MonkeyPatch) -> None:
    """Close: drop the connections only when all else has ended, which a cancelled close never sees."""
    stop, stopped = ConnectionPool.stop, ConnectionPool.stopped

    async def late(self: ConnectionPool) -> None:
        stop(self)
        await stopped(self)

    patch.setattr(ConnectionPool, "stop", do_nothing)
    patch.setattr(ConnectionPool, "stopped", late)


def close_without_a_word(patch: pytest.MonkeyPatch) -> None:
    """Close: leave waiting callers without an error."""

    def careless(self: Batcher) -> None:
        self._closed = True

    patch.setattr(Batcher, "close", careless)


def deny_what_was_sent(patch: pytest.MonkeyPatch) -> None:
    """Close: say of what is on its way that it was not done."""
    fail = Request.fail

    def careless(self: Request, failure: Failure) -> None:
        self.maybe_executed &= failure.code != "NOT_OPENED"
        fail(self, failure)

    patch.setattr(Request, "fail", careless)


def wait_until_told(patch: pytest.MonkeyPatch) -> None:
    """Death: wait for a notification of another process, however long there is none."""
    look_on = LoadLease._poll

    async def patient(self: LoadLease, _: float) -> None:
        await look_on(self, math.inf)

    patch.setattr(LoadLease, "_poll", patient)


def hold_the_right_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Death: let the lease of a dead process last."""
    ends = b"local ends = now() + ttl"
    assert ends in _leases._LEASE
    endless = _leases._LEASE.replace(ends, b"ttl = 1000 * ttl " + ends)
    patch.setattr(_leases, "_LEASE", endless)
    patch.setattr(_leases.LEASE, "_source", endless)


def grant_the_right_to_two(patch: pytest.MonkeyPatch) -> None:
    """Loading: grant the right to load though another holds it."""
    held = b"if not force and remaining > 0 and held then return remaining end"
    assert held in _leases._LEASE
    generous = _leases._LEASE.replace(held, b"")
    patch.setattr(_leases, "_LEASE", generous)
    patch.setattr(_leases.LEASE, "_source", generous)


# A run that a defect breaks off leaves coroutines in the midst of it, which are collected here.
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
        believe_what_many_have_read,
        load_many_on_and_on,
        take_one_call_for_another,
        load_for_each_without_server,
        go_on_only_if_it_is_easy,
        close_connections_last,
        close_without_a_word,
        deny_what_was_sent,
        wait_until_told,
        hold_the_right_for_ever,
        grant_the_right_to_two,
    ],
)
def test_a_planted_defect_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeds can fail: each of these mistakes breaks a promise within some hundreds of them."""
    plant(monkeypatch)
    first = RARE if plant is give_late_what_is_invalid else 0
    broken = first_broken(range(first, first + MOST))
    gc.collect()
    assert broken is not None
