"""How a connection is made: the pool of redis.asyncio, built explicitly, and what its errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import cached_property, partial
from typing import Any, Final, Protocol, cast

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import (
    AbstractConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  redis-py's own, which is what it wraps others in
    MasterDownError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.maint_notifications import MaintNotificationsConfig

from async_redis_cache._common.endpoint import Endpoint
from async_redis_cache._common.errors import (
    CacheConfigError,
    CacheLoginError,
    CacheUnavailable,
    CacheUnsupported,
)
from async_redis_cache._common.failures import Failure, ServerReply, failure_of, may_not_run
from async_redis_cache._common.hosts import AllowedHosts
from async_redis_cache._common.options import Options

from .reply_limits import HandshakeParser
from .sockets import AddressList, ResolvingConnection, TLSConfig, TLSConnection

__all__ = ["Connector", "SupportsConnect", "fields_of", "verify_master"]

_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""Seconds of silence, seconds between probes, and probes."""
_UNAVAILABLE: Final = {
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
}


class SupportsConnect(Protocol):
    """Makes connections."""

    async def open_connection(self) -> AbstractConnection | Failure:
        """A connection that is logged in and idle, or why there is none."""
        ...

    async def close_idle(self) -> None:
        """Close what is kept of attempts that came to nothing."""
        ...

    async def discard_connection(self, connection: AbstractConnection) -> None:
        """Give back a connection that is not to be used again."""
        ...


class Connector:
    """Connects to one server and logs in, one attempt a call. Owns the pool of redis.asyncio.

    Args:
        endpoint: where to, and as whom.
        options: time limits and TLS.
        protocol: which version of RESP the connections speak.
        trust: whom we trust and who we are, over TLS; by default as to the server.
        see: asks a new connection whether it will do; by default whether it answers.

    Raises:
        CacheConfigError: BAD_OPTION, when a TLS file cannot be read.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        *,
        protocol: int = 2,
        tls: TLSConfig | None = None,
        verify: Callable[[AbstractConnection], Awaitable[None]] | None = None,
    ) -> None:
        self._verify = verify or _verify_serving
        self._refusal = _refusal_of(endpoint, options)
        self._timeout = options.connect_seconds
        self._addresses = AddressList()
        self._make_pool = partial(
            ConnectionPool,
            connection_class=_connection_class(endpoint),
            max_connections=options.max_connections,
            parser_class=HandshakeParser,
            # With notifications on, the pool no longer looks for replies that nobody has read.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            db=endpoint.database,
            username=endpoint.username,
            password=endpoint.password,
            protocol=protocol,
            # Deadlines are ours. redis-py's make two timers a call, and on Python 3.11 its write
            # timeout swallows cancellations.
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            # CLIENT SETINFO would double the round trips of a connect.
            driver_info=None,
            **_address(endpoint, self._addresses),
            **_tls(endpoint, tls or TLSConfig.of(options)),
        )

    @cached_property
    def _pool(self) -> ConnectionPool:
        # Made when it is needed: a reply of a cluster may name a thousand nodes at once.
        return self._make_pool()

    async def open_connection(self) -> AbstractConnection | Failure:
        """A connection that is logged in and idle, or why there is none."""
        if self._refusal is not None:
            return self._refusal
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            outcome = await self._attempt(deadline)
            if not isinstance(outcome, Failure) or outcome.kind is not CacheUnavailable:
                return outcome
            is_late = asyncio.get_running_loop().time() >= deadline
            if not self._addresses.has_others() or is_late:
                return outcome

    async def _attempt(self, deadline: float) -> AbstractConnection | Failure:
        try:
            # redis-py bounds neither the login nor the name look-up.
            async with asyncio.timeout_at(deadline) as limit:
                self._addresses.begin(limit)
                connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
                try:
                    await self._verify(connection)
                    if await connection.can_read():
                        # One reply more than was asked for: the next would be taken for another's.
                        raise ConnectionError  # noqa: TRY301  the connection is given back below
                except BaseException:
                    await self.discard_connection(connection)
                    raise
                return connection
        except Exception as error:  # noqa: BLE001  the one border: a reset can raise AttributeError
            failure = _failure_of(error)
        await self.close_idle()
        return failure

    async def close_idle(self) -> None:
        """Close what the pool keeps of attempts that came to nothing, connected as it may be."""
        if "_pool" not in vars(self):
            return
        with contextlib.suppress(Exception):
            await self._pool.disconnect(inuse_connections=False)

    async def discard_connection(self, connection: AbstractConnection) -> None:
        """Give back a connection that is not to be used again, without a good-bye."""
        writer: Any = connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        # A transport that is closing has lost what abort would touch.
        if writer is not None and not writer.transport.is_closing():
            writer.transport.abort()
        try:
            await connection.disconnect(nowait=True)
        finally:
            # Or the pool would count it for ever, and at max_connections make no more.
            await self._pool.release(connection)


async def _verify_serving(connection: AbstractConnection) -> None:
    """Ask something, once: accepted is not served.

    A server without room, or that is loading, says so only then; here no call is lost on it.
    """
    await connection.send_command("PING")
    try:
        reply = cast("Any", await connection.read_response())
    except (NoPermissionError, ClusterDownError):
        raise
    except ResponseError:
        # In trouble of another kind, as with MISCONF, but it answers; so will it the calls.
        return
    if reply != b"PONG":
        raise ConnectionError("no reply to PING")


async def verify_master(connection: AbstractConnection) -> None:
    """Ask whether it serves, and as a master.

    By HELLO, which is nobody's to forbid; ROLE is @dangerous and @admin, and answered while data is loaded.
    """
    await _verify_serving(connection)
    await connection.send_command("HELLO")
    if fields_of(await connection.read_response()).get(b"role") != b"master":
        raise MasterDownError("it is a replica")


def fields_of(reply: Any) -> dict[bytes, Any]:
    """The fields of a reply by name; they come in a row where the connection speaks RESP2."""
    if isinstance(reply, dict):
        return cast("dict[bytes, Any]", reply)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _refusal_of(endpoint: Endpoint, options: Options) -> Failure | None:
    """Why the login must not be sent there, if it must not."""
    hosts = AllowedHosts.of(options.allowed_hosts)
    if not endpoint.is_named_by_server or hosts.admit(endpoint.host):
        return None
    problem = (
        f"the server refers to the host {endpoint.host}, which is not in options.allowed_hosts: "
        "nothing was sent there"
    )
    return Failure(CacheUnavailable, "HOST_NOT_ALLOWED", problem)


def _connection_class(endpoint: Endpoint) -> type[AbstractConnection]:
    if endpoint.kind == "unix":
        return UnixDomainSocketConnection
    return TLSConnection if endpoint.tls else ResolvingConnection


def _address(endpoint: Endpoint, addresses: AddressList) -> dict[str, Any]:
    if endpoint.kind == "unix":
        return {"path": endpoint.path}
    return {
        "host": endpoint.host,
        "port": endpoint.port,
        "addresses": addresses,
        # Middleboxes do not forget what speaks now and then, and a peer that is gone is noticed. redis-py 8 does
        # so by itself, and others not.
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
    }


def _tls(endpoint: Endpoint, tls: TLSConfig) -> dict[str, Any]:
    if not endpoint.tls:
        return {}
    tls.check()
    return {"new_context": tls.context}


def _failure_of(error: Exception) -> Failure:
    # On a Unix socket redis-py logs in while it connects, and wraps what comes of it.
    while type(error) is ConnectionError and isinstance(error.__cause__, RedisError):
        error = error.__cause__
    # Who is refused comes first: for redis-py that is a ConnectionError too, to be tried again.
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        problem = "the server refuses the login: check user and password"
        return Failure(CacheLoginError, "BAD_CREDENTIALS", problem)
    if isinstance(error, NoPermissionError):
        return may_not_run(str(error))
    for kind, word in _UNAVAILABLE.items():
        if isinstance(error, kind):
            return failure_of(ServerReply(word))
    if isinstance(error, ResponseError):
        failure = failure_of(ServerReply(f"ERR {error}"))
        problem = (
            "the server refuses the number of the database in the URI, or the way of the login"
        )
        unsupported = failure.kind is CacheUnsupported
        return failure if unsupported else Failure(CacheConfigError, "BAD_OPTION", problem)
    root: BaseException = error
    while isinstance(root.__context__, OSError):
        root = root.__context__
    said = f"{root.reason} {root}".upper() if isinstance(root, ssl.SSLError) else ""
    if "CERTIFICATE" in said or "UNKNOWN_CA" in said:
        problem = "a certificate was refused, the server's by us or ours by the server"
        return Failure(CacheLoginError, "BAD_CERTIFICATE", problem)
    problem = (
        f"could not connect: {type(root).__name__}; check that it runs, its address and the network"
    )
    return Failure(CacheUnavailable, "CONNECT_FAILED", problem, retryable=True)
