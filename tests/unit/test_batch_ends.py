"""A call of a batch loader whose callers leave."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from async_redis_cache._api.batch_loading import Batch

KEYS = ["one", "two"]


async def call(loader: Callable[[], Awaitable[Any]]) -> Any:
    return await loader()


def test_loop_that_is_closed_while_the_loader_is_cancelled_logs_nothing() -> None:
    """Callers leave in the last iteration of an event loop, which then does not end the loader."""
    loop = asyncio.new_event_loop()
    reports: list[Any] = []
    loop.set_exception_handler(lambda _, context: reports.append(context["message"]))

    async def load(_: list[str]) -> dict[str, str]:
        loop.stop()
        await asyncio.sleep(60)
        return {}

    batch = Batch(KEYS, load, call)
    waiters = [loop.create_task(batch.value(key)) for key in KEYS]
    loop.run_forever()
    assert all(waiter.cancel() for waiter in waiters)
    # What has to be called when the callers are cancelled is called in this iteration.
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert [waiter.cancelled() for waiter in waiters] == [True, True]
    loop.close()
    del batch, waiters
    gc.collect()
    assert reports == []


async def test_loader_is_not_called_for_callers_that_have_left() -> None:
    """The last key is decided after the callers of all others have been cancelled."""
    called: list[list[str]] = []

    async def load(keys: list[str]) -> dict[str, str]:
        called.append(keys)
        return {}

    batch = Batch(KEYS, load, call)
    waiter = asyncio.ensure_future(batch.value("one"))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.wait((waiter,))
    batch.decide("two")
    await asyncio.sleep(0)
    assert called == []
