"""Queued requests are pipelined in order, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_redis_cache import CacheOverloaded
from async_redis_cache._protocol.commands import (
    GET_WITH_TTL,
    MGET_WITH_TTL,
    UNKNOWN_TTL,
)
from harness.batcher_requests import STORE_BYTES, busy, read, store
from harness.fake_connection import Wires
from harness.virtual_time import in_virtual_time, turns


@in_virtual_time
async def test_single_request_is_sent_at_once() -> None:
    """When nothing waits, a call is on its way before the loop's next turn."""
    wires = Wires()
    future = read(wires, b"a")
    assert wires.wire.commands == [(b"MGET", b"a")]
    wires.wire.answer([b"1"])
    assert await future == b"1"
    assert wires.counters.round_trips == 1
    assert wires.counters.batched_calls == 0


@in_virtual_time
async def test_waiting_requests_are_pipelined_in_order() -> None:
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
async def test_later_request_does_not_overtake() -> None:
    """A call never goes out at once while others wait."""
    wires = Wires()
    await busy(wires)
    waiting = read(wires, b"first")
    wires.wire.answer([None])
    late = read(wires, b"second")
    assert wires.pool.exchanges == []
    await turns()
    assert wires.wire.commands == [(b"MGET", b"first", b"second")]
    wires.wire.answer([b"1", b"2"])
    assert [await waiting, await late] == [b"1", b"2"]


@in_virtual_time
async def test_queued_read_of_a_key_is_joined() -> None:
    """It is sent once, and all callers that joined before get the reply."""
    wires = Wires()
    await busy(wires)
    callers = [read(wires, b"a") for _ in range(5)]
    wires.wire.answer([None])
    await turns()
    assert wires.wire.commands == [(b"MGET", b"a")]
    wires.wire.answer([b"1"])
    assert await asyncio.gather(*callers) == [b"1"] * 5


@in_virtual_time
async def test_only_equal_requests_are_joined() -> None:
    """A read of data does not join a read of data and TTL."""
    wires = Wires()
    await busy(wires)
    with_life = [wires.batcher.execute(GET_WITH_TTL, b"a", 10) for _ in range(2)]
    plain = [read(wires, b"a") for _ in range(2)]
    wires.wire.answer([None])
    await turns()
    assert wires.wire.commands == [(b"MGET", b"a"), (b"PTTL", b"a"), (b"MGET", b"a")]
    wires.wire.answer([b"1"], 50, [b"1"])
    assert await asyncio.gather(*with_life) == [(b"1", 50)] * 2
    assert await asyncio.gather(*plain) == [b"1"] * 2


@in_virtual_time
async def test_sent_request_is_not_joined() -> None:
    """Its reply may be older than what the caller has seen, so the key is requested again."""
    wires = Wires(wires=2)
    old = read(wires, b"a")
    written = store(wires, b"a", b"new")
    await turns()
    asked, stored = wires.pool.exchanges
    stored.answer(b"OK")
    await written
    new = read(wires, b"a")
    await turns()
    (again,) = (wire for wire in wires.pool.exchanges if wire is not asked)
    again.answer([b"new"])
    assert await new == b"new"
    asked.answer([b"old"])
    assert await old == b"old"


@in_virtual_time
async def test_cancelled_caller_leaves_the_reply_to_the_others() -> None:
    """Even if the first caller is the cancelled one."""
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
async def test_request_without_waiters_is_not_sent() -> None:
    """A call whose callers have all left before it has is dropped."""
    wires = Wires()
    await busy(wires)
    for future in (read(wires, b"a"), read(wires, b"a"), store(wires, b"b")):
        future.cancel()
    wires.wire.answer([None])
    await turns()
    assert wires.pool.exchanges == []
    assert repr(wires.batcher) == "<Batcher 0 waiting, 0 in flight>"
    # And the wire can be had.
    read(wires, b"c").cancel()
    assert wires.wire.commands == [(b"MGET", b"c")]


@in_virtual_time
async def test_pipeline_is_bounded_in_bytes() -> None:
    """Requests beyond 1 MiB go with the next pipeline; a larger one is sent alone."""
    wires = Wires(retries=0)
    await busy(wires)
    sizes = [600_000, 300_000, 300_000, 3_000_000, 10]
    calls = [store(wires, b"%d" % size, bytes(size)) for size in sizes]
    sent: list[list[bytes]] = []
    replies: tuple[Any, ...] = ([None],)
    while not all(call.done() for call in calls):
        wires.wire.answer(*replies)
        await turns()
        if wires.pool.exchanges:
            sent.append([words[1] for words in wires.wire.commands])
            replies = (b"OK",) * len(sent[-1])
    assert sent == [[b"600000", b"300000"], [b"300000"], [b"3000000"], [b"10"]]


@in_virtual_time
async def test_pipeline_may_be_filled_to_the_last_byte() -> None:
    """A request that fills the pipeline to exactly 1 MiB goes with it."""
    wires = Wires()
    await busy(wires)
    half = bytes(512 * 1024 - STORE_BYTES)
    calls = [store(wires, key, data) for key, data in ((b"a", half), (b"b", half), (b"c", b""))]
    wires.wire.answer([None])
    await turns()
    assert [words[1] for words in wires.wire.commands] == [b"a", b"b"]
    wires.batcher.close()
    await asyncio.gather(*calls, return_exceptions=True)


@in_virtual_time
async def test_pipeline_is_bounded_in_keys() -> None:
    """At about a thousand keys, so that no caller waits long behind the others of its pipeline."""
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
async def test_requests_left_for_the_next_pipeline_are_counted() -> None:
    """If only a part is sent, the rest stays queued, and as many as were sent may be added."""
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
    assert repr(wires.batcher) == "<Batcher 165 waiting, 1 in flight>"
    # What has left is asked again, what waits is joined.
    more = [read(wires, b"0"), read(wires, b"1199")]
    assert repr(wires.batcher) == "<Batcher 166 waiting, 1 in flight>"
    more += [read(wires, b"x%d" % number) for number in range(1_500 - 165 - 2)]
    with pytest.raises(CacheOverloaded):
        read(wires, b"one too many")
    wires.batcher.close()
    await asyncio.gather(*calls, *joined, *more, return_exceptions=True)


@in_virtual_time
async def test_sent_bytes_make_room() -> None:
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
async def test_pipeline_is_bounded_in_expected_reply_bytes() -> None:
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
async def test_expected_reply_size_is_kept_per_key() -> None:
    """What came back for several keys together is shared among all of them."""
    wires = Wires()
    await busy(wires)
    several = [read(wires, b"a%d" % number) for number in range(4)]
    wires.wire.answer([None], received=0)
    await turns()
    calls = [read(wires, b"%d" % number) for number in range(100)]
    wires.wire.answer([b"1"] * 4, received=4_000_000)
    assert await asyncio.gather(*several) == [b"1"] * 4
    await turns()
    ((_, *keys),) = wires.wire.commands
    assert len(keys) == 4
    for call in calls:
        call.cancel()


@in_virtual_time
async def test_expected_reply_size_shrinks_slowly() -> None:
    """After a large one more and more keys are asked for together, by an eighth more each time."""
    wires = Wires()
    await busy(wires)
    calls = [read(wires, b"%d" % number) for number in range(300)]
    wires.wire.answer([None], received=1_000_000)
    sent: list[int] = []
    while not all(call.done() for call in calls):
        await turns()
        ((_, *keys),) = wires.wire.commands
        sent.append(len(keys))
        wires.wire.answer(list(keys), received=0)
    most = [int(4 * 1024 * 1024 / 1_000_000 * (8 / 7) ** number) for number in range(len(sent))]
    assert sent[:-1] == most[:-1]
    assert sent[-1] <= most[-1]


@in_virtual_time
async def test_queued_calls_are_bounded() -> None:
    """The bound counts callers, joined ones too; the next is refused before anything else."""
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
async def test_queued_bytes_are_bounded() -> None:
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
async def test_read_returns_the_remaining_ttl() -> None:
    """One MGET for all keys and one PTTL for each; callers of the same key share the reply."""
    wires = Wires()
    await busy(wires)
    one, same, other, lost = (
        wires.batcher.execute(GET_WITH_TTL, key, 8) for key in (b"a", b"a", b"b", b"c")
    )
    many = wires.batcher.execute(MGET_WITH_TTL, (b"d", b"a"), 8, keys=2)
    wires.wire.answer([None])
    await turns()
    assert wires.wire.commands == [
        (b"MGET", b"a", b"b", b"c"),
        *((b"PTTL", key) for key in (b"a", b"b", b"c")),
        (b"MGET", b"d", b"a"),
        *((b"PTTL", key) for key in (b"d", b"a")),
    ]
    lives = (500, -1, "NOPERM this user may not")
    wires.wire.answer([b"1", None, b"3"], *lives, [b"4", b"1"], 7, -2)
    assert [await one, await same] == [(b"1", 500)] * 2
    assert await other == (None, -1)
    assert await lost == (b"3", UNKNOWN_TTL)
    assert await many == [(b"4", 7), (b"1", -2)]
