"""Changes that failed because the server was away: what they should have made old is not given again.

When the server is back, it still holds what was to be replaced or removed. So the keys are remembered;
they are removed as soon as the server takes that, and whoever reads one sooner has it removed, and is
given nothing. A removal too many costs a miss, also where another process has stored a new value meanwhile.

A process that ends takes its memory along, and other processes do not know of it. So the one who made the
change is told by an error all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Context
from itertools import islice
from typing import Any, Final

from ._counters import CacheStats
from ._errors import (
    CacheError,
    CacheOutcomeUnknown,
    CacheTimeout,
    CacheUnavailable,
)
from ._failures import LOST, TIMED_OUT
from ._journal import Condition

__all__ = ["Debts"]

_MOST: Final = 10_000
"""Keys that are remembered; of more, only the latest."""
_AT_ONCE: Final = 256
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 0.5
"""Seconds between two attempts."""
_NOT_MADE: Final = (CacheUnavailable, CacheTimeout, CacheOutcomeUnknown)


class Debts:
    """Keys that must not be given before they were removed.

    A key is not changed anew while it is being removed: the removal could come after that.

    Args:
        remove: removes keys.
        counters: where it is seen how many there are.
        random: numbers from 0 to 1.
        told: where it is told when there are some, and when there are none any more.
    """

    def __init__(
        self,
        remove: Callable[[Sequence[bytes]], Awaitable[Any]],
        counters: CacheStats,
        random: Callable[[], float],
        told: Condition,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._remove = remove
        self._counters = counters
        self._random = random
        self._told = told
        # By key the change that failed: another may fail while the first is made good.
        self.owed: dict[bytes, object] = {}
        self.payments: dict[bytes, asyncio.Task[None]] = {}
        """By key its removal that is under way."""
        self._paying: asyncio.Task[None] | None = None
        self._stopped = False

    def owe(self, keys: Iterable[bytes], failure: CacheError) -> None:
        """A change of these keys has failed."""
        if self._stopped or not isinstance(failure, _NOT_MADE):
            return
        self._owe(dict.fromkeys(keys, object()))
        self._told.worse(failure.code)

    def settle(self, keys: Iterable[bytes]) -> Mapping[bytes, object]:
        """These keys are being changed anew: those of them that were owed."""
        settled = {key: self.owed.pop(key) for key in keys if key in self.owed}
        self._counters.owed = len(self.owed)
        return settled

    def owe_again(self, settled: Mapping[bytes, object]) -> None:
        """The change that was to settle these has failed, or has been given up."""
        if settled and not self._stopped:
            self._owe({key: change for key, change in settled.items() if key not in self.owed})

    def _owe(self, changes: Mapping[bytes, object]) -> None:
        for key, change in changes.items():
            self.owed.pop(key, None)
            self.owed[key] = change
        for key in tuple(islice(self.owed, max(0, len(self.owed) - _MOST))):
            del self.owed[key]
        self._counters.owed = len(self.owed)
        if self._paying is None:
            self._paying = self._loop.create_task(self._until_paid(), context=Context())

    def settled(self) -> None:
        """Those that were being changed anew are changed, or owed again."""
        if not self.owed:
            self._told.better()

    async def quiet(self, keys: Sequence[bytes], budget: float) -> None:
        """Wait until none of these keys is being removed, for so many seconds at the most.

        Raises:
            CacheTimeout: TIMEOUT.
        """
        deadline = self._loop.time() + budget
        # Whoever woke up sooner may have begun another.
        while payments := self._payments_of(keys):
            await _ended(payments, deadline - self._loop.time())

    async def paid(self, keys: Sequence[bytes], budget: float) -> None:
        """Remove those that are owed, within so many seconds. Who wants the same waits together.

        Raises:
            CacheError: the server does not take it, so that they cannot be given.
        """
        owed = [key for key in keys if key in self.owed and key not in self.payments]
        if owed:
            self._pay(owed)
        payments = self._payments_of(keys)
        await _ended(payments, budget)
        for payment in payments:
            if isinstance(payment.exception(), CacheOutcomeUnknown):
                # To who only reads, no outcome is unknown.
                raise LOST.error()
            payment.result()

    def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        self._counters.owed = 0
        for task in self._tasks():
            task.cancel()

    async def stopped(self) -> None:
        """Wait until nothing is left of it."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    def _payments_of(self, keys: Iterable[bytes]) -> set[asyncio.Task[None]]:
        return {self.payments[key] for key in keys if key in self.payments}

    def _tasks(self) -> list[asyncio.Task[None]]:
        """Those that have not ended."""
        tasks = [*self.payments.values()]
        if self._paying is not None:
            tasks.append(self._paying)
        return [task for task in tasks if not task.done()]

    def _pay(self, keys: Sequence[bytes]) -> asyncio.Task[None]:
        """Remove keys none of which is being removed."""
        payment = self._loop.create_task(
            self._removed(keys, [self.owed[key] for key in keys]), context=Context()
        )
        self.payments.update(dict.fromkeys(keys, payment))

        def end(_: asyncio.Task[None]) -> None:
            for key in keys:
                del self.payments[key]
            if not payment.cancelled():
                payment.exception()  # Seen, though nobody may be left to see it.

        payment.add_done_callback(end)
        return payment

    async def _removed(self, keys: Sequence[bytes], changes: Sequence[object]) -> None:
        await self._remove(keys)
        for key, change in zip(keys, changes, strict=True):
            if self.owed.get(key) is change:
                del self.owed[key]
        self._counters.owed = len(self.owed)
        self.settled()

    async def _until_paid(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self.owed:
                await asyncio.sleep(pause * (0.5 + self._random() / 2))
                owed = [key for key in self.owed if key not in self.payments][:_AT_ONCE]
                pause = min(_LONGEST_PAUSE, 2 * pause)
                if owed:
                    with contextlib.suppress(CacheError):
                        await self._pay(owed)
                        pause = _FIRST_PAUSE
        finally:
            self._paying = None


async def _ended(payments: set[asyncio.Task[None]], budget: float) -> None:
    """Wait for their ends, for so many seconds at the most.

    Raises:
        CacheTimeout: TIMEOUT.
    """
    if payments:
        _, pending = await asyncio.wait(payments, timeout=budget)
        if pending:
            raise TIMED_OUT.error()
