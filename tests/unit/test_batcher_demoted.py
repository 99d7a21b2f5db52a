"""Pipelines in flight when a server refuses a write as READONLY: their connections are drained."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from async_redis_cache import CacheOutcomeUnknown
from async_redis_cache._protocol.atomic_commands import Add
from async_redis_cache._protocol.commands import GET, GETDEL
from harness.batcher_requests import read, store
from harness.fake_connection import Wires
from harness.virtual_time import in_virtual_time, turns

READONLY = "READONLY You can't write against a read only replica."


def take(wires: Wires, key: bytes) -> asyncio.Future[Any]:
    """Request a write that must not run twice."""
    return wires.batcher.execute(GETDEL, (key,), len(key) + 16)


async def in_flight(wires: Wires) -> list[asyncio.Future[Any]]:
    """Send a write; a write and a read; and a read alone, on a connection each."""
    sent = [take(wires, b"refused")]
    before = [read(wires, key) for key in (b"one", b"two")]
    _, first, second = wires.pool.exchanges
    sent += [take(wires, b"late"), read(wires, b"beside")]
    first.answer([None])
    await turns()
    sent.append(read(wires, b"alone"))
    second.answer([None])
    await asyncio.gather(*before)
    await turns()
    assert [wire.commands for wire in wires.pool.exchanges] == [
        [(b"GETDEL", b"refused")],
        [(b"GETDEL", b"late"), (b"MGET", b"beside")],
        [(b"MGET", b"alone")],
    ]
    return sent


@in_virtual_time
@pytest.mark.parametrize("answer", [READONLY, b"taken"])
async def test_outcome_of_a_write_in_flight_is_known(answer: Any) -> None:
    """Its reply is awaited, refused or not; what is read beside it or alone is read on another connection."""
    wires = Wires(wires=3, demotes=True)
    refused, late, beside, alone = await in_flight(wires)
    former, draining, _ = wires.pool.exchanges
    former.answer(READONLY)
    await turns()
    assert former not in wires.pool.wires
    assert sorted(words for wire in wires.pool.exchanges[1:] for words in wire.commands) == [
        (b"GETDEL", b"refused"),
        (b"MGET", b"beside", b"alone"),
    ]
    draining.answer(answer, [b"old"])
    assert late.done() == (answer == b"taken")
    assert not beside.done()
    values = {b"refused": b"1", b"late": b"2", b"beside": b"3", b"alone": b"4"}
    while wires.pool.exchanges:
        for wire in tuple(wires.pool.exchanges):
            assert wire is not draining
            wire.answer(
                *(
                    values[keys[0]] if word == b"GETDEL" else [values[key] for key in keys]
                    for word, *keys in wire.commands
                )
            )
        await turns()
    taken = b"taken" if answer == b"taken" else b"2"
    assert [await sent for sent in (refused, late, beside, alone)] == [b"1", taken, b"3", b"4"]


@in_virtual_time
async def test_write_that_is_not_answered_does_not_hold_its_connection() -> None:
    """A former master that falls silent is left soon, with an unknown outcome."""
    wires = Wires(wires=2, demotes=True, budget=60)
    refused, late = take(wires, b"refused"), wires.batcher.execute(Add(), (b"late", 1000, b""), 32)
    await turns()
    former, silent = wires.pool.exchanges
    began = wires.loop.time()
    former.answer(READONLY)
    with pytest.raises(CacheOutcomeUnknown):
        await late
    assert wires.loop.time() - began < 1
    assert silent not in wires.pool.wires
    wires.wire.answer(b"1")
    assert await refused == b"1"


@in_virtual_time
async def test_late_refusal_leaves_no_newer_connection() -> None:
    """That of a drained connection, after the pause in which connections are not renewed, concerns no other."""
    wires = Wires(wires=3, demotes=True)
    refused, late = take(wires, b"refused"), take(wires, b"late")
    await turns()
    former, draining = wires.pool.exchanges
    former.answer(READONLY)
    await asyncio.sleep(0.15)
    assert len(wires.pool.exchanges) == 2
    newer = wires.pool.exchanges[1]
    stored = store(wires, b"key")
    draining.answer(READONLY)
    await turns()
    assert newer in wires.pool.exchanges
    newer.answer(b"1")
    assert await refused == b"1"
    while not (late.done() and stored.done()):
        await turns()
        for wire in tuple(wires.pool.exchanges):
            wire.answer(*(b"2" if word == b"GETDEL" else b"OK" for word, *_ in wire.commands))
    assert (await late, await stored) == (b"2", None)


@in_virtual_time
async def test_deadline_of_a_write_comes_before_that_of_a_read_beside_it() -> None:
    """The connection ends with the last write, although a read that was sent with it may take longer."""
    wires = Wires(wires=2, demotes=True, budget=0.1)
    refused, one = take(wires, b"refused"), read(wires, b"one")
    late = take(wires, b"late")
    longer = wires.batcher.execute(GET, b"longer", 32, budget=60)
    former, draining = wires.pool.exchanges
    draining.answer([None])
    assert await one is None
    await turns()
    former.answer(READONLY)
    with pytest.raises(CacheOutcomeUnknown):
        await late
    assert draining not in wires.pool.wires
    for _ in range(2):
        await turns()
        for wire in tuple(wires.pool.exchanges):
            wire.answer(*(b"1" if word == b"GETDEL" else [b"2"] for word, *_ in wire.commands))
    assert await longer == b"2"
    assert refused.done()
    refused.exception()
