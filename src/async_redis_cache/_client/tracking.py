"""Client-side caching: the channel on which a server sends invalidations (CLIENT TRACKING in broadcast mode, RESP3).

The channel has a connection of its own. So a pipeline cannot delay invalidations, and an invalidation cannot be
mistaken for a reply.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from async_redis_cache._common.endpoint import Address
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

__all__ = ["InvalidationListener", "TrackingChannel", "TrackingGroup"]

_UNSUPPORTED: Final = Failure(
    CacheUnsupported,
    "UNSUPPORTED",
    "near_cache.enabled needs HELLO 3 and CLIENT TRACKING, of Redis 6 or newer, which the server lacks: set "
    "it to false, or use another server",
)
_NOT_PERMITTED: Final = Failure(
    CacheUnsupported,
    "UNSUPPORTED",
    "near_cache.enabled needs CLIENT TRACKING, which the user may not run: grant +client|tracking, or set it "
    "to false",
)
_REFUSALS: Final = (CacheConfigError, CachePermissionError, CacheServerError, CacheUnsupported)
"""Errors that mean that RESP3 or tracking was refused, as the server has just served another connection."""


class InvalidationListener(Protocol):
    """Receives invalidations: the near cache."""

    def changed(self, keys: list[bytes]) -> None:
        """Handle keys that any client stored or removed, or that expired or were evicted."""
        ...

    def flush(self) -> None:
        """Handle a change of all keys, as by FLUSHDB."""
        ...

    def connected_until(self, moment: float) -> None:
        """All changes so far have been received. The next keepalive reply is due by that moment."""
        ...

    def disconnected(self) -> None:
        """Changes from now on are not received."""
        ...


class TrackingChannel(PushChannel):
    """The invalidation channel of one server.

    Args:
        connector: makes connections that speak RESP3.
        listener: receives the invalidations.
        prefix: prefix of the keys to track.
        policy: heartbeat and lifetime of the connection.
        health: logs when the channel is down and up.
    """

    def __init__(
        self,
        connector: SupportsConnect,
        listener: InvalidationListener,
        *,
        prefix: bytes,
        policy: KeepalivePolicy,
        health: Condition,
    ) -> None:
        command: tuple[bytes, ...] = (b"CLIENT", b"TRACKING", b"ON", b"BCAST")
        if prefix:
            command += (b"PREFIX", prefix)
        super().__init__(
            connector,
            _InvalidationHandler(listener),
            subscription=expecting(b"OK", *command),
            policy=policy,
            health=health,
        )

    async def first_attempt(self) -> Failure | None:
        """Return how the first attempt ended; None if the channel is active."""
        failure = await super().first_attempt()
        if failure is None or failure.kind not in _REFUSALS:
            return failure
        return _NOT_PERMITTED if failure.kind is CachePermissionError else _UNSUPPORTED


class _InvalidationHandler:
    """Reads the push messages of a `TrackingChannel`."""

    probe = expecting(b"PONG", b"PING")

    def __init__(self, listener: InvalidationListener) -> None:
        self._listener = listener
        self.on_reply = listener.connected_until
        self.on_lost = listener.disconnected

    def on_event(self, message: list[Any]) -> None:
        """Pass the keys of an `invalidate` message to the listener; ignore other messages.

        Raises:
            TypeError: a key is not bytes.
            ValueError: the message has another number of elements.
        """
        if message[0] != b"invalidate":
            return
        _, keys = message
        if keys is None:
            self._listener.flush()
        elif all(isinstance(key, bytes) for key in keys):
            self._listener.changed(keys)
        else:
            raise TypeError("keys are bytes")


class TrackingGroup:
    """The invalidation channels of all masters of a cluster. It is connected while all of them are.

    Args:
        listener: receives the invalidations of all channels.
        on_lost: called when one of the channels is down.
    """

    def __init__(self, listener: InvalidationListener, on_lost: Callable[[], None]) -> None:
        self._listener = listener
        self._on_lost = on_lost
        self._connected_until: dict[Address, float] = {}
        """By node, when its next keepalive reply is due; minus infinity while its channel is down."""

    @property
    def is_whole(self) -> bool:
        """Whether all channels are connected."""
        return -math.inf not in self._connected_until.values()

    def add(self, address: Address) -> InvalidationListener:
        """Return the listener for the channel of another node. The group is disconnected until that channel is up."""
        self._connected_until[address] = -math.inf
        self._listener.disconnected()
        return _NodeListener(self, address, self._listener)

    def remove(self, address: Address) -> None:
        """Do not depend on the channel of this node any more."""
        self._connected_until.pop(address, None)
        self._extend()

    def node_connected_until(self, address: Address, moment: float) -> None:
        """Record a keepalive reply of one node. Without effect after `remove`."""
        if address in self._connected_until:
            self._connected_until[address] = moment
            self._extend()

    def node_disconnected(self, address: Address) -> None:
        """Record that the channel of one node is down. Without effect after `remove`."""
        if address in self._connected_until:
            self._connected_until[address] = -math.inf
            self._listener.disconnected()
            self._on_lost()

    def _extend(self) -> None:
        moment = min(self._connected_until.values(), default=-math.inf)
        if moment > -math.inf:
            self._listener.connected_until(moment)


class _NodeListener:
    """The listener of one channel of a group. Invalidations pass through it unchanged."""

    def __init__(
        self, group: TrackingGroup, address: Address, listener: InvalidationListener
    ) -> None:
        self._group = group
        self._address = address
        self.changed = listener.changed
        self.flush = listener.flush

    def connected_until(self, moment: float) -> None:
        """Report it to the group."""
        self._group.node_connected_until(self._address, moment)

    def disconnected(self) -> None:
        """Report it to the group."""
        self._group.node_disconnected(self._address)
