"""The estimate of the server's clock, and the decisions that depend on it."""

from __future__ import annotations

import asyncio
import math
import re
from random import Random
from struct import Struct
from typing import TYPE_CHECKING, Any, cast

import pytest

from async_redis_cache import CacheError, CacheInputError, CacheUnavailable, LoadOptions
from async_redis_cache._common.options import Options
from async_redis_cache._engine.load_options import LoadPolicies
from async_redis_cache._engine.server_clock import ServerClock
from async_redis_cache._protocol.record import VALUE, Record

if TYPE_CHECKING:
    from async_redis_cache._client.batcher import Batcher

EPOCH = 1_700_000_000.0
"""What the server's clock says, in seconds, when ours says 0."""


class Asked:
    """A server that says what time it is after a while, on a clock that does not run by itself."""

    def __init__(self) -> None:
        self.now = 5_000.0
        self.ahead = EPOCH
        self.futures: list[asyncio.Future[float]] = []
        self.clock = ServerClock(cast("Batcher", self), lambda: self.now)

    def execute(self, *_: Any) -> asyncio.Future[float]:
        future = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        return future

    async def answer(self, took: float, *, asked_late: float = 0.5) -> None:
        """Reply to the oldest request, after this time, in this part of which the server read its clock."""
        (future,) = self.futures
        self.futures.clear()
        future.set_result(self.now + took * asked_late + self.ahead)
        self.now += took
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def first(self, took: float = 0.001) -> None:
        asking = asyncio.ensure_future(self.clock.now())
        await asyncio.sleep(0)
        await self.answer(took)
        await asking

    async def error(self) -> float:
        """The clock error in milliseconds; open requests stay open."""
        return abs(await self.clock.now() - (self.now + self.ahead) * 1000)


async def test_time_is_requested_once_a_second_at_most() -> None:
    """The first caller waits; later ones do not, and nothing is requested in between."""
    server = Asked()
    await server.first()
    for _ in range(100):
        assert await server.error() <= 1
    assert server.futures == []
    server.now += 1.5
    for _ in range(100):
        assert await server.error() <= 1
    assert len(server.futures) == 1
    await server.answer(0.001)
    assert await server.error() <= 1
    assert server.futures == []


async def test_the_time_is_known_for_a_second() -> None:
    """Without a request: from the first reply until the next request is due."""
    server = Asked()
    assert server.clock.known() is None
    await server.first()
    for passed in (0.0, 0.5, 0.499):
        server.now += passed
        assert server.clock.known() == pytest.approx((server.now + EPOCH) * 1000, abs=1)
    server.now += 0.002
    assert server.clock.known() is None
    assert server.futures == []


async def test_concurrent_callers_share_one_time_request() -> None:
    """One request serves all; a cancelled caller does not cancel it."""
    server = Asked()
    waiting = [asyncio.ensure_future(server.clock.now()) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    await server.answer(0.001)
    assert waiting[0].cancelled()
    assert await asyncio.gather(*waiting[1:]) == [round((server.now + EPOCH) * 1000)] * 4


async def test_slow_reply_does_not_replace_a_better_estimate() -> None:
    """A sample that took long is off by up to half of that; the drift makes it good in the end."""
    server = Asked()
    await server.first()
    errors: list[float] = []
    for _ in range(30):
        server.now += 1.1
        errors.append(await server.error())
        await server.answer(0.5, asked_late=1.0)
    # What took half a second may be wrong by 250 ms; the first sample may be, too, some 20 seconds later.
    assert max(errors[:15]) <= 1
    assert 249 <= max(errors[15:]) <= 251
    server.now += 1.1
    await server.error()
    await server.answer(0.002)
    assert await server.error() <= 2


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_adjusted_clock_is_followed(step: float) -> None:
    """Within the second in which it is asked again."""
    server = Asked()
    await server.first()
    server.ahead += step
    server.now += 1.1
    await server.error()
    await server.answer(0.05)
    assert await server.error() < 50


async def test_unreachable_server_raises() -> None:
    """The last estimate is valid for a while; after that callers get the error, and request the time anew."""
    server = Asked()
    await server.first()
    server.now += 5
    assert await server.error() <= 1
    server.futures.pop().set_exception(CacheUnavailable("CONNECT_FAILED", "away"))
    await asyncio.sleep(0)
    server.now += 6
    asking = asyncio.ensure_future(server.clock.now())
    await asyncio.sleep(0)
    server.futures.pop().set_exception(CacheUnavailable("CONNECT_FAILED", "away"))
    with pytest.raises(CacheError):
        await asking
    asking = asyncio.ensure_future(server.clock.now())
    await asyncio.sleep(0)
    await server.answer(0.001)
    assert await asking == round((server.now + server.ahead) * 1000)


def test_refresh_is_due_by_share_of_the_ttl() -> None:
    """From that share of its TTL on, unless it is already being loaded."""
    policy = LoadPolicies(Options()).of({"refresh_at": 0.8})
    record = Record(VALUE, 0, stored_at=1000, fresh_until=2000)
    assert [policy.is_due_for_refresh(record, now, Random(1).random) for now in (1000, 1799)] == [
        False
    ] * 2
    assert [policy.is_due_for_refresh(record, now, Random(1).random) for now in (1800, 1999)] == [
        True
    ] * 2
    assert not policy.is_due_for_refresh(record._replace(leased_until=1801), 1800, Random(1).random)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_early_refresh_is_due_by_chance(beta: float) -> None:
    """XFetch: the head start has an exponential distribution with the mean beta x cost."""
    policy = LoadPolicies(Options()).of({"early_refresh": beta})
    cost = 100  # ms
    record = Record(VALUE, 0, stored_at=0, fresh_until=10_000, load_duration=cost * 1000)
    chance = Random(3)
    for left in (10, 50, 200):
        tries = 4_000
        began = sum(
            policy.is_due_for_refresh(record, 10_000 - left, chance.random) for _ in range(tries)
        )
        expected = 2.718281828 ** (-left / (beta * cost))
        assert abs(began / tries - expected) < 0.04


HEAD = Struct(">2sc16sQ8sQQQHQ")


def given_at_once(
    said: LoadOptions, now: int | None, *, leased_until: int = 0, slack: int = 0
) -> bytes | None:
    """The payload returned for a value that is fresh from 1000 to 2000 and took 100 ms to load."""
    numbers = (leased_until, b"version.", 1000, 2000, slack, 0, 100_000)
    data = HEAD.pack(b"\xc1\x02", VALUE, bytes(16), *numbers) + b"payload"
    # By this chance and a beta of 1, it is loaded anew in the last 100 ms.
    chance = 1 - math.exp(-1)
    return LoadPolicies(Options()).of(said).usable_payload(data, lambda: now, lambda: chance)


@pytest.mark.parametrize(
    ("said", "from_then_on"),
    [({"refresh_at": 0.5}, 1500), ({"early_refresh": 0.5}, 1950), ({"early_refresh": 2}, 1800)],
)
def test_value_due_for_refresh_is_not_returned_directly(
    said: LoadOptions, from_then_on: int
) -> None:
    """Nor is a stale value; a value with a valid load lease is."""
    for slack in (0, 5_000):
        for now in (1000, from_then_on - 1):
            assert given_at_once(said, now, slack=slack) == b"payload"
        for later in (from_then_on + 1, 1999, 2000, 9000, None):
            assert given_at_once(said, later, slack=slack) is None
        assert given_at_once(said, 1998, leased_until=1999, slack=slack) == b"payload"
        assert given_at_once(said, 1999, leased_until=1999, slack=slack) is None


def test_fresh_value_is_returned_directly() -> None:
    """Where it has not to be loaded anew; without a time in which it is stale, whatever the clock says."""
    assert [given_at_once({}, now, slack=5_000) for now in (1000, 1999)] == [b"payload"] * 2
    assert [given_at_once({}, now, slack=5_000) for now in (2000, None)] == [None] * 2
    assert [given_at_once({}, now) for now in (1000, 2000, None)] == [b"payload"] * 3


def test_jitter_shortens_the_ttl() -> None:
    """By the share that `jitter` says at the most, and never to nothing."""
    policy = LoadPolicies(Options()).of({"jitter": 0.25})
    chances = [0.0, 0.5, 1.0]
    lives = [policy.ttl_with_jitter(1_000, iter((chance,)).__next__) for chance in chances]
    assert lives == [1_000, 875, 750]
    assert LoadPolicies(Options()).of({"jitter": 1.0}).ttl_with_jitter(1_000, lambda: 1.0) == 1
    assert LoadPolicies(Options()).of({}).ttl_with_jitter(1_000, lambda: 1.0) == 1_000


def test_call_options_override_the_configuration() -> None:
    """Goes before what is configured; a number out of bounds, or of no kind, is refused by its name."""
    policies = LoadPolicies(Options())
    assert policies.of({"hard_timeout": 0}) == policies.of({})
    policy = policies.of({"soft_timeout": 5, "in_thread": True, "early_refresh": 100})
    assert (policy.soft_timeout, policy.in_thread, policy.early_refresh) == (5, True, 100.0)
    most = {"refresh_at": "1", "early_refresh": "100", "jitter": "1"}
    for name, bound in most.items():
        for wrong in (-0.1, float(bound) + 0.1, True, "1", None):
            with pytest.raises(
                CacheInputError, match=f"^{name} must be a number from 0 to {bound}$"
            ) as no:
                policies.of(cast("LoadOptions", {name: wrong}))
            assert no.value.code == "BAD_LOAD_OPTION"
    with pytest.raises(CacheInputError):
        policies.of({"hard_timeout": 3_600_001})
    assert policies.of({"stale_timeout": 3_600_001}).stale_timeout == 3_600_001


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("jitters", "; did you mean `jitter`?"),
        ("ttl", "; did you mean `timeout`?"),
        ("timeout", "; did you mean `ttl`?"),
        ("zzz", ""),
    ],
)
def test_unknown_load_option_is_named_with_the_likely_one(option: str, hint: str) -> None:
    """An option that does not exist is a TypeError, as an unknown argument is."""
    with pytest.raises(TypeError, match=f"^unknown load option `{option}`{re.escape(hint)}$"):
        LoadPolicies(Options()).of(cast("LoadOptions", {option: 1.0}))


def test_policies_are_remembered_and_few() -> None:
    """The same options are read once; many different ones do not fill the memory."""
    policies = LoadPolicies(Options(loading_jitter=0.25))
    assert policies.default.jitter == 0.25
    same = [policies.of({"soft_timeout": 5}) for _ in range(2)]
    assert same[0] is same[1]
    for number in range(3_000):
        assert policies.of({"soft_timeout": number}).soft_timeout == number
    assert len(policies._known) <= 1_000
