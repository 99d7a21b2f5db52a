"""An event loop whose every choice comes from a seed: what arrives when, and in which order.

A run is a function of its seed, so that one that fails can be had again. What asyncio promises is kept:
what `call_soon` takes runs in its order, a callback at a time, and so do the pieces of one stream. What
it does not promise is chance here: the order of timers that are due at the same moment, of sockets that
are readable in the same turn, and of the members of a set of tasks or futures; how much a read gives;
and how long a turn takes. To shuffle `call_soon` as well would find defects that no program can have.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVarTuple, cast
from unittest.mock import patch

import anyio.to_thread

from async_redis_cache._client import node as _node
from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._connection import platforms as _platforms
from async_redis_cache._connection.connection import RedisConnection
from async_redis_cache._engine.in_flight_load import InFlightLoad
from async_redis_cache._runtime import deferred_imports as _deferred_imports
from harness.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

__all__ = ["Arrivals", "SimulatedLoop", "owned_by", "simulated"]

Ts = TypeVarTuple("Ts")

_STALL_CHANCE: Final = 0.004
_LONGEST_STALL: Final = 0.030
"""Seconds for which a turn of the loop may take, as when something else needs the processor."""
_TURN: Final = 20e-6
_JITTER: Final = 1e-7
"""Seconds by which a timer is late at the most, so that of two that are due together either is first."""
_OWNER: Final[ContextVar[object]] = ContextVar("_OWNER", default=None)
"""Whose the tasks and timers are that are made now."""


class Arrivals(Protocol):
    """What comes from outside."""

    def next_at(self) -> float:
        """When the next thing arrives."""
        ...

    def arrive(self, now: float) -> list[Callable[[], None]]:
        """Let arrive what is due: what the loop is to call in this turn, in any order."""
        ...


class SimulatedLoop(VirtualTimeLoop):
    """See the module. It ends when nothing is due, instead of waiting for ever."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._numbers = count(1)
        self._arrivals: Arrivals | None = None
        self.stalls: list[tuple[float, float]] = []
        """When it was busy with something else, and for how long."""
        self._made: list[Any] = []
        super().__init__()
        self.set_task_factory(cast("Any", _numbered_task))

    def listen_to(self, arrivals: Arrivals) -> None:
        """From now on things come from there."""
        self._arrivals = arrivals

    def stalled(self, begin: float, end: float) -> float:
        """For how many seconds of these it was busy with something else."""
        return sum(length for at, length in self.stalls if begin - length <= at <= end)

    def number(self) -> int:
        """What a new task or future is hashed by: an address would be another in each run."""
        return hash((next(self._numbers) * 0x9E3779B97F4A7C15) & 0xFFFFFFFF)

    def create_future(self) -> asyncio.Future[Any]:
        """A future whose place in a set is the seed's."""
        future = _Future(loop=self)
        self._made.append(future)
        return future

    def left_of(self, owner: object) -> list[object]:
        """The tasks and the timers of an owner that are still to come."""
        loop: Any = self
        tasks = [task for task in asyncio.all_tasks(self) if getattr(task, "owner", None) is owner]
        timers = [
            timer
            for timer in loop._scheduled
            if not timer._cancelled and timer._context.get(_OWNER) is owner
        ]
        return [*tasks, *timers]

    def unheeded(self) -> list[str]:
        """The errors that nobody has looked at, without waiting for the collector to find them."""
        found: list[str] = []
        for future in self._made:
            if future._log_traceback:
                future._log_traceback = False
                found.append(repr(future))
        return found

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """At that moment, or a little later: nobody may rely on the order of two."""
        late = self._chance.random() * _JITTER
        return super().call_at(when + late, callback, *args, context=context)

    def pass_time(self, seconds: float) -> None:
        """Let time pass until the next timer, or until something arrives."""
        if self._arrivals is not None:
            seconds = min(seconds, max(0.0, self._arrivals.next_at() - self.time()))
        super().pass_time(seconds)

    def _run_once(self) -> None:
        self._now += self._chance.random() * _TURN
        if self._chance.random() < _STALL_CHANCE:
            length = self._chance.random() ** 3 * _LONGEST_STALL
            self.stalls.append((self._now, length))
            self._now += length
        self._wake_for_arrivals()
        super()._run_once()  # type: ignore[misc]

    def _process_events(self, event_list: list[Any]) -> None:
        super()._process_events(event_list)  # type: ignore[misc]
        if self._arrivals is not None:
            for callback in self._arrivals.arrive(self.time()):
                self.call_soon(callback)

    def _wake_for_arrivals(self) -> None:
        """Let the selector, which knows timers only, wake up in time for what arrives."""
        loop: Any = self
        if self._arrivals is None or loop._ready:
            return
        at = self._arrivals.next_at()
        first = loop._scheduled[0] if loop._scheduled else None
        if at < math.inf and not (first and not first._cancelled and first._when <= at):
            super().call_at(at, _nothing)


def _nothing() -> None:
    """What arrives is taken as it arrives."""


class _Future(asyncio.Future[Any]):
    def __init__(self, *, loop: SimulatedLoop) -> None:
        super().__init__(loop=loop)
        self._number = loop.number()

    def __hash__(self) -> int:
        return self._number


class _Task(asyncio.Task[Any]):
    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self._number = number
        self.owner = _OWNER.get()
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


def _numbered_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **kwargs: Any
) -> _Task:
    assert isinstance(loop, SimulatedLoop)
    task = _Task(work, loop=loop, number=loop.number(), **kwargs)
    loop._made.append(task)
    return task


@contextmanager
def owned_by(owner: object) -> Generator[None]:
    """What is begun within is this owner's, and what that begins."""
    token = _OWNER.set(owner)
    try:
        yield
    finally:
        # What a run that was broken off has left is ended by the collector, in a context of its own.
        with suppress(ValueError):
            _OWNER.reset(token)


@contextmanager
def simulated(
    seed: int, poll: Callable[[], object]
) -> Generator[tuple[SimulatedLoop, random.Random]]:
    """A loop, with all that the library takes from outside being the seed's.

    Args:
        seed: of everything.
        poll: makes what stands for `select.poll`.
    """
    # A cache imports these on a thread, which a simulated loop does not wait for.
    for name in _deferred_imports._MODULES:
        import_module(name)
    chance = random.Random(seed)
    loop = SimulatedLoop(random.Random(seed + 1))
    theirs = random.Random(seed + 2)
    clock = SimpleNamespace(monotonic=loop.time)
    with ExitStack() as stack:
        stack.enter_context(patch.object(_node, "time", clock))
        stack.enter_context(patch.object(MonotonicClock, "time", loop.time))
        # The library takes `random.random` from the module wherever it needs it.
        stack.enter_context(patch.object(random, "random", theirs.random))
        stack.enter_context(patch.object(secrets, "token_bytes", theirs.randbytes))
        select = SimpleNamespace(poll=poll, POLLIN=1)
        stack.enter_context(patch.object(_platforms, "select", select))
        stack.enter_context(patch.object(anyio.to_thread, "run_sync", _in_this_thread))
        # Sets of these are gone through as well.
        stack.enter_context(patch.object(InFlightLoad, "__hash__", _hash_of_flight))
        stack.enter_context(patch.object(RedisConnection, "__hash__", _hash_of_wire))
        yield loop, chance


def _hash_of_flight(flight: InFlightLoad) -> int:
    return int.from_bytes(flight.lease._token[:7])


def _hash_of_wire(wire: Any) -> int:
    number: int = wire.underlying.number
    return number


async def _in_this_thread(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    return function(*args)
