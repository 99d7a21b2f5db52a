"""One server: the calls that wait for it, and the connections on which they travel."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from typing import Final

from ._backoff import Backoff
from ._batcher import Batcher, Router
from ._counters import CacheStats
from ._dialer import Dials
from ._failures import Failure
from ._journal import Condition
from ._links import Pace
from ._options import Options
from ._queue import CallQueue
from ._transport import Transport

__all__ = ["Node", "pace_of"]

_SECOND: Final = 1000
_SPREAD: Final = 0.1
"""Share of their age by which connections end sooner, by chance."""


class Node:
    """A server that is asked.

    Args:
        dialer: connects to it.
        options: of the cache.
        counters: of the cache.
        heard: told when it has answered.
        told: where it is told when there is no connection to it, and when there is one again.
        lost: told when it cannot be reached, or does not answer.
        may_move: whether another connection may lead to another server.
        router: who knows the other servers, where there are some.
    """

    def __init__(
        self,
        dialer: Dials,
        options: Options,
        counters: CacheStats,
        *,
        heard: Callable[[], None],
        told: Condition,
        lost: Callable[[], None] = lambda: None,
        may_move: bool = False,
        router: Router | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._lost = lost
        self.batcher = Batcher(
            counters,
            heard=heard,
            silent=lost,
            budget=options.command_timeout / _SECOND,
            retries=options.retries,
            waiting=CallQueue(options.max_waiting_calls, options.max_waiting_bytes),
            backoff=Backoff(loop.time, random.random),
            may_move=may_move,
            router=router,
        )
        self.transport = Transport(
            dialer,
            max_connections=options.max_connections,
            lifetime=_lifetime_of(options),
            counters=counters,
            backoff=Backoff(loop.time, random.random),
            ready=self.batcher.ready,
            unreachable=self._unreachable,
            told=told,
        )
        self.batcher.connect_to(self.transport)

    def __repr__(self) -> str:
        return f"{self.batcher!r} {self.transport!r}"

    def _unreachable(self, failure: Failure) -> None:
        self._lost()
        self.batcher.unreachable(failure)


def pace_of(options: Options, heartbeat: float) -> Pace:
    """How a link is kept whose heart beats once in so many seconds."""
    timeout = options.connect_timeout / _SECOND
    return Pace(heartbeat, timeout, _lifetime_of(options), random.random, time.monotonic)


def _lifetime_of(options: Options) -> Callable[[], float]:
    """Gives for how many seconds a connection is used: not all end at once that began at once."""
    age = options.max_connection_age / _SECOND or math.inf
    return lambda: age * (1 - _SPREAD * random.random())  # noqa: S311  no secret
