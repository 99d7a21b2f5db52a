"""Requests that are refused, lost or late: retries, errors and deadlines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest

from async_redis_cache import (
    CacheError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CachePermissionError,
    CacheServerError,
    CacheStateError,
    CacheTimeout,
    CacheUnavailable,
)
from async_redis_cache._common.backoff import LOADING_PAUSE, RetryBackoff
from async_redis_cache._common.failures import LOST
from async_redis_cache._protocol.commands import (
    GET,
    GET_WITH_TTL,
    GETDEL,
    PTTL,
    UNLINK,
    UNLINK_COUNT,
)
from harness import await_until
from harness.batcher_requests import busy, read, store
from harness.fake_connection import Wires
from harness.virtual_time import VirtualTimeLoop, in_virtual_time, turns
from harness.waiting import POLL_SECONDS

WATCH_SECONDS = 0.005
"""The one timer looks no more often than this."""


@in_virtual_time
@pytest.mark.parametrize("retries", [0, 3])
async def test_forbidden_key_fails_no_other_request(retries: int) -> None:
    """The server refuses a merged MGET as a whole; then each of its keys is asked for alone."""
    wires = Wires(retries=retries)
    await busy(wires)
    calls = {key: read(wires, key) for key in (b"a", b"forbidden", b"c")}
    wires.wire.answer([None])
    await turns()
    wires.wire.answer("NOPERM no permissions to access a key")
    for key in calls:
        await turns()
        assert wires.wire.commands == [(b"MGET", key)]
        wires.wire.answer("NOPERM" if key == b"forbidden" else [key])
    assert await calls[b"a"] == b"a"
    assert await calls[b"c"] == b"c"
    with pytest.raises(CacheError) as caught:
        await calls[b"forbidden"]
    assert caught.value.code == "NOPERM"


@in_virtual_time
async def test_retried_request_goes_first() -> None:
    """Requests of a broken pipeline have waited longest: they are sent first, in order."""
    wires = Wires()
    await busy(wires)
    broken = [read(wires, b"a"), read(wires, b"b")]
    wires.wire.answer([None])
    await turns()
    late = read(wires, b"c")
    wires.wire.lose()
    await turns()
    assert wires.wire.commands == [(b"MGET", b"a", b"b", b"c")]
    wires.wire.answer([b"1", b"2", b"3"])
    assert await asyncio.gather(*broken, late) == [b"1", b"2", b"3"]
    assert wires.counters.retries == 2


@in_virtual_time
@pytest.mark.parametrize(
    ("size", "most_calls", "most_bytes"),
    [(1, 3, 1_000_000), (400, 1_000, 1_500)],
    ids=["calls", "bytes"],
)
async def test_requeued_request_is_counted_again(
    size: int, most_calls: int, most_bytes: int
) -> None:
    """What may wait is bounded also where an exchange broke, and is no less when that is over."""
    wires = Wires(most_calls=most_calls, most_bytes=most_bytes)
    await busy(wires)
    calls = [store(wires, b"%d" % number, bytes(size)) for number in range(3)]
    wires.wire.answer([None])
    await turns()
    wires.wire.lose()
    with pytest.raises(CacheOverloaded):
        store(wires, b"one too many", bytes(size))
    await turns()
    wires.wire.answer(*[b"OK"] * 3)
    assert await asyncio.gather(*calls) == [None] * 3
    await busy(wires)
    for number in range(3):
        store(wires, b"%d" % number, bytes(size)).cancel()
    with pytest.raises(CacheOverloaded):
        store(wires, b"one too many", bytes(size))


@in_virtual_time
async def test_retried_request_keeps_the_pipeline_bound() -> None:
    """A thousand keys of a broken pipeline are not sent together with everything that came meanwhile."""
    wires = Wires()
    await busy(wires)
    calls = [read(wires, b"%d" % number) for number in range(1_000)]
    wires.wire.answer([None])
    await turns()
    calls += [read(wires, b"%d" % number) for number in range(1_000, 1_100)]
    wires.wire.lose()
    sent: list[int] = []
    while not all(call.done() for call in calls):
        await turns()
        ((_, *keys),) = wires.wire.commands
        sent.append(len(keys))
        wires.wire.answer(list(keys))
    assert sent == [1024, 76]


@in_virtual_time
async def test_isolated_request_is_sent_alone() -> None:
    """Whatever is queued before and after it, if one key of a pipeline was refused."""
    wires = Wires(wires=2)
    await busy(wires)
    lost = store(wires, b"lost")
    refused = [read(wires, b"a"), read(wires, b"forbidden")]
    one, other = wires.pool.exchanges
    one.answer([None])
    await turns()
    one.answer("NOPERM no permissions to access a key")
    behind = [store(wires, b"s"), store(wires, b"t")]
    other.lose()
    sent: list[list[tuple[bytes, ...]]] = []
    while not all(call.done() for call in (lost, *refused, *behind)):
        await turns()
        for wire in tuple(wires.pool.exchanges):
            sent.append([words[:2] for words in wire.commands])
            replies = {b"a": [b"1"], b"forbidden": "NOPERM"}
            wire.answer(*[replies.get(key, b"OK") for _, key in sent[-1]])
    assert sent == [
        [(b"SET", b"lost")],
        [(b"MGET", b"a")],
        [(b"MGET", b"forbidden")],
        [(b"SET", b"s"), (b"SET", b"t")],
    ]
    assert await asyncio.gather(lost, refused[0], *behind) == [None, b"1", None, None]
    with pytest.raises(CachePermissionError):
        await refused[1]


@in_virtual_time
async def test_isolated_request_keeps_its_retries() -> None:
    """That one of the keys of an exchange was refused costs none: neither more nor fewer are there for the rest."""
    wires = Wires(retries=2)
    await busy(wires)
    call, refused = read(wires, b"a"), read(wires, b"forbidden")
    wires.wire.answer([None])
    await turns()
    wires.wire.answer("NOPERM no permissions to access a key")
    await turns()
    for _ in range(3):
        assert not call.done()
        assert wires.wire.commands == [(b"MGET", b"a")]
        wires.wire.lose()
        await turns()
    with pytest.raises(CacheUnavailable):
        await call
    assert wires.wire.commands == [(b"MGET", b"forbidden")]
    wires.wire.answer("NOPERM")
    with pytest.raises(CachePermissionError):
        await refused


@in_virtual_time
async def test_cancelled_request_is_not_retried() -> None:
    """A call whose callers have all gone while it was under way ends with its exchange."""
    wires = Wires()
    await busy(wires)
    gone, stayed = read(wires, b"a"), read(wires, b"b")
    wires.wire.answer([None])
    await turns()
    gone.cancel()
    wires.wire.lose()
    await turns()
    assert wires.wire.commands == [(b"MGET", b"b")]
    assert wires.counters.retries == 1
    wires.wire.answer([b"1"])
    assert await stayed == b"1"


@in_virtual_time
@pytest.mark.parametrize(("ask", "kind"), [(read, CacheUnavailable), (store, CacheOutcomeUnknown)])
async def test_expired_request_is_not_retried(
    ask: Callable[[Wires, bytes], asyncio.Future[Any]], kind: type[CacheError]
) -> None:
    """A request whose connection ends at its deadline, before the timer fires, gets its outcome."""
    wires = Wires()
    call = ask(wires, b"a")
    await turns()
    cast("VirtualTimeLoop", wires.loop).pass_time(1.5)
    wires.wire.lose()
    with pytest.raises(kind):
        await call
    await turns()
    assert wires.pool.exchanges == []
    assert wires.counters.retries == 0
    assert wires.health == ["CONNECTION_LOST"]


@in_virtual_time
async def test_retries_are_counted_and_come_to_an_end() -> None:
    """After the last one the call raises the failure, each caller with an error of its own."""
    wires = Wires(retries=2)
    await busy(wires)
    callers = [read(wires, b"a"), read(wires, b"a")]
    wires.wire.answer([None])
    for _ in range(3):
        await turns()
        wires.wire.lose()
    errors = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(error) for error in errors] == [CacheUnavailable, CacheUnavailable]
    assert errors[0] is not errors[1]
    assert wires.counters.retries == 2


@in_virtual_time
async def test_write_whose_reply_was_lost_raises_unknown() -> None:
    """A retried store has a certain result; a retried removal only counts what it still found."""
    wires = Wires()
    await busy(wires)
    stored = store(wires, b"s")
    taken, gone = (wires.batcher.execute(GETDEL, (key,), 32) for key in (b"t", b"u"))
    counted, missed = (wires.batcher.execute(UNLINK_COUNT, (key,), 32) for key in (b"v", b"w"))
    forgotten = wires.batcher.execute(UNLINK, (b"x",), 32)
    wires.wire.answer([None])
    await turns()
    wires.wire.lose()
    await turns()
    wires.wire.answer(b"OK", b"found", None, 1, 0, 0)
    assert await stored is None
    assert await taken == b"found"
    assert await counted == 1
    assert await forgotten == 0
    for future in (gone, missed):
        with pytest.raises(CacheOutcomeUnknown):
            await future


@in_virtual_time
async def test_forbidden_key_fails_no_read_with_ttl() -> None:
    """A merged MGET with its PTTLs is taken apart as one without is."""
    wires = Wires(retries=0)
    await busy(wires)
    good, bad = (wires.batcher.execute(GET_WITH_TTL, key, 8) for key in (b"a", b"forbidden"))
    wires.wire.answer([None])
    await turns()
    wires.wire.answer("NOPERM no permissions to access a key", 5, "NOPERM")
    await turns()
    assert wires.wire.commands == [(b"MGET", b"a"), (b"PTTL", b"a")]
    wires.wire.answer([b"1"], 5)
    await turns()
    wires.wire.answer("NOPERM", "NOPERM")
    assert await good == (b"1", 5)
    with pytest.raises(CachePermissionError):
        await bad


@in_virtual_time
async def test_impossible_ttl_raises() -> None:
    """PTTL gives a number, or the connection is out of step."""
    wires = Wires(retries=0)
    future = wires.batcher.execute(GET_WITH_TTL, b"a", 8)
    wires.wire.answer([b"1"], b"5")
    with pytest.raises(CacheServerError) as caught:
        await future
    assert caught.value.code == "PROTOCOL_ERROR"


@in_virtual_time
async def test_impossible_replies_raise() -> None:
    """The connection is ended, and the calls are tried again on another."""
    wires = Wires(retries=1)
    future = read(wires, b"a")
    wires.wire.answer([b"1", b"2"])
    await turns()
    assert len(wires.pool.wires) == 1
    wires.wire.answer(7)
    with pytest.raises(CacheServerError) as caught:
        await future
    assert caught.value.code == "PROTOCOL_ERROR"


@in_virtual_time
async def test_failing_server_gets_one_pipeline_at_a_time() -> None:
    """After a failure, queued requests wait for the next reply, even if a connection is idle."""
    wires = Wires(2, retries=100, budget=10.0)
    first = read(wires, b"a")
    wires.wire.answer("LOADING Redis is loading the dataset in memory")
    second = read(wires, b"b")
    await await_until(lambda: wires.pool.exchanges)
    third = read(wires, b"c")
    await turns()
    (exchange,) = wires.pool.exchanges
    exchange.answer([b"1", b"2"])
    assert [await first, await second] == [b"1", b"2"]
    await turns()
    wires.wire.answer([b"3"])
    assert await third == b"3"


@in_virtual_time
async def test_refusing_server_is_retried_after_a_pause() -> None:
    """Pauses between tries in a row grow to 140 ms, and a good answer ends them."""
    wires = Wires(retries=100, budget=10.0)
    future = read(wires, b"a")
    sent_at: list[float] = []
    for _ in range(12):
        await await_until(lambda: wires.pool.exchanges)
        sent_at.append(wires.loop.time())
        wires.wire.answer("MASTERDOWN Link with MASTER is down")
    pauses = [later - sooner for sooner, later in itertools.pairwise(sent_at)]
    assert pauses[0] <= POLL_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(0.140, abs=POLL_SECONDS)
    await await_until(lambda: wires.pool.exchanges)
    wires.wire.answer([b"1"])
    assert await future == b"1"
    # The row has ended: the next failure is a first one again, which costs no pause.
    again = read(wires, b"a")
    wires.wire.answer("MASTERDOWN")
    await turns()
    wires.wire.answer([b"2"])
    assert await again == b"2"


@in_virtual_time
async def test_loading_server_is_retried_seldom() -> None:
    """Each pause is longer, the first one included: at most seven tries a second."""
    wires = Wires(retries=100, budget=10.0)
    future = read(wires, b"a")
    sent_at: list[float] = []
    for _ in range(20):
        await await_until(lambda: wires.pool.exchanges)
        sent_at.append(wires.loop.time())
        wires.wire.answer("LOADING Redis is loading the dataset in memory")
    assert all(later - at > 1 for at, later in zip(sent_at, sent_at[7:], strict=False))
    await await_until(lambda: wires.pool.exchanges)
    wires.wire.answer([b"1"])
    assert await future == b"1"


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_pauses_double_with_each_failure_in_a_row(chance: float, share: float) -> None:
    """From none to 140 ms, however long the row; by chance a tenth less or more. A good answer ends it."""
    now = 1_000.0
    backoff = RetryBackoff(lambda: now, lambda: chance)
    for _ in range(2):
        assert not backoff.has_failed
        assert backoff.remaining() == 0.0
        for pause in (0.0, 0.02, 0.04, 0.08, *[0.14] * 2_000):
            backoff.failed()
            assert backoff.has_failed
            assert backoff.remaining() == pytest.approx(share * pause)
        now += 0.04
        assert backoff.remaining() == pytest.approx(share * 0.14 - 0.04)
        now += 1.0
        assert backoff.remaining() == 0.0
        assert backoff.has_failed
        backoff.failed()
        backoff.succeeded()


@pytest.mark.parametrize(("chance", "most"), [(0.0, 7), (1.0, 5)])
def test_attempts_at_a_loading_server_are_limited(chance: float, most: int) -> None:
    """At most seven in any second, the first one included; none is later than 210 ms after the last."""
    now = 0.0
    backoff = RetryBackoff(lambda: now, lambda: chance)
    attempts: list[float] = []
    for _ in range(50):
        attempts.append(now)
        backoff.failed(LOADING_PAUSE)
        now += backoff.remaining()
    assert all(later - at <= 0.210 for at, later in itertools.pairwise(attempts))
    assert all(later - at > 1 for at, later in zip(attempts, attempts[most:], strict=False))


@in_virtual_time
async def test_failed_connection_counts_as_a_try_for_all_queued() -> None:
    """A failed attempt to connect is one try of each of them; at the end they learn why."""
    wires = Wires(retries=1)
    wires.pool.reachable = False
    calls: list[asyncio.Future[Any]] = [read(wires, b"a"), store(wires, b"b")]
    await turns()
    wires.pool.fail(LOST)
    await turns()
    assert not any(call.done() for call in calls)
    wires.pool.fail(LOST)
    for call in calls:
        # Nothing was sent, so the store has not happened: that is known.
        with pytest.raises(CacheUnavailable):
            await call


@in_virtual_time
async def test_every_call_ends_by_its_deadline() -> None:
    """Waiting or under way, by one timer: with TIMEOUT, or for a change that was sent, unknown."""
    wires = Wires(budget=1.0)
    start = wires.loop.time()
    under_way: list[asyncio.Future[Any]] = [store(wires, b"a")]
    await turns()
    waiting = [store(wires, b"b")]
    await asyncio.sleep(0.4)
    late = [read(wires, b"c")]
    assert wires.timers == 1
    for calls, kind, seconds in (
        (under_way, CacheOutcomeUnknown, 1.0),
        (waiting, CacheTimeout, 1.0),
    ):
        for call in calls:
            with pytest.raises(kind):
                await call
            assert wires.loop.time() - start <= seconds + WATCH_SECONDS
    # The exchange has ended together with its last call; the next has a fresh wire.
    assert wires.pool.aborted == 1
    await turns()
    wires.wire.answer([b"1"])
    assert await late[0] == b"1"


@in_virtual_time
async def test_pipeline_continues_while_a_caller_waits() -> None:
    """An expired caller gets its error; the others of the pipeline are not resent for it."""
    wires = Wires(budget=1.0)
    await busy(wires)
    early = read(wires, b"a")
    await asyncio.sleep(0.5)
    late = read(wires, b"b")
    wires.wire.answer([None])
    await turns()
    assert wires.wire.commands == [(b"MGET", b"a", b"b")]
    with pytest.raises(CacheTimeout):
        await early
    assert wires.pool.aborted == 0
    wires.wire.answer([b"1", b"2"])
    assert await late == b"2"


@in_virtual_time
async def test_close_deadlines_share_a_timer() -> None:
    """Not every request sets a timer: one that is due a little later waits for the next."""
    wires = Wires()
    loop = asyncio.get_running_loop()
    calls = [await busy(wires)]
    ends: list[float] = []
    for number in range(200):
        calls.append(read(wires, b"%d" % number))
        calls[-1].add_done_callback(lambda _: ends.append(loop.time()))
        await asyncio.sleep(0.000_1)
    last = loop.time() + 1.0
    await asyncio.gather(*calls, return_exceptions=True)
    assert len(ends) == 200
    assert max(ends) <= last + WATCH_SECONDS
    assert len(set(ends)) <= 6


@in_virtual_time
async def test_a_call_may_have_a_budget_of_its_own() -> None:
    """A shorter one brings the timer forward."""
    wires = Wires(budget=10.0)
    await busy(wires)
    start = wires.loop.time()
    slow = read(wires, b"a")
    with pytest.raises(CacheTimeout):
        await wires.batcher.execute(PTTL, (b"b",), 10, budget=0.2)
    assert wires.loop.time() - start == pytest.approx(0.2, abs=WATCH_SECONDS)
    with pytest.raises(CacheTimeout):
        await slow
    assert wires.loop.time() - start == pytest.approx(10.0, abs=WATCH_SECONDS)


@in_virtual_time
async def test_nothing_is_left_after_close() -> None:
    """Every call has ended: unknown if it is a change under way, NOT_OPENED if not; no timer."""
    wires = Wires(wires=2)
    calls: list[asyncio.Future[Any]] = [read(wires, b"a"), store(wires, b"b")]
    await turns()
    calls += [read(wires, b"c"), store(wires, b"d"), read(wires, b"c")]
    wires.batcher.close()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    unknown = [isinstance(error, CacheOutcomeUnknown) for error in errors]
    assert unknown == [False, True, False, False, False]
    assert sum(isinstance(error, CacheStateError) for error in errors) == 4
    assert wires.timers == 0
    assert repr(wires.batcher) == "<Batcher 0 waiting, 0 in flight>"
    for ask in (read, store):
        with pytest.raises(CacheStateError):
            ask(wires, b"e")
    # What the wires still report is not heeded.
    for wire in tuple(wires.pool.wires):
        wire.abort()
    await turns()
    assert wires.timers == 0


@in_virtual_time
async def test_health_is_reported_per_failure_and_first_reply_after_it() -> None:
    """Each request that fails for want of a reply, and the first reply after it, also one that refuses."""
    wires = Wires(retries=1)
    lost = read(wires, b"a")
    await turns()
    wires.wire.lose()
    assert wires.health == []
    await turns()
    wires.wire.lose()
    assert wires.health == ["CONNECTION_LOST"]
    with pytest.raises(CacheUnavailable):
        await lost
    stored = store(wires, b"b")
    await turns()
    wires.wire.lose()
    await turns()
    wires.wire.lose()
    with pytest.raises(CacheOutcomeUnknown):
        await stored
    assert wires.health == ["CONNECTION_LOST", "CONNECTION_LOST"]
    for key in (b"c", b"d"):
        answered = read(wires, key)
        await turns()
        wires.wire.answer("NOPERM this user has no permissions")
        with pytest.raises(CachePermissionError):
            await answered
        assert wires.health == ["CONNECTION_LOST", "CONNECTION_LOST", "heard"]


@in_virtual_time
async def test_short_deadline_does_not_count_against_the_server() -> None:
    """Of three calls without a reply, only those count that had the full timeout."""
    wires = Wires(budget=1.0)
    calls = [
        wires.batcher.execute(GET, key, 20, budget=budget)
        for key, budget in ((b"a", 0.5), (b"b", 1.0), (b"c", None), (b"d", 2.0))
    ]
    for call in calls:
        with pytest.raises(CacheTimeout):
            await call
    assert wires.health == ["TIMEOUT"] * 3


@in_virtual_time
async def test_cancellation_does_not_count_against_the_server() -> None:
    """A call whose caller is gone when its time is up."""
    wires = Wires()
    call = read(wires, b"a")
    await turns()
    call.cancel()
    await asyncio.sleep(2)
    assert wires.health == []


@in_virtual_time
async def test_closed_client_is_not_reported_as_unreachable() -> None:
    """Calls that a close has ended."""
    wires = Wires()
    under_way, waiting = await busy(wires), read(wires, b"b")
    wires.batcher.close()
    for call in (under_way, waiting):
        with pytest.raises(CacheStateError):
            await call
    assert wires.health == []


@in_virtual_time
async def test_expired_call_fails_when_timer_fires_within_clock_resolution() -> None:
    """A loop may fire a timer early by less than its clock resolution; the call has expired all the same.

    Otherwise another timer that is due next would decide what the caller is told.
    """
    wires = Wires(budget=1.0)
    call = read(wires, b"a")
    wires.loop._clock_resolution = 0.002  # type: ignore[attr-defined]
    cast("VirtualTimeLoop", wires.loop).pass_time(0.999)
    await turns()
    assert call.done()
    with pytest.raises(CacheTimeout):
        await call
