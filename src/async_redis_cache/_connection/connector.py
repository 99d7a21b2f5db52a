"""Open connections with redis.asyncio, and translate its errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
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

from async_redis_cache._common.endpoint import Endpoint, name_of
from async_redis_cache._common.errors import (
    CacheConfigError,
    CacheLoginError,
    CacheUnavailable,
    CacheUnsupported,
)
from async_redis_cache._common.failures import Failure, ServerReply, failure_of, may_not_run
from async_redis_cache._common.hosts import AllowedHosts
from async_redis_cache._common.logins import NoLoginError
from async_redis_cache._common.options import Options

from .provided_login import CurrentLogin
from .redis_py import POOL_OPTIONS, can_read, get_connection
from .reply_limits import HandshakeParser
from .sockets import AddressList, ResolvingConnection, TLSConfig, TLSConnection

__all__ = ["Connector", "SupportsConnect", "fields_of", "verify_master"]

_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""Seconds of idleness, seconds between probes, and number of probes."""
_UNAVAILABLE: Final = {
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
}
_LOGIN_SHARE: Final = 0.1
"""Fraction of `connect_timeout` that is left when a source of logins is given up, so that `open` can say so."""
_NO_NAME: Final = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class SupportsConnect(Protocol):
    """Opens and closes connections."""

    async def open_connection(self) -> AbstractConnection | Failure:
        """Open a connection and log in; return a failure if that is not possible."""
        ...

    async def close_idle(self) -> None:
        """Close the connections that failed attempts have left."""
        ...

    async def discard_connection(self, connection: AbstractConnection) -> None:
        """Close a connection."""
        ...


class Connector:
    """Connects to one server and logs in, one attempt at a time. Owns a pool of redis.asyncio.

    Args:
        endpoint: address and login.
        options: time limits and TLS.
        protocol: version of RESP.
        tls: certificates and checks; by default those for data servers.
        verify: checks a new connection; by default, that the server replies.

    Raises:
        CacheConfigError: BAD_OPTION, if a TLS file cannot be read.
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
        self._endpoint = endpoint
        self._refusal = _refusal_of(endpoint, options)
        self._timeout = options.connect_seconds
        self._addresses = AddressList()
        source = endpoint.login_source
        self._login = None if source is None else CurrentLogin(source)
        self._make_pool = partial(
            ConnectionPool,
            connection_class=_connection_class(endpoint),
            max_connections=options.max_connections,
            parser_class=HandshakeParser,
            db=endpoint.database,
            **_login(endpoint, self._login),
            protocol=protocol,
            # Deadlines are enforced here. Those of redis-py cost two timers a call, and on Python 3.11 its write timeout
            # swallows cancellations.
            socket_timeout=None,
            socket_connect_timeout=self._timeout,
            **POOL_OPTIONS,
            **_address(endpoint, self._addresses),
            **_tls(endpoint, tls or TLSConfig.of(options)),
        )

    @cached_property
    def _pool(self) -> ConnectionPool:
        # Created on first use: a cluster may name a thousand nodes at once.
        return self._make_pool()

    async def open_connection(self) -> AbstractConnection | Failure:
        """Open a connection and log in; return a failure if that is not possible."""
        if self._refusal is not None:
            return self._refusal
        deadline = asyncio.get_running_loop().time() + self._timeout
        outcome = await self._open_by(deadline)
        if (
            self._login is not None
            and isinstance(outcome, Failure)
            and outcome.code == "BAD_CREDENTIALS"
        ):
            # The login may have changed since the source returned it.
            outcome = await self._open_by(deadline, outcome)
        return outcome

    async def _open_by(
        self, deadline: float, refusal: Failure | None = None
    ) -> AbstractConnection | Failure:
        while True:
            outcome = await self._attempt(deadline, refusal)
            if not isinstance(outcome, Failure) or outcome.kind is not CacheUnavailable:
                return outcome
            is_late = asyncio.get_running_loop().time() >= deadline
            if not self._addresses.skip_current() or is_late:
                return outcome

    async def _attempt(
        self, deadline: float, refusal: Failure | None
    ) -> AbstractConnection | Failure:
        """Try once; if the login was refused before, only with another one."""
        try:
            # redis-py limits neither the login nor name resolution.
            async with asyncio.timeout_at(deadline) as timeout:
                self._addresses.begin(timeout)
                if self._login is not None:
                    until = deadline - _LOGIN_SHARE * self._timeout
                    is_new = await self._login.renew(until, was_refused=refusal is not None)
                    if refusal is not None and not is_new:
                        return refusal
                connection = await get_connection(self._pool)
                try:
                    await self._verify(connection)
                    if await can_read(connection):
                        # An unsolicited reply: it would be taken for the first reply to the next command.
                        raise ConnectionError  # noqa: TRY301  the connection is closed below
                except BaseException:
                    await self.discard_connection(connection)
                    raise
                return connection
        except NoLoginError as error:
            return Failure(CacheUnavailable, "NO_CREDENTIALS", str(error))
        except Exception as error:  # noqa: BLE001  redis-py may raise anything: a reset, AttributeError
            failure = _failure_of(error, self._endpoint)
        await self.close_idle()
        return failure

    async def close_idle(self) -> None:
        """Close the connections that failed attempts have left in the pool, connected or not."""
        if "_pool" not in vars(self):
            return
        with contextlib.suppress(Exception):
            await self._pool.disconnect(inuse_connections=False)

    async def discard_connection(self, connection: AbstractConnection) -> None:
        """Reset a connection and remove it from the pool of redis-py."""
        writer: Any = connection._writer  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        # The abort of a closing transport would fail.
        if writer is not None and not writer.transport.is_closing():
            writer.transport.abort()
        try:
            await connection.disconnect(nowait=True)
        finally:
            # Otherwise the pool counts the connection forever, and opens no more at max_connections.
            await self._pool.release(connection)


async def _verify_serving(connection: AbstractConnection) -> None:
    """Send a PING: an accepted connection may still be refused.

    A server that has reached maxclients, or is loading its data, replies with an error only then; at this point no
    request is affected.
    """
    await connection.send_command("PING")
    try:
        reply = cast("Any", await connection.read_response())
    except (NoPermissionError, ClusterDownError):
        raise
    except ResponseError:
        # Errors such as MISCONF: the server replies, so requests will get their own errors.
        return
    if reply != b"PONG":
        raise ConnectionError("no reply to PING")


async def verify_master(connection: AbstractConnection) -> None:
    """Check that the server replies, and is a master.

    Uses HELLO, which no ACL can forbid; ROLE is in @dangerous and @admin, and also works while the server is loading.
    """
    await _verify_serving(connection)
    await connection.send_command("HELLO")
    if fields_of(await connection.read_response()).get(b"role") != b"master":
        raise MasterDownError("it is a replica")


def fields_of(reply: Any) -> dict[bytes, Any]:
    """Return the fields of a map reply, which RESP2 sends as a flat list."""
    if isinstance(reply, dict):
        return cast("dict[bytes, Any]", reply)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _refusal_of(endpoint: Endpoint, options: Options) -> Failure | None:
    """Return a failure if the login must not be sent to this host."""
    hosts = AllowedHosts.of(options.allowed_hosts)
    if not endpoint.is_named_by_server or hosts.admit(endpoint.host):
        return None
    problem = (
        f"the server redirects to the host {endpoint.host}, which is not in options.allowed_hosts; nothing "
        "was sent there"
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
        # Keeps middleboxes from dropping idle connections, and detects dead peers. The default of redis-py 8 only.
        "socket_keepalive": True,
        "socket_keepalive_options": _KEEPALIVE,
    }


def _login(endpoint: Endpoint, current: CurrentLogin | None) -> dict[str, Any]:
    if current is not None:
        return {"credential_provider": current}
    return {"username": endpoint.username, "password": endpoint.password}


def _tls(endpoint: Endpoint, tls: TLSConfig) -> dict[str, Any]:
    if not endpoint.tls:
        return {}
    tls.check()
    return {"new_context": tls.context, "server_name": tls.server_name}


def _failure_of(error: Exception, endpoint: Endpoint) -> Failure:
    # On a Unix socket redis-py logs in while it connects, and wraps the error of the login.
    while type(error) is ConnectionError and isinstance(error.__cause__, RedisError):
        error = error.__cause__
    # Refusals first: to redis-py these are ConnectionErrors too, to be retried.
    if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
        problem = "the server rejected the login: check user and password"
        return Failure(CacheLoginError, "BAD_CREDENTIALS", problem)
    if isinstance(error, NoPermissionError):
        return may_not_run(str(error))
    for kind, word in _UNAVAILABLE.items():
        if isinstance(error, kind):
            return failure_of(ServerReply(word))
    if isinstance(error, ResponseError):
        return _refused_login(str(error), endpoint.database)
    root: BaseException = error
    while isinstance(root.__context__, OSError):
        root = root.__context__
    if isinstance(root, ssl.SSLError) and (problem := _certificate_problem(root)):
        return Failure(CacheLoginError, "BAD_CERTIFICATE", problem)
    mapped = f" at {name_of((endpoint.host, endpoint.port))} (options.address_map)"
    problem = (
        f"could not connect to {{server}}{mapped if endpoint.is_mapped else ''}: {_reason_of(root)}"
    )
    return Failure(CacheUnavailable, "CONNECT_FAILED", problem, retryable=True)


def _refused_login(text: str, database: int) -> Failure:
    failure = failure_of(ServerReply(f"ERR {text}"))
    if failure.kind is CacheUnsupported:
        return failure
    if "DB index" in text:
        problem = f"database {database} does not exist on {{server}}"
    elif "cluster mode" in text:
        problem = f"{{server}} is a node of a cluster, and has no database {database}"
    else:
        problem = "the server refuses HELLO, AUTH or SELECT: check the user and the database number in the URI"
    return Failure(CacheConfigError, "BAD_OPTION", problem)


def _certificate_problem(error: ssl.SSLError) -> str:
    """Describe which side refused a certificate; empty if none did."""
    text = f"{error.reason} {error}".upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not trusted: {error.verify_message}"
    if "CERTIFICATE" in text or "UNKNOWN_CA" in text:
        return f"the server refuses the client certificate: {error.reason}"
    return ""


def _reason_of(error: BaseException) -> str:
    """Describe why a connection could not be opened, without the texts of peers."""
    if isinstance(error, ssl.SSLError):
        reason = error.reason or type(error).__name__
        return f"the TLS handshake failed ({reason}); check that the server expects TLS"
    if isinstance(error, TimeoutError):
        return "timed out; check the address, the network and the server"
    if isinstance(error, socket.gaierror):
        return "name not known" if error.errno in _NO_NAME else "the name look-up failed"
    if isinstance(error, OSError) and error.errno:
        return f"{os.strerror(error.errno).lower()}; check that the server runs, its address and the network"
    return (
        "no valid reply to the login; check that a Redis or Valkey server listens there, and whether it "
        "expects TLS"
    )
