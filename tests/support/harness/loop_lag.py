"""Measure how late the loop runs because of the machine, to judge deadlines fairly."""

from __future__ import annotations

import asyncio
import gc
import time
from bisect import bisect_left
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

from harness.figures import Judging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

TICK_SECONDS = 0.002
DISTURBANCE_SECONDS = 0.020
ATTEMPTS = 5
GRACE_SECONDS = 0.050
"""After its limit, in which a call has to end."""
TURNS_TO_BEGIN = 3
"""Of the loop after which a call, or a task that makes it, has begun."""
TURNS = 50
"""Of the loop that a guard waits when it is due."""

T = TypeVar("T")


class Absence(NamedTuple):
    """An interval in which the loop was due and the machine ran something else."""

    end: float
    seconds: float


class MachineLag:
    """Measures every 2 ms how late the running loop is, and how much of that the machine caused.

    The CPU time of this thread is caused by the code on the loop and is not excused. The rest of a delay is: other
    programs ran, or another thread held the interpreter. Cyclic garbage collection is disabled while it measures,
    as its pauses grow with what earlier tests have left.
    """

    def __init__(self) -> None:
        self._absences: list[Absence] = []
        self._looking: asyncio.TimerHandle | None = None
        self._last_look = 0.0
        self._last_spent = 0.0

    def __enter__(self) -> Self:
        gc.collect()
        gc.disable()
        self._loop = asyncio.get_running_loop()
        self._again()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gc.enable()
        if self._looking is not None:
            self._looking.cancel()

    @property
    def worst(self) -> float:
        """The longest time that the loop was due and could not run."""
        return max((absence.seconds for absence in self._absences), default=0.0)

    def excuse(self, start: float, end: float) -> float:
        """Seconds between two moments of the loop's clock in which the loop could not run."""
        first = bisect_left(self._absences, start, key=lambda absence: absence.end)
        late = 0.0
        for absence in self._absences[first:]:
            began = absence.end - absence.seconds
            if began >= end:
                break
            late += min(absence.end, end) - max(began, start)
        # The current interval has not been measured yet.
        return late + self._absence_until(end).seconds

    def _again(self) -> None:
        self._last_look = self._loop.time()
        self._last_spent = time.thread_time()
        self._looking = self._loop.call_later(TICK_SECONDS, self._look)

    def _look(self) -> None:
        absence = self._absence_until(self._loop.time())
        if absence.seconds > 0:
            self._absences.append(absence)
        self._again()

    def _absence_until(self, now: float) -> Absence:
        late = now - self._last_look - TICK_SECONDS
        spent = time.thread_time() - self._last_spent
        return Absence(now, max(0.0, late - spent))


class Stopwatch:
    """How long calls take beyond their limit, and which of them a timer has overtaken.

    Whether a call is late is judged by order and not by the clock: as it begins, a timer is set on the same
    loop for the limit and a grace. A machine that is slow or busy delays that timer as it delays the
    call's own, so the call comes first wherever it keeps its deadline.

    Args:
        lag: a running `MachineLag`, for the figures.
        limit: in seconds.
        grace: seconds after the limit.
    """

    def __init__(self, lag: MachineLag, limit: float, grace: float = GRACE_SECONDS) -> None:
        self._lag = lag
        self._limit = limit
        self._grace = grace
        self._loop = asyncio.get_running_loop()
        self.late = 0
        """Calls that had not ended when their timer fired."""
        self.latest = float("-inf")
        """The longest that any call took, less the limit and what the machine took: a figure, no verdict."""

    @contextmanager
    def timed(self) -> Generator[None]:
        """A call."""
        start = self._loop.time()
        guard = Guard(self._limit + self._grace)
        try:
            yield
        finally:
            self.late += guard.fired
            guard.cancel()
            end = self._loop.time()
            late = end - start - self._limit
            if late > self.latest:
                # Only machine time after the limit counts as an excuse.
                excuse = self._lag.excuse(start + self._limit, end) if late > 0 else 0.0
                self.latest = max(self.latest, late - excuse)


class Guard:
    """A timer of the running loop, which other events have to precede.

    It is set some turns later: a call that begins right after it has set its own timer by then, so that no stall
    between the two reverses their order. When it is due, what was due before it may still need turns of the loop to
    end: it gives it some.
    """

    def __init__(self, seconds: float) -> None:
        self.fired = False
        self._seconds = seconds
        self._turns = TURNS
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle = self._loop.call_soon(self._set, TURNS_TO_BEGIN)

    def cancel(self) -> None:
        """Cancel the timer."""
        self._handle.cancel()

    def _set(self, turns: int) -> None:
        if turns:
            self._handle = self._loop.call_soon(self._set, turns - 1)
        else:
            self._handle = self._loop.call_later(self._seconds, self._turn)

    def _turn(self) -> None:
        self._turns -= 1
        if self._turns:
            self._handle = self._loop.call_soon(self._turn)
        else:
            self.fired = True


class Measured(NamedTuple, Generic[T]):
    """The result of a measurement, and whether the machine distorted it."""

    found: T
    calm: bool


async def measured(
    measure: Callable[[MachineLag], Awaitable[T]],
    fits: Callable[[T], bool],
    disturbance: float = DISTURBANCE_SECONDS,
) -> Measured[T]:
    """Measure, and again where it does not fit and the machine was away for so long meanwhile.

    The time itself can be excused; what it did to those who waited for the loop to catch up, and
    to the server, cannot be told from what the code on the loop does. On a calm machine nothing
    is repeated, nor where times are not judged.
    """
    for _ in range(ATTEMPTS - 1 if Judging.times else 0):
        with MachineLag() as lag:
            found = await measure(lag)
        if fits(found) or lag.worst < disturbance:
            return Measured(found, calm=True)
    with MachineLag() as lag:
        found = await measure(lag)
    return Measured(found, calm=lag.worst < disturbance)
