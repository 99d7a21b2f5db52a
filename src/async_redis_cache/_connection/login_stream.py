"""The logins that a provider streams, as the streaming providers of redis-py do before a token ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
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

    Args:
        provider: kept for as long as there are listeners, so that its id is not reused.
    """

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self.listeners: dict[LoginListener, asyncio.AbstractEventLoop] = {}

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
        with _streams.lock:
            listeners = tuple(self.listeners.items())
        for listener, loop in listeners:
            # The event loop may be closed, and the cache not.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, listener)


class _LoginStreams:
    """The streams of all providers that have listeners, by the id of the provider: it may have no hash."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew in a forked child: the lock may be held by a thread that does not exist there."""
        self.lock = threading.Lock()
        self._streams: dict[int, _LoginStream] = {}

    def add(self, provider: Any, listener: LoginListener) -> None:
        """Report what the provider streams on the running event loop."""
        with self.lock:
            stream = self._streams.setdefault(id(provider), _LoginStream(provider))
            stream.listeners[listener] = asyncio.get_running_loop()
        # Each time: another client of the provider may have replaced the callbacks.
        provider.on_next(stream.on_next)
        provider.on_error(stream.on_error)

    def remove(self, provider: Any, listener: LoginListener) -> None:
        """Report to this listener no longer."""
        with self.lock:
            stream = self._streams.get(id(provider))
            if stream is not None:
                stream.listeners.pop(listener, None)
                if not stream.listeners:
                    del self._streams[id(provider)]


_streams: Final = _LoginStreams()
after_fork_in_child(_streams.forget)


def is_streaming(provider: Any) -> bool:
    """Whether a provider streams logins: it has the methods of redis-py's `StreamingCredentialProvider`."""
    return all(callable(getattr(provider, method, None)) for method in _METHODS)


def listen(provider: Any, listener: LoginListener) -> Callable[[], None]:
    """Report what a provider streams to a listener, on the running event loop, until the returned function is called."""
    _streams.add(provider, listener)
    return partial(_streams.remove, provider, listener)


def _login_in(token: Any) -> Login:
    """Return the login of a token, as redis-py reads it."""
    try:
        return login_of((token.try_get("oid"), token.get_value()))
    except Exception:  # noqa: BLE001  a provider may stream anything
        return login_of(token)
