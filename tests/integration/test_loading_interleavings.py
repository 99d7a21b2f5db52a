"""A load and a change of its key, in every order of their round trips.

Each process's questions to the server stop at a gate, as does its look at the origin; the test lets one
through at a time, in an order of its own, and tries all orders.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from async_redis_cache._protocol.commands import TIME

if TYPE_CHECKING:
    from async_redis_cache import AsyncRedisCache, Load
    from async_redis_cache._protocol.command import Command

pytest_plugins = ["loading_fixtures"]
pytestmark = pytest.mark.depends_on("storage", "near")

LOADER, CHANGER = "L", "C"
LOADER_STEPS, CHANGER_STEPS = 7, 3
"""At least as many as they take: read, right, look at the origin, versions of tags, publication; the
origin, and what the change asks for."""
ORDERS = [
    "".join(CHANGER if step in chosen else LOADER for step in range(LOADER_STEPS + CHANGER_STEPS))
    for chosen in combinations(range(LOADER_STEPS + CHANGER_STEPS), CHANGER_STEPS)
]


class Gate:
    """Lets the steps of two actors through, one at a time, in an order."""

    def __init__(self, order: str) -> None:
        self._order = deque(order)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {LOADER: deque(), CHANGER: deque()}
        self._in_flight = 0
        self.taken = ""

    async def step(self, actor: str) -> None:
        """Wait for one's turn."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[actor].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # As the renewal of a right is, whose load has ended.
            if turn in self._waiting[actor]:
                self._waiting[actor].remove(turn)
            else:
                self.done()
            raise

    def done(self) -> None:
        """The step has been made."""
        self._in_flight -= 1

    async def direct(self, actors: dict[str, asyncio.Task[Any]]) -> None:
        """Until both have ended."""
        while not all(task.done() for task in actors.values()):
            # All that can go on without a step does, and what was cancelled leaves.
            while self._in_flight or not all(  # noqa: ASYNC110  no event tells it
                (task.done() or self._waiting[actor])
                and not any(turn.cancelled() for turn in self._waiting[actor])
                for actor, task in actors.items()
            ):
                await asyncio.sleep(0)
            able = [actor for actor, turns in self._waiting.items() if turns]
            if not able:
                continue
            wanted = next((actor for actor in self._order if actor in able), able[0])
            if wanted in self._order:
                self._order.remove(wanted)
            self.taken += wanted
            self._in_flight += 1
            self._waiting[wanted].popleft().set_result(None)
            await asyncio.sleep(0)
        # What nobody waits for, as a right that is given back, may have come to its step and not through.
        for turn in (*self._waiting[LOADER], *self._waiting[CHANGER]):
            if not turn.done():
                turn.set_result(None)


def gated(cache: AsyncRedisCache, gate: Gate, actor: str, patch: pytest.MonkeyPatch) -> None:
    """Let each question of this cache be a step."""
    batcher = cache._lifecycle.ready().engine._batcher
    ask = batcher.execute

    def stepped(operation: Command, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        if operation is TIME:  # Asked from time to time, and not for the load.
            return ask(operation, *args, **kwargs)

        async def go() -> Any:
            await gate.step(actor)
            try:
                return await ask(operation, *args, **kwargs)
            finally:
                gate.done()

        return asyncio.get_running_loop().create_task(go())

    patch.setattr(batcher, "execute", stepped)


CHANGES: dict[str, Callable[[AsyncRedisCache], Coroutine[Any, Any, Any]]] = {
    "store": lambda cache: cache.store(None, "key", "new", tags=["tag"]),
    "store plain": lambda cache: cache.store(None, "key", "new"),
    "remove": lambda cache: cache.remove(None, "key"),
    "invalidate": lambda cache: cache.invalidate_tags(None, "tag"),
}


@pytest.mark.parametrize("before", ["nothing", "a value"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("storage", ["bounded", "unbounded"], indirect=True)
async def test_old_value_is_left_by_no_interleaving(
    change: str, before: str, one: AsyncRedisCache, other: AsyncRedisCache
) -> None:
    """Whenever the change comes: what is read afterwards is nothing, or the new value."""
    seen: set[str] = set()
    for order in ORDERS:
        await one.remove(None, "key")
        if before == "a value":
            await one.store(None, "key", "old", tags=["tag"])
        origin = ["old"]
        gate = Gate(order)

        async def load(load: Load, origin: list[str] = origin, gate: Gate = gate) -> str:
            await gate.step(LOADER)
            found = origin[0]
            gate.done()
            load.tags = ("tag",)
            return found

        async def alter(origin: list[str] = origin, gate: Gate = gate) -> None:
            await gate.step(CHANGER)
            origin[0] = "new"
            gate.done()
            await CHANGES[change](other)

        with pytest.MonkeyPatch.context() as patch:
            gated(one, gate, LOADER, patch)
            gated(other, gate, CHANGER, patch)
            call = one.refresh if before == "a value" else one.retrieve_or_load
            loading = asyncio.create_task(call(None, "key", load))
            async with asyncio.timeout(60):
                await gate.direct({LOADER: loading, CHANGER: asyncio.create_task(alter())})
        assert await loading in {"old", "new"}
        assert await other.retrieve(None, "key") in {None, "new"}, gate.taken
        assert await one.retrieve_or_load(None, "key", lambda: "new") == "new", gate.taken
        seen.add(gate.taken)
    # Where a load has five steps and a change two, there are 21 orders.
    assert len(seen) >= 21
