"""The circuit breaker: when it opens, how often it probes, and when it closes."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from async_redis_cache import CacheOverloaded, CacheUnavailable
from async_redis_cache._client.circuit_breaker import CircuitBreaker, CircuitBreakers
from async_redis_cache._common.health_log import Condition, Record
from async_redis_cache._common.log_events import CIRCUIT
from async_redis_cache._common.stats import CacheStats
from harness.virtual_time import in_virtual_time, turns

CODES = ("CONNECTION_LOST", "TIMEOUT", "CONNECT_FAILED")


class Probed:
    """A breaker, and a server that answers its probes when the test lets it."""

    def __init__(self, chance: float = 1.0, *, are_heeded: bool = True) -> None:
        self.loop = asyncio.get_running_loop()
        self.answers = False
        self.has_room = True
        self.probed_at: list[float] = []
        self.counters = CacheStats()
        self.on_event: list[Record] = []
        self.breakers = CircuitBreakers(self.counters, lambda: chance)
        if are_heeded:
            self.breakers.enabled = True
        condition = Condition(CIRCUIT, "server", self.on_event.append)
        self.breaker = CircuitBreaker(self._probe, self.breakers, condition)

    def _probe(self) -> asyncio.Future[Any]:
        self.probed_at.append(self.loop.time())
        if not self.has_room:
            raise CacheOverloaded("OVERLOADED", "too many")
        probe = self.loop.create_future()
        if self.answers:
            probe.set_result(b"PONG")
        else:
            probe.set_exception(CacheUnavailable("CONNECTION_LOST", "lost"))
        return probe

    def open(self) -> None:
        """Let it open."""
        for code in CODES:
            self.breaker.failed(code)
        assert self.is_open()

    def is_open(self) -> bool:
        """Whether it is; the counters say the same."""
        assert self.counters.open_circuits == self.breaker.is_open
        return self.breaker.is_open


@in_virtual_time
async def test_circuit_opens_after_three_consecutive_failures() -> None:
    """It is reported once, with the code of the last failure."""
    probed = Probed()
    for code in CODES:
        assert not probed.is_open()
        probed.breaker.failed(code)
    assert probed.is_open()
    probed.breaker.failed("TIMEOUT")
    assert [(record.event, record.code) for record in probed.on_event] == [
        (CIRCUIT.down, CODES[-1])
    ]
    probed.breaker.stop()


@in_virtual_time
async def test_reply_resets_the_failure_count() -> None:
    """Three failures with an answer between them open nothing."""
    probed = Probed()
    for _ in range(3):
        probed.breaker.failed("TIMEOUT")
        probed.breaker.failed("TIMEOUT")
        probed.breaker.succeeded()
    assert not probed.is_open()


@in_virtual_time
async def test_circuit_opens_only_where_enabled() -> None:
    """Failures are not counted before a call can succeed without the server."""
    probed = Probed(are_heeded=False)
    for _ in range(5):
        probed.breaker.failed("TIMEOUT")
    assert not probed.is_open()
    probed.breakers.enabled = True
    probed.breaker.failed("TIMEOUT")
    assert not probed.is_open()
    assert probed.on_event == []


@in_virtual_time
@pytest.mark.parametrize("has_room", [True, False])
@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
async def test_open_circuit_probes_at_growing_intervals(
    chance: float, share: float, *, has_room: bool
) -> None:
    """From 50 ms on, each pause twice the last, up to half a second; by chance down to half of that.

    Where so many calls wait that there is no room for a probe, it is tried again as one that failed.
    """
    probed = Probed(chance)
    probed.has_room = has_room
    probed.open()
    begun = probed.loop.time()
    await asyncio.sleep(3)
    moments = [begun, *probed.probed_at]
    pauses = [later - sooner for sooner, later in pairwise(moments)]
    wanted = [share * pause for pause in (0.05, 0.1, 0.2, 0.4, 0.5, 0.5)]
    assert pauses[:6] == pytest.approx(wanted)
    probed.breaker.stop()


@in_virtual_time
@pytest.mark.parametrize("by", ["probe", "call"])
async def test_circuit_closes_with_the_first_reply(by: str) -> None:
    """To a probe or to another call: it is reported, probing ends, and everything is as before."""
    probed = Probed()
    for _ in range(2):
        probed.on_event.clear()
        probed.answers = False
        probed.open()
        await asyncio.sleep(1)
        assert probed.is_open()
        if by == "call":
            probed.breaker.succeeded()
        else:
            probed.answers = True
            await asyncio.sleep(0.5)
        assert not probed.is_open()
        assert [record.event for record in probed.on_event] == [CIRCUIT.down, CIRCUIT.up]
        count = len(probed.probed_at)
        await asyncio.sleep(2)
        assert len(probed.probed_at) == count
        probed.breaker.failed("TIMEOUT")
        probed.breaker.failed("TIMEOUT")
        assert not probed.is_open()
        probed.breaker.succeeded()


@in_virtual_time
async def test_circuits_are_independent() -> None:
    """Of two unreachable servers one recovers: the counters say that one circuit is open."""
    one = Probed()
    other = CircuitBreaker(
        one._probe, one.breakers, Condition(CIRCUIT, "other", one.on_event.append)
    )
    one.open()
    for _ in range(3):
        assert not other.is_open
        other.failed("TIMEOUT")
    assert one.counters.open_circuits == 2
    other.succeeded()
    assert one.counters.open_circuits == 1
    assert one.breaker.is_open
    one.breaker.stop()
    assert one.counters.open_circuits == 0


@in_virtual_time
@pytest.mark.parametrize("is_open", [True, False])
async def test_stopped_circuit_has_no_timer(*, is_open: bool) -> None:
    """It sends no probe, reports nothing, and does not open again."""
    probed = Probed()
    if is_open:
        probed.open()
        await asyncio.sleep(0.1)
    told = list(probed.on_event)
    probed.breaker.stop()
    assert not probed.is_open()
    count = len(probed.probed_at)
    for _ in range(5):
        probed.breaker.failed("TIMEOUT")
    await turns()
    await asyncio.sleep(2)
    assert not probed.is_open()
    assert len(probed.probed_at) == count
    assert probed.on_event == told
    assert asyncio.all_tasks() == {asyncio.current_task()}
