"""The link on which the server says what has changed: CLIENT TRACKING in broadcast mode, RESP3.

It is a connection of its own, so that no exchange delays the news and no news is taken for a reply.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from async_redis_cache._common.errors import (
    CacheConfigError,
    CachePermissionError,
    CacheServerError,
    CacheUnsupported,
)
from async_redis_cache._common.failures import Failure
from async_redis_cache._common.health_log import Condition
from async_redis_cache._connection.connector import SupportsConnect
from async_redis_cache._connection.push import KeepalivePolicy, PushChannel, expecting

__all__ = ["InvalidationListener", "TrackingChannel"]

_REFUSED: Final = Failure(
    CacheUnsupported,
    "UNSUPPORTED",
    "near_cache.enabled needs HELLO 3 and CLIENT TRACKING, of Redis 6 or newer, which the server lacks: set "
    "it to false, or use another server",
)
_MAY_NOT: Final = Failure(
    CacheUnsupported,
    "UNSUPPORTED",
    "near_cache.enabled needs CLIENT TRACKING, which the user may not run: grant +client|tracking, or set it "
    "to false",
)
_REFUSED_CODES: Final = (CacheConfigError, CachePermissionError, CacheServerError, CacheUnsupported)
"""What a server that has just served another connection says to RESP3 or to tracking."""


class InvalidationListener(Protocol):
    """Who is told what has changed."""

    def changed(self, keys: list[bytes]) -> None:
        """These keys have, whoever changed them: stored, removed, expired or evicted."""
        ...

    def flush(self) -> None:
        """All keys may have."""
        ...

    def connected_until(self, moment: float) -> None:
        """Everything that changed has been told; by that moment this will be said again."""
        ...

    def disconnected(self) -> None:
        """From now on nobody tells."""
        ...


class TrackingChannel(PushChannel):
    """A link to one server, that tells which of its keys have changed.

    Args:
        dialer: makes connections that speak RESP3.
        listener: who is told.
        prefix: of the keys that matter.
        pace: how the link is kept.
        told: where it is told when it is lost, and armed again.
    """

    def __init__(
        self,
        dialer: SupportsConnect,
        listener: InvalidationListener,
        *,
        prefix: bytes,
        pace: KeepalivePolicy,
        told: Condition,
    ) -> None:
        order: tuple[bytes, ...] = (b"CLIENT", b"TRACKING", b"ON", b"BCAST")
        if prefix:
            order += (b"PREFIX", prefix)
        super().__init__(
            dialer,
            _InvalidationHandler(listener),
            subscription=expecting(b"OK", *order),
            policy=pace,
            health=told,
        )

    async def first(self) -> Failure | None:
        """How the first attempt ended; None when the link is armed."""
        failure = await super().first_attempt()
        if failure is None or failure.kind not in _REFUSED_CODES:
            return failure
        return _MAY_NOT if failure.kind is CachePermissionError else _REFUSED


class _InvalidationHandler:
    """Reads the messages about keys."""

    probe = expecting(b"PONG", b"PING")

    def __init__(self, listener: InvalidationListener) -> None:
        self._listener = listener
        self.on_reply = listener.connected_until
        self.on_lost = listener.disconnected

    def on_event(self, message: list[Any]) -> None:
        """Pass on which keys have changed."""
        if message[0] != b"invalidate":
            return
        _, keys = message
        if keys is None:
            self._listener.flush()
        elif all(isinstance(key, bytes) for key in keys):
            self._listener.changed(keys)
        else:
            raise TypeError("keys are bytes")
