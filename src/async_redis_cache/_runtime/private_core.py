"""The core of a cache on a private event loop: opened and closed from any thread, and shared by several caches."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final

from async_redis_cache._common.forks import after_fork_in_child
from async_redis_cache._common.pip_services import Context

from .gevent_patches import refuse_private_loop
from .lifecycle import Lifecycle
from .portal import Portal, PortalRefusedError
from .portal_queue import local

__all__ = ["Attempt", "PrivateCore"]

_GRACE: Final = 0.05
"""Seconds that a call may take beyond its deadline, to reach the private loop and to return."""
_CLOSE_TIMEOUT: Final = 5.0
"""Least seconds to wait for the private loop to end, which a loader may block."""
_FINAL_TIMEOUT: Final = 0.5
"""Seconds to wait for the private loop when the interpreter ends."""


class Attempt:
    """An attempt to open a core, which another thread may cancel."""

    __slots__ = ("_is_cancelled", "portal")

    def __init__(self) -> None:
        self.portal: Portal | None = None
        self._is_cancelled = False

    def begin(self, portal: Portal) -> None:
        """Note the portal that is being opened."""
        self.portal = portal
        if self._is_cancelled:
            portal.close(0)

    def cancel(self) -> None:
        """End the portal that is being opened: what waits for it raises CancelledError or NOT_OPENED."""
        self._is_cancelled = True
        if self.portal is not None:
            self.portal.close(0)


class PrivateCore:
    """A lifecycle on a private event loop.

    A core that is not closed is closed when the interpreter ends or it is collected. In a forked process, an open core
    opens connections of its own at its first call.

    Args:
        lifecycle: opens and closes the engine; called on the private event loop only.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self.portal: Portal | None = None
        """The portal of an open core."""
        self.patience = 0.0
        """Seconds that a call may take without its loads, even if the private loop is blocked."""
        self.ending: Portal | None = None
        """A portal that is being opened or closed, or was when an interrupt came; ended before the next is opened."""
        self._finalizer: weakref.finalize[Any, PrivateCore] | None = None
        self._lock = threading.Lock()
        self._forked = False
        _CORES.add(self)

    def is_open(self) -> bool:
        """Return whether the core was opened and not closed since, and its private event loop runs."""
        portal = self.portal
        return self._forked or (portal is not None and not portal.is_closed)

    def open(
        self,
        context: Context,
        opening: Callable[[Context], Coroutine[Any, Any, None]] | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        """Start the private event loop and open the engine on it. This blocks.

        Args:
            context: of the call.
            opening: opens the engine; by default the method of the lifecycle.
            attempt: lets another thread cancel this.

        Raises:
            PortalRefusedError: NOT_OPENED, if a loader still blocks the private loop of a previous `open`;
                IN_EVENT_LOOP on a private loop.
            CacheUnsupported: see `refuse_private_loop`.
            CacheError: as for `AsyncRedisCache.open`.
        """
        # Before the lock: a thread that holds it may be waiting for this one.
        Portal.refuse_in_event_loop()
        opening = opening or self.lifecycle.open
        with self._lock:
            if self.portal is None or self.portal.is_closed:
                refuse_private_loop(local, context)
                self.ending, self.portal = self.portal or self.ending, None
                self._open(attempt or Attempt(), opening, context)

    def close(self) -> None:
        """Close the engine and end the private event loop. This blocks, as `RedisCache.close` does.

        Raises:
            PortalRefusedError: IN_EVENT_LOOP on a private loop.
        """
        Portal.refuse_in_event_loop()
        with self._lock:
            self._forked = False
            if self.portal is not None:
                self.ending, self.portal = self.portal, None
            self._end_portal()

    def reopened(self) -> Portal | None:
        """Return the portal, which is opened again if this process was forked while the core was open."""
        if self._forked:
            with self._lock:
                if self._forked:
                    return self._open(Attempt(), self.lifecycle.reopen)
        return self.portal

    def _open(
        self, attempt: Attempt, opening: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> Portal:
        if not self._end_portal():
            problem = "a loader still blocks the private event loop of this cache, which was closed"
            raise PortalRefusedError("NOT_OPENED", problem)
        options = self.lifecycle.settings.options
        self.patience = options.command_seconds + _GRACE
        portal = self.ending = Portal(self.lifecycle.close, name=options.name)
        try:
            portal.start()
            attempt.begin(portal)
            portal.run(opening, *args)
        except BaseException:
            self._end_portal()
            raise
        self.ending, self.portal = None, portal
        self._forked = False
        # Runs when the interpreter ends or the core is collected, if it was not closed.
        self._finalizer = weakref.finalize(self, _finalize, portal, os.getpid())
        return portal

    def _end_portal(self) -> bool:
        """End a portal that is being opened or closed; return whether it has ended within the time limit."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self.ending is not None:
            if not self.ending.close(max(self.patience, _CLOSE_TIMEOUT)):
                return False
            self.ending = None
        return True

    def forget_parent(self) -> None:
        """Replace the lock and the portal in a forked child, where the threads that used them do not exist."""
        self._lock = threading.Lock()
        if self.portal is not None:
            _INHERITED.append((self.portal, self.ending))
            self.portal = self.ending = None
            self._forked = True


def _finalize(portal: Portal, pid: int) -> None:
    # A forked child inherits this finalizer, but not the thread of the portal.
    if pid == os.getpid():
        portal.close(_FINAL_TIMEOUT)


def _forget_parents() -> None:
    for core in tuple(_CORES):
        core.forget_parent()


_CORES: Final[weakref.WeakSet[PrivateCore]] = weakref.WeakSet()
_INHERITED: Final[list[object]] = []
"""Portals of the parent process, never collected: closing them would disturb its event loop."""
after_fork_in_child(_forget_parents)
