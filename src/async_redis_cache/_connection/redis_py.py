"""What differs between the releases of redis-py from 5.0.8 to 8, decided once when this module is imported.

The other modules of this package use what all these releases have in common.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

__all__ = ["POOL_OPTIONS", "can_read", "get_connection", "release_streams"]

_CONNECTION_CLASS: Final[Any] = AbstractConnection
_OF_CONNECTION: Final = inspect.signature(_CONNECTION_CLASS.__init__).parameters
_OF_GET_CONNECTION: Final = inspect.signature(ConnectionPool.get_connection).parameters


def _pool_options() -> dict[str, Any]:
    # CLIENT SETINFO would double the round trips of a connection attempt. Each release has one way to switch it off:
    # newer ones deprecate the older keywords.
    options: dict[str, Any] = (
        {"driver_info": None}
        if "driver_info" in _OF_CONNECTION
        else {"lib_name": None, "lib_version": None}
    )
    # With maintenance notifications, the pool would no longer check for unread replies. asyncio has them since 8.1.
    if "maint_notifications_config" in _OF_CONNECTION:
        from redis.maint_notifications import MaintNotificationsConfig  # noqa: PLC0415

        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    return options


POOL_OPTIONS: Final = _pool_options()
"""Keywords for redis-py's pool that only some releases accept."""
# A name is required up to 5.2, and deprecated from 5.3 on; no release uses it.
_GET_CONNECTION: Final = (
    ("HELLO",)
    if (name := _OF_GET_CONNECTION.get("command_name")) and name.default is name.empty
    else ()
)
_HAS_CAN_READ: Final = hasattr(AbstractConnection, "can_read")


async def get_connection(pool: ConnectionPool) -> AbstractConnection:
    """Get a connection that is logged in."""
    untyped: Any = pool
    connection: AbstractConnection = await untyped.get_connection(*_GET_CONNECTION)
    return connection


async def can_read(connection: AbstractConnection) -> bool:
    """Return whether there is unread data; if so, the connection must be closed."""
    checked: Any = connection
    if _HAS_CAN_READ:
        return bool(await checked.can_read())
    # The check of redis-py 5 to 7 does not notice a part of a reply.
    return bool(
        checked._parser._reader.has_data()  # noqa: SLF001
        or await checked.can_read_destructive()
    )


def release_streams(connection: AbstractConnection) -> None:
    """Make redis-py forget the transport of a connection whose event loop is closed.

    Otherwise the finalizer of redis-py 5 to 7 would close the transport, which fails without its loop. That of redis-py 8
    does not.
    """
    if _HAS_CAN_READ:
        return
    parts: Any = connection
    parts._reader = parts._writer = None  # noqa: SLF001
