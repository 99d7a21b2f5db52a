"""All steps of a load together spend at most `command_timeout` on the server (scenario 34)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from async_redis_cache import AsyncRedisCache
from async_redis_cache._client.batcher import Batcher
from async_redis_cache._engine.load_lease import LoadLease
from harness import await_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from harness import Server

pytestmark = pytest.mark.depends_on()

D = 5.0
"""`command_timeout` in seconds: so long that no question fails where the machine is slow."""
ORIGIN = 0.05
"""Seconds that the origin takes, or another process."""
END: Any = 30.0


class Asked(NamedTuple):
    """A question to the server, by the loop's clock."""

    at: float
    budget: float
    answer: asyncio.Future[float]
    """Its end."""


class Watch:
    """Notes the questions that are asked of the server."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[Asked] = []
        self.begun = 0.0
        ask = Batcher.execute

        def watched(
            batcher: Batcher, *args: Any, budget: float | None = None, **kwargs: Any
        ) -> Any:
            loop = asyncio.get_running_loop()
            at = loop.time()
            answer = ask(batcher, *args, budget=budget, **kwargs)
            ended: asyncio.Future[float] = loop.create_future()
            # Before whatever awaits the answer goes on.
            answer.add_done_callback(lambda _: ended.set_result(loop.time()))
            self.asked.append(Asked(at, D if budget is None else budget, ended))
            return answer

        patch.setattr(Batcher, "execute", watched)

    def begin(self) -> None:
        """From now on."""
        self.asked.clear()
        self.begun = asyncio.get_running_loop().time()

    def check(self, steps: int) -> None:
        """Each step gets the time that the earlier ones have left, so that all of them end within D.

        What a step has spent is less than what the load knows of it, by what lies between.
        """
        assert len(self.asked) >= steps
        spent = 0.0
        for asked in self.asked[:steps]:
            assert asked.budget <= D - spent, self.asked
            spent += asked.answer.result() - asked.at


@pytest.fixture
async def cache(server: Server) -> AsyncIterator[AsyncRedisCache]:
    """An open cache."""
    async with AsyncRedisCache.from_url(
        server.url, key_prefix="budget:", command_timeout=int(D * 1000), max_size=0
    ) as cache:
        await cache.ping(None)
        yield cache


async def origin(*_: Any) -> str:
    """It takes its time."""
    await asyncio.sleep(ORIGIN)
    return "value"


async def many(keys: list[str]) -> dict[str, str]:
    """The same of many keys."""
    return dict.fromkeys(keys, await origin())


CALLS: dict[str, tuple[Callable[[AsyncRedisCache], Awaitable[Any]], int]] = {
    "retrieve_or_load": (lambda cache: cache.retrieve_or_load(None, "a", origin), 3),
    "tags": (lambda cache: cache.retrieve_or_load(None, "a", origin, tags=["t"]), 4),
    "entry": (lambda cache: cache.retrieve_or_load_entry(None, "a", origin), 3),
    "refresh": (lambda cache: cache.refresh(None, "a", origin, tags=["t"]), 4),
    "many": (lambda cache: cache.retrieve_or_load_many(None, ["a"], many, tags=["t"]), 4),
}


@pytest.mark.parametrize("name", CALLS)
async def test_steps_of_a_load_share_one_deadline(
    cache: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """34. Read, lease, tags and publication of a load share one `command_timeout`; the loader's time is not counted."""
    call, steps = CALLS[name]
    watch = Watch(monkeypatch)
    watch.begin()
    async with asyncio.timeout(END):
        await call(cache)
    watch.check(steps)
    last = watch.asked[steps - 1]
    assert last.at - watch.begun > ORIGIN
    # The origin's time is not in it: what is left was not less than D by that much more.
    assert last.budget > D - (last.at - watch.begun) + ORIGIN / 2


async def test_waiting_for_another_process_is_not_spent_on_the_server(
    cache: AsyncRedisCache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """34. Waiting for the load of another process counts as loading, and is limited by `hard_timeout`."""
    may_end = asyncio.Event()

    async def failing() -> str:
        await may_end.wait()
        raise LookupError

    async with AsyncRedisCache.from_url(server.url, key_prefix="budget:", max_size=0) as other:
        first = asyncio.create_task(other.retrieve_or_load(None, "a", failing))
        await await_until(lambda: other.stats().loads == 1)
        look_on = LoadLease._poll
        waiting = waited = 0.0

        async def measured(right: LoadLease, left: float) -> None:
            nonlocal waiting, waited
            waiting = begun = asyncio.get_running_loop().time()
            await look_on(right, left)
            waited += asyncio.get_running_loop().time() - begun

        monkeypatch.setattr(LoadLease, "_poll", measured)
        watch = Watch(monkeypatch)
        watch.begin()
        second = asyncio.create_task(cache.retrieve_or_load(None, "a", origin))
        await await_until(lambda: waiting > 0)
        await asyncio.sleep(ORIGIN)
        may_end.set()
        with pytest.raises(LookupError):
            await first
        async with asyncio.timeout(END):
            assert await second == "value"
    publication = watch.asked[-1]
    passed = publication.at - watch.begun
    questions = sum(one.answer.result() - one.at for one in (*watch.asked[:2], watch.asked[-2]))
    assert waited > ORIGIN / 2
    assert publication.budget <= D - questions
    assert publication.budget > D - passed + waited + ORIGIN / 2


async def test_value_is_returned_and_not_published_when_nothing_is_left(
    cache: AsyncRedisCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """34. If the budget is used up, the value is returned and not stored, and the next call loads at once."""
    win = LoadLease.acquire

    async def slow(right: LoadLease, *args: Any, **kwargs: Any) -> Any:
        won = await win(right, *args, **kwargs)
        right.since -= D
        return won

    with monkeypatch.context() as patch:
        patch.setattr(LoadLease, "acquire", slow)
        async with asyncio.timeout(END):
            assert await cache.retrieve_or_load(None, "a", origin) == "value"
            assert await cache.retrieve(None, "a") is None
    async with asyncio.timeout(END):
        assert await cache.retrieve_or_load(None, "a", origin) == "value"
    assert await cache.retrieve(None, "a") == "value"
