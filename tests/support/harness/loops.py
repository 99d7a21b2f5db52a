"""The event loops of the tests: plain ones, or what `ARC_LOOP` says, as in `ARC_LOOP=eager+debug`.

It holds for every loop that a program may choose: those of the tests, and the private one of the
synchronous API where uvloop is missing. The proxy keeps its own.
"""

from __future__ import annotations

import asyncio
import math
import sys
import traceback
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

import pytest

from harness.choices import LOOP

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# A synchronous caller waits by being blocked, and loads on its own thread: on a loop too, where it
# called from there. What these hand to the private loop is watched there. A span is around both APIs.
SYNCHRONOUS = [
    f"async_redis_cache.{name}"
    for name in (
        *("_runtime.portal", "_runtime.portal_queue", "_runtime.stepping"),
        *("_api.calling_thread", "_api.sync_cache", "_api.sync_loading"),
        "otel",
    )
]

blocked: list[str] = []
"""What was refused for blocking a loop, and where: it may have been taken for other trouble."""

L = TypeVar("L", bound=asyncio.AbstractEventLoop)


def as_chosen(loop: L) -> L:
    """The loop, with all of the choice that a loop can be told."""
    if "eager" in LOOP:
        if sys.version_info < (3, 12):
            raise pytest.UsageError("tasks are eager on Python 3.12 and later only")
        loop.set_task_factory(asyncio.eager_task_factory)
    if "debug" in LOOP:
        loop.set_debug(True)
        # How long a step takes is the machine's affair.
        loop.slow_callback_duration = math.inf
    return loop


@contextmanager
def chosen_loops() -> Generator[None]:
    """Let the loops of the whole process be as chosen, where nobody says which loop he wants."""
    plain: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if "uvloop" in LOOP:
        import uvloop

        plain = uvloop.new_event_loop
    with pytest.MonkeyPatch.context() as patch, _watched() if "watched" in LOOP else nullcontext():
        # Where asyncio looks itself, and where all others do; a policy, made for it, is no more.
        for module in (asyncio.events, asyncio):
            patch.setattr(module, "new_event_loop", lambda: as_chosen(plain()))
        yield


@contextmanager
def _watched() -> Generator[None]:
    from blockbuster import blockbuster

    class Blocked(blockbuster.BlockingError):
        def __init__(self, call: str) -> None:
            super().__init__(call)
            blocked.append(f"{call}\n{''.join(traceback.format_stack(limit=20))}")

    # The tests themselves may block, as when they kill a server or look what it has.
    of_the_library = ["async_redis_cache", "redis.asyncio"]
    watching = blockbuster.blockbuster_ctx(of_the_library, excluded_modules=SYNCHRONOUS)
    with pytest.MonkeyPatch.context() as patch, watching as watch:
        patch.setattr(blockbuster, "BlockingError", Blocked)
        for function in watch.functions.values():
            # Where a record of the log is written to is for the program to choose.
            function.can_block_in("logging/__init__.py", "emit")
            # A loader of the tests may let their network fail, and waits until it does.
            function.can_block_in("harness/proxy.py", "_do")
        yield
