"""An event loop with a virtual clock, which jumps to the next timer instead of waiting."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, ParamSpec

from harness.loops import as_chosen

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while callbacks are ready.

    It has no network: waiting for a socket raises.
    """

    def __init__(self) -> None:
        self._now = 1_000.0
        super().__init__(_JumpingSelector(self.pass_time))
        as_chosen(self)

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Advance the clock by so many seconds."""
        self._now += seconds


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, pass_time: Callable[[float], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:
            raise RuntimeError("nothing is due, and somebody waits")
        self._pass_time(timeout)
        return events


def in_virtual_time(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run an asynchronous test on a virtual clock."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def turns(count: int = 3) -> None:
    """Run the callbacks that are ready, without advancing the clock."""
    for _ in range(count):
        await asyncio.sleep(0)
