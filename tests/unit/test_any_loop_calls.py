"""Calls from an event loop into that of a portal, and the wake-ups between them."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextvars import Context, ContextVar
from typing import Any

import pytest

from async_redis_cache import CacheError, CacheTimeout
from async_redis_cache._api.engine_calls import in_task
from async_redis_cache._runtime.any_loop_call import AnyLoopCall, Bridge
from async_redis_cache._runtime.loop_mailbox import mailbox
from async_redis_cache._runtime.portal import Portal
from async_redis_cache._runtime.waker import waker_of
from harness import wait_until
from harness.leaks import open_descriptors

SECONDS = 20.0
MANY = 100
needs_eventfd = pytest.mark.skipif(sys.platform != "linux", reason="wakers need eventfd")

on_asyncio = pytest.mark.not_with("uvloop", reason="only event loops of asyncio have wakers")


async def nothing() -> None: ...


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    portal = Portal(nothing)
    portal.start()
    yield Bridge(portal, SECONDS)
    portal.close()


async def sleep_on_portal(bridge: Bridge) -> Any:
    """Wait on the private event loop until this is cancelled."""
    return await AnyLoopCall(bridge, asyncio.sleep, SECONDS)


async def resume_together(bridge: Bridge, *callers: asyncio.Task[Any]) -> None:
    """Have the calls of these tasks end while this event loop does not run, so that one wake-up delivers all."""
    while len(mailbox().waiting) < len(callers):  # noqa: ASYNC110  the tasks say nothing
        await asyncio.sleep(0)
    ended = threading.Event()
    bridge.portal.post(ended.set)
    ended.wait(SECONDS)


@needs_eventfd
@on_asyncio
def test_descriptors_of_busy_loop_are_closed_with_it(bridge: Bridge) -> None:
    """An event loop of asyncio with many calls is woken by a descriptor, which does not outlive it; one with few needs none."""

    async def call(times: int) -> bool:
        for _ in range(times):
            await AnyLoopCall(bridge, nothing)
        gone.append(weakref.ref(asyncio.get_running_loop()))
        has_waker = mailbox()._waker is not None
        assert wakers() == before + has_waker
        return has_waker

    def wakers() -> int:
        gc.collect()
        return sum("eventfd" in target for target in open_descriptors().values())

    gone: list[weakref.ref[Any]] = []
    before = wakers()
    assert not asyncio.run(call(3))
    assert asyncio.run(call(MANY))
    # The thread of the portal may just be returning from the last wake-up.
    wait_until(lambda: wakers() == before)
    assert [ref() for ref in gone] == [None, None]


def test_message_of_a_cancellation(bridge: Bridge) -> None:
    """The task gets the CancelledError that `Task.cancel` asks for."""

    async def main() -> None:
        task = asyncio.create_task(sleep_on_portal(bridge))
        await asyncio.sleep(0)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task

    asyncio.run(main())


def test_cancellation_beside_the_result(bridge: Bridge) -> None:
    """A task that is cancelled when its result is ready, and not delivered yet, is cancelled."""

    async def call() -> None:
        await AnyLoopCall(bridge, nothing)

    async def main() -> None:
        first, second = (asyncio.create_task(call()) for _ in range(2))
        await resume_together(bridge, first, second)
        second.cancel()
        await asyncio.wait((first, second))
        assert (first.cancelled(), second.cancelled()) == (False, True)

    asyncio.run(main())


def test_task_that_ends_its_loop_loses_no_result(bridge: Bridge) -> None:
    """SystemExit of one task does not take the results of others that were delivered with it."""

    async def leave() -> None:
        await AnyLoopCall(bridge, nothing)
        raise SystemExit

    async def stay() -> str:
        await AnyLoopCall(bridge, nothing)
        return "here"

    async def main() -> None:
        tasks.extend((loop.create_task(leave()), loop.create_task(stay())))
        await resume_together(bridge, *tasks)
        await asyncio.Event().wait()

    tasks: list[asyncio.Task[Any]] = []
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(main())
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert loop.run_until_complete(tasks[1]) == "here"
    waiting.cancel()
    loop.run_until_complete(asyncio.wait((waiting,)))
    loop.close()
    with pytest.raises(SystemExit):
        tasks[0].result()


def test_task_goes_on_in_its_context(bridge: Bridge) -> None:
    """A task that is resumed has its own context variables, not those of others."""
    name: ContextVar[int] = ContextVar("name")

    async def call(number: int) -> bool:
        name.set(number)
        for _ in range(MANY):
            await AnyLoopCall(bridge, nothing)
            assert name.get() == number
        return True

    async def main() -> None:
        assert all(await asyncio.gather(*map(call, range(10))))

    asyncio.run(main())


def test_task_with_an_empty_context_goes_on_in_it(bridge: Bridge) -> None:
    """A variable that a task sets between its calls keeps its value, although the task began without any."""
    variable = ContextVar[str]("variable", default="unset")

    async def set_between_calls() -> str:
        await AnyLoopCall(bridge, nothing)
        token = variable.set("set")
        await AnyLoopCall(bridge, nothing)
        found = variable.get()
        variable.reset(token)
        return found

    async def run() -> str:
        return await asyncio.create_task(set_between_calls(), context=Context())

    assert asyncio.run(run()) == "set"


@needs_eventfd
@on_asyncio
def test_waker_calls_once_for_several_wakes() -> None:
    """Wakes before the event loop runs make one call, in an empty context; one that a fork has read raises nothing."""
    name: ContextVar[int] = ContextVar("name")
    seen: list[int] = []

    async def main() -> None:
        name.set(1)
        waker = waker_of(asyncio.get_running_loop(), lambda: seen.append(name.get(0)))
        assert waker is not None
        for _ in range(3):
            waker.wake()
        while not seen:  # noqa: ASYNC110  the waker says nothing
            await asyncio.sleep(0)
        waker._on_readable()

    asyncio.run(main())
    assert seen == [0, 0]


@needs_eventfd
def test_no_waker_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file descriptor is left, or the event loop is not asyncio's, there is no waker."""

    def fail(*_: object) -> int:
        raise OSError("no file descriptors left")

    async def main() -> None:
        assert waker_of(asyncio.get_running_loop(), print) is None

    monkeypatch.setattr("os.eventfd", fail)
    asyncio.run(main())
    monkeypatch.undo()
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_exception_is_freed_with_its_task(bridge: Bridge) -> None:
    """No cycle of the frames of a resumed task and those that have resumed it holds what the task held."""

    class Held:
        pass

    async def fail() -> None:
        local = Held()
        held.append(weakref.ref(local))
        await AnyLoopCall(bridge, nothing)
        raise LookupError

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait((task,))
        assert isinstance(task.exception(), LookupError)

    held: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        asyncio.run(main())
        assert held[0]() is None
    finally:
        gc.enable()


def test_call_that_is_sent_when_others_are_given_up_has_its_own_deadline() -> None:
    """A task that goes on after its call has timed out may call again, and that times out in time."""
    portal = Portal(nothing)
    portal.start()
    gate = threading.Event()

    async def call(seconds: float) -> Any:
        overdue = AnyLoopCall(Bridge(portal, SECONDS), nothing)
        overdue.deadline = time.monotonic() + seconds
        with pytest.raises(CacheError) as caught:
            await overdue
        return caught.value

    async def main() -> None:
        later = asyncio.create_task(call(SECONDS))
        began = time.monotonic()
        for _ in range(3):
            assert isinstance(await call(0.01), CacheTimeout)
        assert time.monotonic() - began < SECONDS / 2
        gate.set()
        later.cancel()

    portal.post(gate.wait, SECONDS)
    asyncio.run(main())
    portal.close()


async def test_load_cancelled_before_its_first_step_is_never_called() -> None:
    """No coroutine is left that was not awaited, which Python would warn of."""
    calls: list[int] = []

    async def load() -> None:
        calls.append(1)

    task = in_task(Context(), load)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()
    assert not calls
