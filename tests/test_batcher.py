"""Calls that wait leave together, in their order, and none is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from async_redis_cache import (
    CacheError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CacheServerError,
    CacheStateError,
    CacheTimeout,
    CacheUnavailable,
)
from async_redis_cache._commands import CONTAINS, DISCARD, FORGET, READ, STORE, TAKE
from async_redis_cache._failures import LOST
from harness import await_until
from harness.fake_wire import Wires
from harness.virtual_time import in_virtual_time, turns
from harness.waiting import POLL_SECONDS

WATCH_SECONDS = 0.005
"""The one timer looks no more often than this."""


def read(wires: Wires, key: bytes) -> asyncio.Future[Any]:
    return wires.batcher.ask(READ, key, len(key) + 16)


def store(wires: Wires, key: bytes, data: bytes = b"1") -> asyncio.Future[Any]:
    return wires.batcher.ask(STORE, ((key, data, 1000),), len(data) + 48)


async def busy(wires: Wires) -> asyncio.Future[Any]:
    """Take the only wire, so that whatever is asked next has to wait."""
    future = read(wires, b"busy")
    await turns()
    assert wires.wire.commands == [(b"MGET", b"busy")]
    return future


@in_virtual_time
async def test_a_lone_call_goes_out_at_once() -> None:
    """When nothing waits, a call is on its way before the loop's next turn."""
    wires = Wires()
    future = read(wires, b"a")
    assert wires.wire.commands == [(b"MGET", b"a")]
    wires.wire.answer([b"1"])
    assert await future == b"1"
    assert wires.counters.round_trips == 1
    assert wires.counters.batched_calls == 0


@in_virtual_time
async def test_what_waits_leaves_together_in_its_order() -> None:
    """Reads become one MGET, writes one pipeline, and each call has its own answer."""
    wires = Wires()
    first = await busy(wires)
    calls: list[asyncio.Future[Any]] = [
        read(wires, b"b"),
        store(wires, b"s", b"1"),
        read(wires, b"a"),
        store(wires, b"t", b"2"),
        read(wires, b"c"),
    ]
    wires.wire.answer([b"0"])
    await turns()
    assert wires.wire.commands == [
        (b"MGET", b"b", b"a", b"c"),
        (b"SET", b"s", b"1", b"PX", b"1000"),
        (b"SET", b"t", b"2", b"PX", b"1000"),
    ]
    wires.wire.answer([b"vb", None, b"vc"], b"OK", b"OK")
    assert await first == b"0"
    assert await asyncio.gather(*calls) == [b"vb", None, None, None, b"vc"]
    assert wires.counters.round_trips == 2
    assert wires.counters.batched_calls == 5


@in_virtual_time
async def test_nobody_overtakes_who_waits() -> None:
    """A call never goes out at once while others wait."""
    wires = Wires()
    await busy(wires)
    waiting = read(wires, b"first")
    wires.wire.answer([None])
    late = read(wires, b"second")
    assert wires.transport.exchanges == []
    await turns()
    assert wires.wire.commands == [(b"MGET", b"first", b"second")]
    wires.wire.answer([b"1", b"2"])
    assert [await waiting, await late] == [b"1", b"2"]


@in_virtual_time
async def test_a_key_that_is_waited_for_is_joined() -> None:
    """It is asked for once, and all who asked before the question left have the answer."""
    wires = Wires()
    await busy(wires)
    callers = [read(wires, b"a") for _ in range(5)]
    wires.wire.answer([None])
    await turns()
    assert wires.wire.commands == [(b"MGET", b"a")]
    wires.wire.answer([b"1"])
    assert await asyncio.gather(*callers) == [b"1"] * 5


@in_virtual_time
async def test_a_question_that_has_left_is_not_joined() -> None:
    """Its answer may be older than what the caller has seen, so the key is asked for again."""
    wires = Wires(wires=2)
    old = read(wires, b"a")
    written = store(wires, b"a", b"new")
    await turns()
    asked, stored = wires.transport.exchanges
    stored.answer(b"OK")
    await written
    new = read(wires, b"a")
    await turns()
    (again,) = (wire for wire in wires.transport.exchanges if wire is not asked)
    again.answer([b"new"])
    assert await new == b"new"
    asked.answer([b"old"])
    assert await old == b"old"


@in_virtual_time
async def test_whoever_is_cancelled_leaves_the_others_their_answer() -> None:
    """Also when it is the one who asked first that goes."""
    wires = Wires()
    await busy(wires)
    first, second, third = (read(wires, b"a") for _ in range(3))
    first.cancel()
    wires.wire.answer([None])
    await turns()
    third.cancel()
    wires.wire.answer([b"1"])
    assert await second == b"1"


@in_virtual_time
async def test_what_nobody_waits_for_is_not_sent() -> None:
    """A call whose callers have all left before it has is dropped."""
    wires = Wires()
    await busy(wires)
    for future in (read(wires, b"a"), read(wires, b"a"), store(wires, b"b")):
        future.cancel()
    wires.wire.answer([None])
    await turns()
    assert wires.transport.exchanges == []
    assert repr(wires.batcher) == "<Batcher 0 waiting, 0 under way>"
    # And the wire can be had.
    read(wires, b"c").cancel()
    assert wires.wire.commands == [(b"MGET", b"c")]


@in_virtual_time
async def test_an_exchange_is_bounded_in_bytes() -> None:
    """What would make it larger than 1 MiB leaves with the next, and what is larger goes alone."""
    wires = Wires(retries=0)
    await busy(wires)
    sizes = [600_000, 300_000, 300_000, 3_000_000, 10]
    calls = [store(wires, b"%d" % size, bytes(size)) for size in sizes]
    sent: list[list[bytes]] = []
    replies: tuple[Any, ...] = ([None],)
    while not all(call.done() for call in calls):
        wires.wire.answer(*replies)
        await turns()
        if wires.transport.exchanges:
            sent.append([words[1] for words in wires.wire.commands])
            replies = (b"OK",) * len(sent[-1])
    assert sent == [[b"600000", b"300000"], [b"300000"], [b"3000000"], [b"10"]]


@in_virtual_time
async def test_an_exchange_is_bounded_in_keys() -> None:
    """A thousand-odd keys, so that nobody waits long behind the others of his exchange."""
    wires = Wires()
    await busy(wires)
    calls = [read(wires, b"%d" % number) for number in range(2_500)]
    wires.wire.answer([None])
    sent: list[int] = []
    while not all(call.done() for call in calls):
        await turns()
        ((_, *keys),) = wires.wire.commands
        sent.append(len(keys))
        wires.wire.answer(list(keys))
    assert sent == [1024, 1024, 452]
    assert [call.result() for call in calls] == [b"%d" % number for number in range(2_500)]


@in_virtual_time
async def test_who_waits_for_the_next_exchange_is_counted_right() -> None:
    """When only a part can leave, the rest goes on waiting, and so many as left may come."""
    wires = Wires(most_calls=1_500)
    await busy(wires)
    calls = [read(wires, b"%d" % number) for number in range(1_200)]
    joined = [read(wires, b"%d" % number) for number in range(300)]
    for leaver in (calls[7], *calls[500:510], joined[7]):
        leaver.cancel()
    wires.wire.answer([None])
    await turns()
    ((_, *keys),) = wires.wire.commands
    # Those whom nobody waits for any more have made room for others.
    assert len(keys) == 1024
    assert keys[:8] == [b"%d" % number for number in (0, 1, 2, 3, 4, 5, 6, 8)]
    assert repr(wires.batcher) == "<Batcher 165 waiting, 1 under way>"
    # What has left is asked again, what waits is joined.
    more = [read(wires, b"0"), read(wires, b"1199")]
    assert repr(wires.batcher) == "<Batcher 166 waiting, 1 under way>"
    more += [read(wires, b"x%d" % number) for number in range(1_500 - 165 - 2)]
    with pytest.raises(CacheOverloaded):
        read(wires, b"one too many")
    wires.batcher.close()
    await asyncio.gather(*calls, *joined, *more, return_exceptions=True)


@in_virtual_time
async def test_bytes_that_have_left_make_room() -> None:
    """When only a part can leave, so many bytes as left may come."""
    wires = Wires(most_bytes=2_000_000)
    await busy(wires)
    stores = [store(wires, b"%d" % number, bytes(600_000)) for number in range(3)]
    with pytest.raises(CacheOverloaded):
        store(wires, b"3", bytes(600_000))
    wires.wire.answer([None])
    await turns()
    stores.append(store(wires, b"3", bytes(600_000)))
    with pytest.raises(CacheOverloaded):
        store(wires, b"4", bytes(600_000))
    wires.batcher.close()
    await asyncio.gather(*stores, return_exceptions=True)


@in_virtual_time
async def test_an_exchange_is_bounded_in_what_comes_back() -> None:
    """Once replies have been seen to be large, fewer keys are asked for at a time."""
    wires = Wires()
    await busy(wires)
    calls = [read(wires, b"%d" % number) for number in range(100)]
    wires.wire.answer([None], received=1_000_000)
    await turns()
    ((_, *keys),) = wires.wire.commands
    assert len(keys) == 4
    for call in calls:
        call.cancel()


@in_virtual_time
@pytest.mark.parametrize("retries", [0, 3])
async def test_one_forbidden_key_harms_nobody_else(retries: int) -> None:
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
async def test_who_is_tried_again_is_first() -> None:
    """Those whose exchange broke have waited longest: they leave in front, in their order."""
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
async def test_who_has_left_is_not_tried_again() -> None:
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
async def test_retries_are_counted_and_come_to_an_end() -> None:
    """After the last one the call ends in what went wrong, each caller with an error of his own."""
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
async def test_what_can_be_said_of_a_change_whose_reply_was_lost() -> None:
    """A second try tells of a store all there is; of a removal only what it still found."""
    wires = Wires()
    await busy(wires)
    stored = store(wires, b"s")
    taken, gone = (wires.batcher.ask(TAKE, (key,), 32) for key in (b"t", b"u"))
    counted, missed = (wires.batcher.ask(DISCARD, (key,), 32) for key in (b"v", b"w"))
    forgotten = wires.batcher.ask(FORGET, (b"x",), 32)
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
async def test_replies_that_cannot_be_are_nobodys_answer() -> None:
    """The connection is ended, and the calls are tried again on another."""
    wires = Wires(retries=1)
    future = read(wires, b"a")
    wires.wire.answer([b"1", b"2"])
    await turns()
    assert len(wires.transport.wires) == 1
    wires.wire.answer(7)
    with pytest.raises(CacheServerError) as caught:
        await future
    assert caught.value.code == "PROTOCOL_ERROR"


@in_virtual_time
async def test_a_server_that_is_loading_is_left_alone_for_a_while() -> None:
    """Pauses between tries in a row grow to 120 ms, and a good answer ends them."""
    wires = Wires(retries=100, budget=10.0)
    future = read(wires, b"a")
    sent_at: list[float] = []
    for _ in range(12):
        await await_until(lambda: wires.transport.exchanges)
        sent_at.append(wires.loop.time())
        wires.wire.answer("LOADING Redis is loading the dataset in memory")
    pauses = [later - sooner for sooner, later in itertools.pairwise(sent_at)]
    assert pauses[0] <= POLL_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(0.120, abs=POLL_SECONDS)
    await await_until(lambda: wires.transport.exchanges)
    wires.wire.answer([b"1"])
    assert await future == b"1"
    # The row has ended: the next failure is a first one again, which costs no pause.
    again = read(wires, b"a")
    wires.wire.answer("LOADING")
    await turns()
    wires.wire.answer([b"2"])
    assert await again == b"2"


@in_virtual_time
async def test_without_any_connection_all_who_wait_have_tried() -> None:
    """A failed attempt to connect is one try of each of them; at the end they learn why."""
    wires = Wires(retries=1)
    wires.transport.reachable = False
    calls: list[asyncio.Future[Any]] = [read(wires, b"a"), store(wires, b"b")]
    await turns()
    wires.transport.fail(LOST)
    await turns()
    assert not any(call.done() for call in calls)
    wires.transport.fail(LOST)
    for call in calls:
        # Nothing was sent, so the store has not happened: that is known.
        with pytest.raises(CacheUnavailable):
            await call


@in_virtual_time
async def test_so_many_calls_may_wait_and_no_more() -> None:
    """The bound counts callers, those who joined too; the next is refused before anything."""
    wires = Wires(most_calls=3)
    await busy(wires)
    waiting = [read(wires, b"a"), read(wires, b"a"), store(wires, b"b")]
    for ask in (read, store):
        with pytest.raises(CacheOverloaded):
            ask(wires, b"a")
    wires.wire.answer([None])
    await turns()
    wires.wire.answer([b"1"], b"OK")
    assert await asyncio.gather(*waiting) == [b"1", b"1", None]
    await busy(wires)
    for _ in range(3):
        read(wires, b"a").cancel()


@in_virtual_time
async def test_so_many_bytes_may_wait_and_no_more() -> None:
    """A large call is refused where a small one still has room."""
    wires = Wires(most_bytes=1_000)
    await busy(wires)
    store(wires, b"a", bytes(800)).cancel()
    with pytest.raises(CacheOverloaded):
        store(wires, b"b", bytes(300))
    store(wires, b"c", b"").cancel()
    wires.wire.answer([None])
    await turns()
    await busy(wires)
    store(wires, b"b", bytes(900)).cancel()


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
    assert wires.transport.aborted == 1
    await turns()
    wires.wire.answer([b"1"])
    assert await late[0] == b"1"


@in_virtual_time
async def test_an_exchange_goes_on_while_anybody_waits_for_it() -> None:
    """Who is overdue is told; the others of his exchange are not sent back for it."""
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
    assert wires.transport.aborted == 0
    wires.wire.answer([b"1", b"2"])
    assert await late == b"2"


@in_virtual_time
async def test_a_call_may_have_a_budget_of_its_own() -> None:
    """A shorter one brings the timer forward."""
    wires = Wires(budget=10.0)
    await busy(wires)
    start = wires.loop.time()
    slow = read(wires, b"a")
    with pytest.raises(CacheTimeout):
        await wires.batcher.ask(CONTAINS, (b"b",), 10, budget=0.2)
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
    assert repr(wires.batcher) == "<Batcher 0 waiting, 0 under way>"
    for ask in (read, store):
        with pytest.raises(CacheStateError):
            ask(wires, b"e")
    # What the wires still report is not heeded.
    for wire in tuple(wires.transport.wires):
        wire.abort()
    await turns()
    assert wires.timers == 0
