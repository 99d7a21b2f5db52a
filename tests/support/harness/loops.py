"""The event loops of the tests: asyncio's, or as `ARC_LOOP` says, for example `ARC_LOOP=eager+debug`.

This applies to the loops of the tests and to the private loop of the synchronous API where uvloop is missing. The
proxy keeps its own loop.
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

# A synchronous caller blocks its thread, and loads on it, even where it runs on a loop. What these modules hand to
# the private loop is watched there. Spans wrap both APIs.
SYNCHRONOUS = [
    f"async_redis_cache.{name}"
    for name in (
        *("_runtime.portal", "_runtime.portal_queue", "_runtime.stepping"),
        *("_api.calling_thread", "_api.sync_cache", "_api.sync_loading"),
        "otel",
    )
]

blocked: list[str] = []
"""The blocking calls that were refused, with their stacks: the library may have handled the exception."""

L = TypeVar("L", bound=asyncio.AbstractEventLoop)


def as_chosen(loop: L) -> L:
    """Apply the chosen variants to a loop."""
    if "eager" in LOOP:
        if sys.version_info < (3, 12):
            raise pytest.UsageError("tasks are eager on Python 3.12 and later only")
        loop.set_task_factory(asyncio.eager_task_factory)
    if "debug" in LOOP:
        loop.set_debug(True)
        # The duration of a step depends on the machine.
        loop.slow_callback_duration = math.inf
    return loop


@contextmanager
def chosen_loops() -> Generator[None]:
    """Make the chosen loops the default of this process."""
    plain: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if "uvloop" in LOOP:
        import uvloop

        plain = uvloop.new_event_loop
    with pytest.MonkeyPatch.context() as patch, _watched() if "watched" in LOOP else nullcontext():
        # asyncio uses the first name, everything else the second; event loop policies are deprecated.
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

    # The tests themselves may block, for instance to kill a server or to inspect it.
    of_the_library = ["async_redis_cache", "redis.asyncio"]
    watching = blockbuster.blockbuster_ctx(of_the_library, excluded_modules=SYNCHRONOUS)
    with pytest.MonkeyPatch.context() as patch, watching as watch:
        patch.setattr(blockbuster, "BlockingError", Blocked)
        for function in watch.functions.values():
            # The program chooses where log records are written.
            function.can_block_in("logging/__init__.py", "emit")
            # A loader of a test may inject a fault and wait for it.
            function.can_block_in("harness/proxy.py", "_do")
        yield
