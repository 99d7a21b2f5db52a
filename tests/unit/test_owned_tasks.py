"""Background tasks that end with their owner, and the pauses between attempts."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context

import pytest

from async_redis_cache._common.backoff import Backoff
from async_redis_cache._common.tasks import OwnedTasks

TENANT: ContextVar[str] = ContextVar("TENANT", default="none")


async def test_wait_includes_tasks_spawned_meanwhile() -> None:
    """`wait` returns when no task is running, and raises nothing of theirs."""
    tasks, ended = OwnedTasks(), list[str]()

    async def second() -> None:
        await asyncio.sleep(0)
        ended.append("second")
        raise LookupError

    async def first() -> None:
        await asyncio.sleep(0)
        spawned.append(tasks.spawn(second()))
        ended.append("first")

    spawned: list[asyncio.Task[None]] = []
    tasks.spawn(first())
    assert tasks
    await tasks.wait()
    assert not tasks
    assert ended == ["first", "second"]
    with pytest.raises(LookupError):
        spawned[0].result()


async def test_cancel_ends_every_task() -> None:
    """A task that waits forever is cancelled."""
    tasks = OwnedTasks()
    waiting = [tasks.spawn(asyncio.Event().wait()) for _ in range(3)]
    tasks.cancel()
    await tasks.wait()
    assert all(task.cancelled() for task in waiting)


async def test_task_does_not_see_context_of_its_call() -> None:
    """The context is empty unless another is given."""
    tasks = OwnedTasks()

    async def tenant() -> str:
        return TENANT.get()

    reset = TENANT.set("kettle")
    try:
        assert await tasks.spawn(tenant()) == "none"
        assert await tasks.spawn(tenant(), copy_context()) == "kettle"
    finally:
        TENANT.reset(reset)


def test_pauses_double_up_to_limit_and_start_again() -> None:
    """Without jitter: the first, twice as long each time, at most the longest; `reset` starts again."""
    backoff = Backoff(0.1, 0.5)
    for _ in range(2):
        pauses = [backoff.next_pause() for _ in range(5)]
        assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
        backoff.reset()


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_jitter_multiplies_each_pause(chance: float, factor: float) -> None:
    """The factor is in the given range; it does not change the pause that is doubled."""
    backoff = Backoff(0.1, 0.5, random=lambda: chance, jitter=(0.5, 1.5))
    pauses = [backoff.next_pause() for _ in range(4)]
    assert pauses == pytest.approx([factor * pause for pause in (0.1, 0.2, 0.4, 0.5)])
