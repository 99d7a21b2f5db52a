"""Locks that this process holds on the server: acquire, renew and release them.

See `lock_scripts` for what the server stores.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from async_redis_cache._common.clock import MonotonicClock
from async_redis_cache._common.durations import SECOND
from async_redis_cache._common.errors import CacheError
from async_redis_cache._common.tasks import OwnedTasks

if TYPE_CHECKING:
    from async_redis_cache._protocol.command import Command, Executor
    from async_redis_cache._protocol.lock_scripts import LockCommands

__all__ = ["LockHold", "Locks"]

_NAME: Final = b"\x00lock:"
"""After the key prefix, before the key. No key of a user can contain a control character."""
_TOKEN_BYTES: Final = 16
_OVERHEAD: Final = 160
"""Bytes of a request beside its key."""
_DRIFT: Final = 0.01
"""The share by which the clocks of this machine and of the server may differ in speed."""
_ROUNDING: Final = 0.002
"""Seconds: the server counts whole milliseconds."""
_RENEWALS: Final = 3
"""How often a lock is renewed within its TTL."""


class LockHold:
    """A lock, held or requested by one holder.

    Args:
        key: of the value that it is named after, on the server.
        ttl: milliseconds until it expires without a renewal.
        has_owner: whether its holder still exists; without one it is not renewed any more.

    Attributes:
        fencing_number: greater than that of every earlier holder; 0 while the lock is not held.
        is_lost: whether it is known to be lost.
    """

    __slots__ = (
        "_pid",
        "expires",
        "fencing_number",
        "has_owner",
        "is_lost",
        "key",
        "release",
        "renewal",
        "request",
        "token",
        "ttl",
    )

    def __init__(self, key: bytes, ttl: int, has_owner: Callable[[], bool]) -> None:
        self.key = key
        self.ttl = ttl
        self.has_owner = has_owner
        self.token = secrets.token_hex(_TOKEN_BYTES).encode()
        self.fencing_number = 0
        self.expires = 0.0
        """When it expires without a renewal, by the monotonic clock."""
        self.is_lost = False
        self.renewal: asyncio.Task[None] | None = None
        self.request: asyncio.Future[Any] | None = None
        self.release: asyncio.Future[Any] | None = None
        self._pid = os.getpid()

    def is_held(self) -> bool:
        """Return whether the lock is held, as far as this process knows. May be called in any thread."""
        return self.fencing_number > 0 and not self.is_lost and MonotonicClock.time() < self.expires

    def is_in_this_process(self) -> bool:
        """Return whether this process has acquired it, and not the one that it was forked from."""
        return self._pid == os.getpid()


class Locks:
    """The locks of a cache. Its methods are called on the event loop.

    Args:
        executor: sends the requests.
        prefix: of the cache's keys.
        commands: those of the cache.
        check_circuits: called with the key before a lock is requested; it may raise.
    """

    def __init__(
        self,
        executor: Executor,
        prefix: bytes,
        commands: LockCommands,
        check_circuits: Callable[[Iterable[bytes]], None],
    ) -> None:
        self._executor = executor
        self._prefix = prefix
        self._commands = commands
        self._check_circuits = check_circuits
        self._held: dict[bytes, LockHold] = {}
        self._waiting: dict[bytes, deque[asyncio.Future[None]]] = {}
        """Callers that wait for a lock, by its key, in the order of their arrival."""
        self._tasks = OwnedTasks()

    async def acquire(self, hold: LockHold) -> int:
        """Request a lock once; return 0 if it is held now, otherwise the milliseconds for which another holds it.

        Raises:
            CacheError: whether it is held is not known.
        """
        key = self._key(hold)
        self._check_circuits((key,))
        sent_at = MonotonicClock.time()
        argument = (key, hold.token, hold.ttl)
        hold.request = self._execute(self._commands.acquire, argument)
        # If the caller is cancelled, the release follows once this is answered.
        fence, _ = await asyncio.shield(hold.request)
        if fence <= 0:
            return max(1, -int(fence))
        hold.expires = _expires(sent_at, hold.ttl)
        hold.fencing_number = fence
        return 0

    def keep(self, hold: LockHold) -> None:
        """Renew a lock that is held, until it is released or lost."""
        self._held[hold.key] = hold
        hold.renewal = self._tasks.spawn(self._renew(hold))

    async def wait(self, hold: LockHold, pause: float, longest: float) -> None:
        """Wait before the next request for a lock that another holds.

        The wait ends when this process has released the lock; the callers of a process get it in their order.

        Args:
            hold: requested.
            pause: the seconds to wait.
            longest: the same if another caller in this process holds the lock.
        """
        held = self._held.get(hold.key)
        seconds = pause if held is None or not held.is_held() else longest
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        # No `asyncio.timeout`, which needs a task: other threads step this coroutine.
        limit = loop.call_later(seconds, _end, future, context=Context())
        waiting = self._waiting.setdefault(hold.key, deque())
        waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                # It was woken, and the next one can go on instead.
                self._wake(hold.key)
            raise
        finally:
            limit.cancel()
            if future in waiting:
                waiting.remove(future)
            if not waiting and self._waiting.get(hold.key) is waiting:
                del self._waiting[hold.key]

    def _wake(self, key: bytes) -> None:
        """End the wait of the first caller that waits for a lock."""
        waiting = self._waiting.get(key)
        while waiting:
            future = waiting.popleft()
            if not future.done():
                _end(future)
                return

    def begin_release(self, hold: LockHold) -> None:
        """Send the release of a lock, held or requested. It is not renewed any more."""
        self._forget(hold)
        hold.expires = 0.0
        if hold.renewal is not None:
            hold.renewal.cancel()
        if hold.request is None or hold.request.done():
            self._send_release(hold)
        else:
            # The request may be on another connection, and be executed later than the release.
            hold.request.add_done_callback(lambda _: self._send_release(hold), context=Context())

    def _send_release(self, hold: LockHold) -> None:
        if hold.request is not None:
            _retrieve(hold.request)
        try:
            hold.release = self._execute(self._commands.release, (self._key(hold), hold.token))
        except CacheError:
            # It expires by itself.
            return

        def end(request: asyncio.Future[Any]) -> None:
            _retrieve(request)
            self._wake(hold.key)

        hold.release.add_done_callback(end, context=Context())

    def _forget(self, hold: LockHold) -> None:
        if self._held.get(hold.key) is hold:
            del self._held[hold.key]

    async def released(self, hold: LockHold) -> bool | None:
        """Wait until the server has released a lock; return whether it was held until then.

        None if that is not known, since the server did not reply: the lock expires by itself.
        """
        if hold.release is None:
            return None
        try:
            # The request is sent, whatever becomes of this caller.
            return bool(await asyncio.shield(hold.release))
        except CacheError:
            return None

    def stop(self) -> None:
        """End all renewals: the cache is closed, and its locks expire by themselves."""
        for hold in self._held.values():
            hold.is_lost = True
        self._held.clear()
        for waiting in self._waiting.values():
            for future in waiting:
                _end(future)
        self._tasks.cancel()

    async def stopped(self) -> None:
        """Wait until no lock is being renewed."""
        await self._tasks.wait()

    async def _renew(self, hold: LockHold) -> None:
        key = self._key(hold)
        while True:
            await asyncio.sleep(hold.ttl / SECOND / _RENEWALS)
            if not hold.has_owner():
                hold.renewal = None
                self.begin_release(hold)
                return
            sent_at = MonotonicClock.time()
            try:
                is_held = await self._execute(self._commands.renew, (key, hold.token, hold.ttl))
            except CacheError:
                # The next attempt may succeed: the lock is lost only once another has acquired it.
                continue
            if not is_held:
                hold.is_lost = True
                self._forget(hold)
                return
            hold.expires = _expires(sent_at, hold.ttl)

    def _key(self, hold: LockHold) -> bytes:
        return self._prefix + _NAME + hold.key.removeprefix(self._prefix)

    def _execute(self, command: Command, argument: tuple[Any, ...]) -> asyncio.Future[Any]:
        return self._executor.execute(command, argument, len(argument[0]) + _OVERHEAD)


def _expires(sent_at: float, ttl: int) -> float:
    """Return until when a lock is certainly held that was requested at this time, by the monotonic clock."""
    return sent_at + (1 - _DRIFT) * ttl / SECOND - _ROUNDING


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _retrieve(request: asyncio.Future[Any]) -> None:
    """Retrieve the exception, so that asyncio does not log it."""
    if not request.cancelled():
        request.exception()
