"""Connections break at the worst moments, and no call gets a wrong reply."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from async_redis_cache import AsyncRedisCache, CacheError
from harness import Client, Ending, Proxy, Server, StartProxy, await_until
from harness.figures import counts, report
from harness.run_length import LONG

pytest_plugins = ["fault_fixtures"]
pytestmark = pytest.mark.depends_on()

CONNECTIONS = 40


async def await_state(cache: AsyncRedisCache, state: str) -> None:
    """Wait until the cache says this of itself."""
    await await_until(lambda: state in repr(cache))


async def connect_all(cache: AsyncRedisCache, raw: Client) -> None:
    """Let the cache have its 40 connections, all idle."""
    raw.client_pause(60_000, all=False)  # Writes wait on the server, each on a connection.
    stores: list[Awaitable[Any]] = []
    for number in range(1, CONNECTIONS + 1):
        stores.append(asyncio.ensure_future(cache.store(None, f"filler{number}", number)))
        await await_state(cache, f"<ConnectionPool {number} open, 0 idle>")
    raw.client_unpause()
    await asyncio.gather(*stores)


@pytest.mark.parametrize("ending", ["fin", "rst"])
@pytest.mark.parametrize("noticed", [False, True], ids=["unnoticed", "noticed"])
@pytest.mark.no_leaks
async def test_closed_idle_connections_fail_no_call(
    server: Server, raw: Client, proxy: StartProxy, ending: Ending, *, noticed: bool
) -> None:
    """8. 40 idle connections are closed (FIN), then reset (RST): 0 calls fail."""
    network = proxy(server)
    values = {f"key{number}": number for number in range(200)}
    async with AsyncRedisCache.from_url(
        network.url, max_size=0, max_connections=CONNECTIONS
    ) as cache:
        await connect_all(cache, raw)
        await cache.store_many(None, values)
        network.cut(ending)
        if noticed:
            await await_state(cache, "<ConnectionPool 0 open")
        # Not one after the other, and none of them may be asked twice.
        found = await asyncio.gather(
            *(cache.retrieve(None, key) for key in list(values)[:50]),
            *(cache.remove(None, key) for key in list(values)[50:150]),
            *(cache.store(None, key, values[key]) for key in list(values)[150:]),
        )
        stats = cache.stats()
        report(8, f"{ending}: {stats.errors} of {len(found)} failed, {stats.retries} retries")
        assert found == list(values.values())
        assert (stats.errors, stats.retries) == (0, 0)


class Question:
    """A call, what makes it possible, and its one right answer."""

    def __init__(
        self,
        name: str,
        ask: Callable[[AsyncRedisCache], Awaitable[Any]],
        answer: Any,
        *,
        told_once: bool = False,
    ) -> None:
        self.name = name
        self.execute = ask
        self.answer = answer
        self.told_once = told_once
        """Whether only the first execution gives the answer, so that it may be lost for ever."""

    def __repr__(self) -> str:
        return self.name


QUESTIONS = [
    Question("retrieve", lambda cache: cache.retrieve(None, "a"), "value a"),
    Question("miss", lambda cache: cache.retrieve(None, "none"), None),
    Question(
        "retrieve_many",
        lambda cache: cache.retrieve_many(None, ["a", "none", "b"]),
        {"a": "value a", "b": "value b"},
    ),
    Question("store", lambda cache: cache.store(None, "a", "new"), "new"),
    Question("store_many", lambda cache: cache.store_many(None, {"a": "new", "c": "new"}), None),
    Question("store_none", lambda cache: cache.store(None, "a", None), None),
    Question("touch", lambda cache: cache.touch(None, "a"), True),
    Question("contains", lambda cache: cache.contains(None, "a"), True),
    Question("remove", lambda cache: cache.remove(None, "a"), "value a", told_once=True),
    Question(
        "remove_many", lambda cache: cache.remove_many(None, ["a", "none", "b"]), 2, told_once=True
    ),
]


@pytest.fixture(params=[0, 100], ids=["unbounded", "bounded"])
def bound(request: pytest.FixtureRequest) -> int:
    chosen: int = request.param
    return chosen


@pytest.fixture
def network(server: Server, proxy: StartProxy) -> Proxy:
    return proxy(server)


def prepare(raw: Client) -> None:
    raw.flushall()
    raw.mset({"a": b'"value a"', "b": b'"value b"'})


async def ended(question: Question, cache: AsyncRedisCache) -> str:
    """How it ended: right, wrong, or with which error."""
    try:
        answer = await question.execute(cache)
    except CacheError as error:
        return error.code
    return "right" if answer == question.answer else f"wrong: {answer!r}"


@pytest.mark.usefixtures("no_pending_invalidations")
@pytest.mark.parametrize("question", QUESTIONS, ids=repr)
async def test_truncated_reply_is_not_used(
    network: Proxy, raw: Client, question: Question, bound: int
) -> None:
    """9. A reply is cut at every byte offset: the correct value or a typed error, 0 wrong results."""
    results: Counter[str] = Counter()
    async with AsyncRedisCache.from_url(network.url, max_size=bound, max_connections=1) as cache:
        prepare(raw)
        network.forget()
        assert await ended(question, cache) == "right"
        length = network.bytes_to_client
        for offset in range(length + 1):
            endings: list[Ending] = ["fin", "rst"]
            for ending in endings if LONG else endings[offset % 2 :][:1]:
                prepare(raw)
                network.cut_replies_after(offset, ending)
                results[await ended(question, cache)] += 1
                # One that came whole is cut off behind it: the end is on its way.
                await await_until(lambda: network.open_now <= 1)
    report(9, f"{question}: {length + 1} offsets, {counts(results)}", length)
    assert results.keys() == ({"right", "OUTCOME_UNKNOWN"} if question.told_once else {"right"})
    assert results["right"] >= 1


@pytest.mark.parametrize("question", QUESTIONS, ids=repr)
@pytest.mark.parametrize("ending", ["fin", "rst"])
async def test_lost_reply_is_retried(
    network: Proxy, raw: Client, question: Question, bound: int, ending: Ending
) -> None:
    """10. A reply is lost after execution: all states converge, and no call reports a wrong result."""
    async with AsyncRedisCache.from_url(network.url, max_size=bound) as cache:
        prepare(raw)
        network.forget()
        network.swallow_replies(ending=ending)
        result = await ended(question, cache)
        assert result == ("OUTCOME_UNKNOWN" if question.told_once else "right")
        expected = {
            "store": (b'"new"', b'"value b"', None),
            "store_many": (b'"new"', b'"value b"', b'"new"'),
            "store_none": (None, b'"value b"', None),
            "remove": (None, b'"value b"', None),
            "remove_many": (None, None, None),
        }
        state = tuple(raw.mget("a", "b", "c"))
        assert state == expected.get(question.name, (b'"value a"', b'"value b"', None))
        if bound:
            # The index knows what is there and was stored through the cache, and nothing else.
            stored = {"store": {b"a"}, "store_many": {b"a", b"c"}}
            assert set(raw.zrange(b"\0index", 0, -1)) == stored.get(question.name, set())
        assert cache.stats().retries == 1
    told = "correct" if result == "right" else result
    report(10, f"{question}: result {told}, server state correct, 1 retry")


@pytest.mark.parametrize("question", QUESTIONS, ids=repr)
async def test_lost_replies_raise_what_is_known(
    network: Proxy, raw: Client, question: Question, bound: int
) -> None:
    """After its retries a read fails; a change raises that it may have been executed."""
    async with AsyncRedisCache.from_url(network.url, max_size=bound, retries=2) as cache:
        for _ in range(2):
            # The first time a script is sent with its source, then by its digest.
            prepare(raw)
            network.forget()
            assert await ended(question, cache) == "right"
        # Some look at what is stored besides.
        command = "PEXPIRE" if "PEXPIRE" in network.counts else next(iter(network.counts))
        prepare(raw)
        network.forget()
        network.swallow_replies(times=1_000, command=command)
        asks = question.name in {"retrieve", "miss", "retrieve_many", "contains"}
        assert await ended(question, cache) == ("CONNECTION_LOST" if asks else "OUTCOME_UNKNOWN")
        times = 2 if question.name == "store_many" and not bound else 1
        assert network.counts[command] == 3 * times
