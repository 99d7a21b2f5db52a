"""The portal: calls from any thread into a private loop and back, which always end."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import Never

import pytest

from async_redis_cache._runtime.portal import Portal, PortalRefusedError
from harness.figures import report
from harness.leaks import open_descriptors
from harness.programs import PrivateLoop
from harness.run_length import scaled
from harness.waiting import wait_until

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.usefixtures("private_loop")

PATIENCE_SECONDS = 10.0


async def nothing() -> None:
    pass


async def seven() -> int:
    return 7


async def echo(value: int) -> int:
    """Through the loop, as calls do that wait for the server."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()
    loop.call_soon(future.set_result, value)
    return await future


@contextmanager
def opened() -> Generator[Portal]:
    portal = Portal(nothing)
    portal.start()
    try:
        yield portal
    finally:
        portal.close()


_others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Which threads are not this test's: a cache that other tests share may have one."""
    _others.clear()
    _others.update(threading.enumerate())


def portal_threads() -> list[threading.Thread]:
    mine = set(threading.enumerate()) - _others
    return [thread for thread in mine if thread.name == "RedisCache"]


@pytest.mark.not_with("uvloop", reason="whoever asks asyncio for a loop gets one of uvloop")
def test_private_loop_is_uvloop_where_that_is_installed(private_loop: PrivateLoop) -> None:
    """The private loop is uvloop's where that can be imported, whatever the program runs on."""

    async def module() -> str:
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    with opened() as portal:
        assert portal.call(module) == private_loop


def test_call_gives_the_result() -> None:
    """A call returns what the coroutine returns, having waited or not."""
    with opened() as portal:
        assert portal.call(seven) == 7
        assert portal.call(echo, 8) == 8
        assert portal.run(echo, 9) == 9


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, StopAsyncIteration])
def test_what_is_raised_is_raised_in_the_caller(kind: type[BaseException]) -> None:
    """Any exception of the coroutine ends the call, and the portal keeps running."""

    async def fail() -> None:
        await echo(1)
        raise kind("said")

    with opened() as portal:
        for attempt in (portal.call, portal.run):
            with pytest.raises(kind, match="said"):
                attempt(fail)
            assert portal.call(seven) == 7


def test_function_that_cannot_be_called_fails_its_caller_alone() -> None:
    """An error before there is a coroutine is raised in the caller and affects no other call."""
    outcomes: list[object] = []

    def broken() -> Never:
        raise LookupError("no coroutine")

    def call(portal: Portal, number: int) -> None:
        try:
            outcomes.append(portal.call(echo, number) if number else portal.call(broken))
        except LookupError as error:
            outcomes.append(error.args)

    with opened() as portal:
        callers = [
            threading.Thread(target=call, args=(portal, number), daemon=True)
            for number in range(50)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(PATIENCE_SECONDS)
        assert {*outcomes} == {("no coroutine",), *range(1, 50)}


def test_call_from_the_portals_own_thread_is_refused() -> None:
    """Waiting for the loop on the loop would be for ever: IN_EVENT_LOOP instead."""
    with opened() as portal:

        async def inside() -> int:
            return portal.call(seven)

        with pytest.raises(PortalRefusedError) as caught:
            portal.call(inside)
        assert caught.value.code == "IN_EVENT_LOOP"


def test_two_portals_do_not_wait_for_each_other() -> None:
    """A portal's thread waits for no other portal either, since that one could wait for it."""
    with opened() as one, opened() as other:

        async def back() -> int:
            return one.call(seven)

        async def there() -> int:
            return other.call(back)

        with ThreadPoolExecutor(1) as threads:
            error = threads.submit(one.call, there).exception(PATIENCE_SECONDS)
        assert isinstance(error, PortalRefusedError)
        assert error.code == "IN_EVENT_LOOP"


def test_call_after_close_is_refused() -> None:
    """A closed portal refuses: NOT_OPENED, at once, however often it is closed."""
    with opened() as portal:
        portal.close()
        portal.close()
        with pytest.raises(PortalRefusedError) as caught:
            portal.call(seven)
    assert caught.value.code == "NOT_OPENED"
    assert portal_threads() == []


def test_close_during_calls_leaves_nobody_waiting() -> None:
    """When close meets calls, each of them ends in its answer or in NOT_OPENED."""
    ends: list[object] = []

    def call_until_refused(portal: Portal, number: int) -> None:
        while True:
            try:
                ends.append(portal.call(echo, number) == number)
            except PortalRefusedError as error:
                ends.append(error.code)
                return

    for attempt in range(scaled(100, 2000)):
        with opened() as portal, ThreadPoolExecutor(8) as threads:
            callers = [threads.submit(call_until_refused, portal, number) for number in range(8)]
            # From before the first call to in the midst of many.
            wait_until(lambda least=attempt % 20: len(ends) >= least)  # type: ignore[misc]
            portal.close()
            assert wait(callers, PATIENCE_SECONDS).not_done == set()
        assert set(ends) <= {True, "NOT_OPENED"}
        ends.clear()
    assert portal_threads() == []


def test_close_ends_calls_that_would_wait_for_ever() -> None:
    """A call in flight when the portal is closed raises NOT_OPENED, even without a reply."""
    begun: list[object] = []

    async def never() -> None:
        future = asyncio.get_running_loop().create_future()
        begun.append(future)
        await future

    with opened() as portal, ThreadPoolExecutor(4) as threads:
        callers = [threads.submit(portal.call, never) for _ in range(4)]
        wait_until(lambda: len(begun) == 4)
        portal.close()
        for caller in callers:
            error = caller.exception(PATIENCE_SECONDS)
            assert isinstance(error, PortalRefusedError)
            assert error.code == "NOT_OPENED"


def test_close_while_starting_ends_the_thread() -> None:
    """A portal that is closed before its loop runs, as after an interrupt, has no thread left."""
    for _ in range(scaled(50, 1000)):
        portal = Portal(nothing)
        with ThreadPoolExecutor(1) as threads:
            starting = threads.submit(portal.start)
            wait_until(portal_threads)
            portal.close()
            assert isinstance(starting.exception(PATIENCE_SECONDS), PortalRefusedError | None)
        wait_until(lambda: not portal_threads())


def test_ending_runs_on_the_loop_before_it_ends() -> None:
    """The final callback runs once, on the loop's thread."""
    ran: list[threading.Thread] = []

    async def ending() -> None:
        await echo(1)
        ran.append(threading.current_thread())

    portal = Portal(ending)
    portal.start()
    portal.close()
    portal.close()
    assert [thread.name for thread in ran] == ["RedisCache"]


def test_ending_that_fails_ends_the_thread_all_the_same() -> None:
    """An error of the final callback has no effect and is not printed by the thread."""

    async def ending() -> None:
        raise OSError("too late to matter")

    portal = Portal(ending)
    portal.start()
    portal.close()
    assert portal_threads() == []


def test_loop_that_cannot_be_made_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors for a loop, start raises instead of waiting for ever."""

    def none_left() -> Never:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("async_redis_cache._runtime.portal._new_event_loop", none_left)
    outcome: list[BaseException] = []

    def start() -> None:
        try:
            Portal(nothing).start()
        except PortalRefusedError as error:
            outcome.append(error)

    # A daemon: should it wait for ever, that fails this test and does not keep the others.
    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert len(outcome) == 1


class Interrupted(BaseException):
    """What the signal handler of these tests raises."""


@contextmanager
def interruptible() -> Generator[None]:
    """Signals interrupt this thread like Ctrl-C, but not within garbage collector callbacks.

    What a callback of the garbage collector raises reaches nobody: pytest reports it as unraisable.
    Hypothesis has such a callback.
    """

    def interrupt(signum: int, frame: FrameType | None) -> Never:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


def test_interrupts_at_any_moment_leave_the_portal_in_order() -> None:
    """23. Ctrl-C between any two steps of a call does not block later calls of any thread."""
    slowest = 0.0
    interrupts = 0
    with opened() as portal, interruptible(), ThreadPoolExecutor(1) as threads:
        for attempt in range(scaled(500, 10_000)):
            try:
                # Periods that share no factor with anything: they sweep over the call's steps.
                signal.setitimer(signal.ITIMER_REAL, 20e-6 + (attempt * 7.3e-6) % 300e-6)
                for number in range(50):
                    assert portal.call(echo, number) == number
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupted:
                interrupts += 1
            started = time.monotonic()
            assert threads.submit(portal.call, echo, attempt).result(PATIENCE_SECONDS) == attempt
            slowest = max(slowest, time.monotonic() - started)
    assert interrupts > 0
    report(
        23,
        f"{interrupts} interrupts, then at most {slowest * 1e3:.1f} ms for another thread",
        slowest,
    )


def test_raised_exception_keeps_no_descriptor_open() -> None:
    """An exception that the caller keeps, with its traceback into the event loop, does not keep the loop's descriptors."""

    async def fail() -> Never:
        raise LookupError

    before = open_descriptors()
    with opened() as portal, pytest.raises(LookupError) as raised:
        portal.call(fail)
    assert open_descriptors().keys() <= before.keys(), raised
