"""Logs in again on open connections when a provider streams another login, before the former one ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from async_redis_cache._common.health_log import Condition
from async_redis_cache._common.logins import Login, LoginSource

__all__ = ["Reauthentication", "SupportsReauthenticate"]


class SupportsReauthenticate(Protocol):
    """Connections to one server."""

    def reauthenticate(self, login: Login) -> None:
        """Log in again, without a failure of any request."""
        ...


class Reauthentication:
    """Listens to the source of the logins of a cache.

    Args:
        source: None if the login does not change.
        connections: returns those of all servers.
        health: records when the login cannot be renewed.
    """

    def __init__(
        self,
        source: LoginSource | None,
        connections: Callable[[], Iterable[SupportsReauthenticate]],
        health: Condition,
    ) -> None:
        self._connections = connections
        self._health = health
        self._stop_listening = None if source is None else source.listen(self)

    def on_login(self, login: Login) -> None:
        """Log in again everywhere."""
        if self._stop_listening is not None:
            self._health.up()
            for connections in self._connections():
                connections.reauthenticate(login)

    def on_login_error(self, name: str) -> None:
        """Record it. Connections are used until the server closes them, and new ones ask the source."""
        if self._stop_listening is not None:
            self._health.down(name)

    def stop(self) -> None:
        """Listen no longer."""
        stop_listening, self._stop_listening = self._stop_listening, None
        if stop_listening is not None:
            stop_listening()
