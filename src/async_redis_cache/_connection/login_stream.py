"""The logins that a provider streams, as the streaming providers of redis-py do before a token ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

from async_redis_cache._common.forks import after_fork_in_child
from async_redis_cache._common.logins import Login, LoginListener, login_of

__all__ = ["is_streaming", "listen"]

_METHODS: Final = ("on_next", "on_error", "is_streaming")


class _Nothing:
    """Returned by the callbacks, which a provider with an asynchronous token manager awaits."""

    def __await__(self) -> Iterator[None]:
        return iter(())


class _LoginStream:
    """Passes on what a provider reports, from any thread, to the caches that use it.

    A provider has a single callback, which the next one replaces. So all caches of a process share a stream.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[LoginListener, asyncio.AbstractEventLoop] = {}

    def add(self, listener: LoginListener) -> None:
        """Report to this listener on the running event loop."""
        with self._lock:
            self._listeners[listener] = asyncio.get_running_loop()

    def remove(self, listener: LoginListener) -> None:
        """Report to this listener no longer."""
        with self._lock:
            self._listeners.pop(listener, None)

    def on_next(self, token: Any) -> _Nothing:
        """Report the login of a token. Called by the provider."""
        # What is no token is none for new connections either, whose error says so.
        if login := _login_in(token):
            self._report(lambda listener: listener.on_login(login))
        return _Nothing()

    def on_error(self, error: Any) -> _Nothing:
        """Report that a token could not be renewed. Called by the provider."""
        name = type(error).__name__
        self._report(lambda listener: listener.on_login_error(name))
        return _Nothing()

    def _report(self, tell: Callable[[LoginListener], None]) -> None:
        with self._lock:
            listeners = tuple(self._listeners.items())
        for listener, loop in listeners:
            # The event loop may be closed, and the cache not.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, listener)


_streams: Final[weakref.WeakKeyDictionary[Any, _LoginStream]] = weakref.WeakKeyDictionary()
# Their locks may be held by threads that do not exist in a forked child.
after_fork_in_child(_streams.clear)


def is_streaming(provider: Any) -> bool:
    """Whether a provider streams logins: it has the methods of redis-py's `StreamingCredentialProvider`."""
    return all(callable(getattr(provider, method, None)) for method in _METHODS)


def listen(provider: Any, listener: LoginListener) -> Callable[[], None]:
    """Report what a provider streams to a listener, on the running event loop, until the returned function is called."""
    stream = _streams.setdefault(provider, _LoginStream())
    stream.add(listener)
    # Each time: another client of the provider may have replaced the callbacks.
    provider.on_next(stream.on_next)
    provider.on_error(stream.on_error)
    return lambda: stream.remove(listener)


def _login_in(token: Any) -> Login:
    """Return the login of a token, as redis-py reads it."""
    try:
        return login_of((token.try_get("oid"), token.get_value()))
    except Exception:  # noqa: BLE001  a provider may stream anything
        return login_of(token)
