"""Sockets: name resolution in a thread that can be abandoned, connecting, and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import zip_longest
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import anyio.to_thread
from redis.asyncio.connection import Connection

from async_redis_cache._common.errors import CacheConfigError
from async_redis_cache._common.forks import after_fork_in_child
from async_redis_cache._common.options import Options

from .platforms import can_watch_sockets

__all__ = ["AddressList", "ResolvingConnection", "TLSConfig", "TLSConnection"]

_Address = tuple[int, Any]
"""An address family, and an address of it."""
_Connected = tuple[socket.socket, Any]
_IN_PROGRESS: Final = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY}
_DELAY: Final = 0.25
"""Seconds after which the next address is tried in parallel."""
_MISMATCH: Final = "KEY_VALUES_MISMATCH"
_TURNS_TO_READ: Final = 3
"""Iterations of the event loop: poll, read, pass on to the stream."""

_under_way: Final[dict[tuple[str, int], Future[list[_Address]]]] = {}
"""At most one look-up of each name at a time, shared by all callers."""
# The threads of the look-ups do not exist in a forked child.
after_fork_in_child(_under_way.clear)


class AddressList:
    """Remembers which addresses of a name accept connections but do not reply, as a hung server does.

    These are tried last. Belongs to one `Connector`, which opens one connection at a time.
    """

    def __init__(self) -> None:
        self._failed: set[Any] = set()
        self._current: Any = None
        self._untried = 0
        self._timeout: asyncio.Timeout | None = None

    def begin(self, timeout: asyncio.Timeout) -> None:
        """Start an attempt to connect.

        Args:
            timeout: of the attempt; shortened while other addresses are left to try.
        """
        self._timeout, self._current = timeout, None

    def ordered(self, addresses: list[_Address]) -> list[_Address]:
        """Sort addresses into the order in which to try them."""
        self._failed.intersection_update(address for _, address in addresses)
        self._untried = len({address for _, address in addresses} - self._failed)
        return sorted(addresses, key=lambda entry: entry[1] in self._failed)

    def connected(self, address: Any) -> None:
        """Record that an address accepted a connection; if others are left, it has half of the remaining time to reply."""
        self._current = address
        # An address that failed before is used only if no other accepts a connection.
        self._untried = 0 if address in self._failed else self._untried - 1
        if (
            self._untried > 0
            and self._timeout is not None
            and (end := self._timeout.when()) is not None
        ):
            now = asyncio.get_running_loop().time()
            self._timeout.reschedule(now + (end - now) / 2)

    def skip_current(self) -> bool:
        """Record that the connected address did not reply; return whether other addresses are left to try."""
        if self._current is None or self._untried <= 0:
            self._failed.clear()
            return False
        self._failed.add(self._current)
        return True


class ResolvingConnection(Connection):
    """Resolves its host name for each attempt, and uses the first address that accepts a connection.

    The event loop would resolve names in the threads of its executor, which may all be busy. Besides, a closing loop and
    the exiting interpreter wait for these threads, regardless of the deadline of the attempt.
    """

    def __init__(self, *, addresses: AddressList | None = None, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self._addresses = addresses or AddressList()
        self._connected: socket.socket | None = None

    async def _connect(self) -> None:
        found = _interleaved(await _addresses_of(self.host, self.port))
        addresses = self._addresses.ordered(found)
        # The last address is left with half of the time at least.
        share = float(self.socket_connect_timeout or inf) / (2 * len(addresses))
        connected, address = await _first_connected(addresses, min(share, _DELAY))
        self._addresses.connected(address)
        self._connected = connected
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except BaseException:
            connected.close()
            raise
        finally:
            self._connected = None

    def _connection_arguments(self) -> dict[str, Any]:
        return {"sock": self._connected}


async def _addresses_of(host: str, port: int) -> list[_Address]:
    with contextlib.suppress(ValueError):
        ip_address(host)
        return _look_up(host, port)  # Numeric: does not block.
    look_up = _under_way.get((host, port)) or _start_look_up(host, port)
    return await asyncio.wrap_future(look_up)


def _look_up(host: str, port: int) -> list[_Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _interleaved(addresses: list[_Address]) -> list[_Address]:
    """Alternate between address families, in order, so that a family without a network costs one attempt only."""
    families: dict[int, list[_Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


async def _first_connected(addresses: list[_Address], delay: float) -> _Connected:
    """Connect to the first of these addresses that accepts; return the socket and the address.

    The next address is tried when the one before has failed, or, in parallel, when it has not answered for `delay`
    seconds (RFC 8305, "Happy Eyeballs"), so that an address that drops packets does not use up the time limit.

    Raises:
        OSError: the last error, if all addresses fail.
    """
    loop = asyncio.get_running_loop()
    waiting = deque(addresses)
    attempts: set[asyncio.Task[_Connected]] = set()
    failure: BaseException = OSError("the name has no address")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(loop.create_task(_open_socket(*waiting.popleft())))
            done, attempts = await asyncio.wait(
                attempts,
                timeout=delay if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winners: list[_Connected] = []
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    winners.append(attempt.result())
                elif isinstance(error, OSError):
                    failure = error
                else:
                    raise error
            for late, _ in winners[1:]:
                late.close()
            if winners:
                return winners[0]
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_close)
            attempt.cancel()
        if attempts:
            await asyncio.wait(attempts)
    raise failure


def _close(attempt: asyncio.Task[_Connected]) -> None:
    """Close the socket of an attempt that succeeded although it was cancelled."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[0].close()


async def _open_socket(family: int, address: Any) -> _Connected:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        await _connect(connecting, address)
    except BaseException:
        connecting.close()
        raise
    return connecting, address


async def _connect(connecting: socket.socket, address: Any) -> None:
    """Connect a socket.

    `loop.sock_connect` of uvloop resolves even numeric addresses in threads of libuv. These do not exist in a forked
    child, which crashes when it exits.
    """
    connecting.setblocking(False)
    loop = asyncio.get_running_loop()
    if not can_watch_sockets(loop):
        await loop.sock_connect(connecting, address)
        return
    code = connecting.connect_ex(address)
    if code in _IN_PROGRESS:
        writable = loop.create_future()
        loop.add_writer(connecting, _set_done, writable)
        try:
            await writable
        finally:
            loop.remove_writer(connecting)
        code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _start_look_up(host: str, port: int) -> Future[list[_Address]]:
    look_up = Future[list[_Address]]()
    # A cancelled caller must not cancel it for the others.
    look_up.set_running_or_notify_cancel()

    # Loops of several threads may get here at once.
    first = _under_way.setdefault((host, port), look_up)
    if first is not look_up:
        return first

    def run() -> None:
        try:
            found = _look_up(host, port)
        except Exception as error:  # noqa: BLE001  raised to the callers
            del _under_way[host, port]
            look_up.set_exception(error)
        else:
            del _under_way[host, port]
            look_up.set_result(found)

    thread = threading.Thread(target=run, name="name look-up", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        # The process cannot start a thread at present.
        del _under_way[host, port]
        look_up.set_exception(error)
        raise
    return look_up


class _TLSFile(NamedTuple):
    """A PEM file, and the option that names it."""

    option: str
    path: str


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """The files and checks of TLS connections.

    Attributes:
        authorities: certificate authorities; those of the system if the path is empty.
        certificate: the client certificate; none if the path is empty.
        key_file: its private key, if that is in another file.
        check_hostname: whether the certificate of the server must match the host name.
        verify: whether the certificate of the server is verified at all.
        server_name: the name to send and to verify, instead of the host; empty for the host.
        key_password: the passphrase of the private key.
    """

    authorities: _TLSFile
    certificate: _TLSFile
    key_file: str
    check_hostname: bool
    verify: bool
    server_name: str
    key_password: str = field(repr=False)

    @classmethod
    def of(cls, options: Options, *, sentinels: bool = False) -> TLSConfig:
        """Read the options for data servers, or those for Sentinels, which default to the same."""
        authorities = _TLSFile("tls_ca_file", options.tls_ca_file)
        certificate = _TLSFile("tls_certificate_file", options.tls_certificate_file)
        key_file, key_password = options.tls_key_file, options.tls_key_password
        server_name = options.tls_server_name
        if sentinels and options.sentinel_tls_ca_file:
            authorities = _TLSFile("sentinel_tls_ca_file", options.sentinel_tls_ca_file)
        if sentinels and options.sentinel_tls_certificate_file:
            certificate = _TLSFile(
                "sentinel_tls_certificate_file", options.sentinel_tls_certificate_file
            )
            key_file = options.sentinel_tls_key_file
            key_password = options.sentinel_tls_key_password
        if sentinels and options.sentinel_tls_server_name:
            server_name = options.sentinel_tls_server_name
        return cls(
            authorities,
            certificate,
            key_file,
            options.tls_check_hostname,
            options.tls_verify,
            server_name,
            key_password,
        )

    def context(self) -> ssl.SSLContext:
        """Return a new context. The files are read each time, as certificates are renewed."""
        context = ssl.create_default_context(cafile=self.authorities.path or None)
        self._load_certificate(context)
        context.check_hostname = self.check_hostname and self.verify
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        return context

    def check(self) -> None:
        """Read the files, to report a problem before the first connection.

        Raises:
            CacheConfigError: BAD_OPTION, if a file cannot be read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        file, option, problem = self.authorities, "", ""
        try:
            if file.path:
                context.load_verify_locations(file.path)
            file = self.certificate
            self._load_certificate(context)
        except ssl.SSLError as error:
            if file is self.certificate and error.reason != _MISMATCH and self._is_key_encrypted():
                option = file.option.replace("certificate_file", "key_password")
                problem = "does not decrypt the private key"
            else:
                problem = (
                    "does not hold a certificate or key in PEM form that fits the other TLS files"
                )
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {type(error).__name__}"
        if problem:
            raise CacheConfigError("BAD_OPTION", f"options.{option or file.option} {problem}")

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        if self.certificate.path:
            # Without a password, even an empty one, OpenSSL would prompt for one on the terminal.
            key_file = self.key_file or None
            context.load_cert_chain(self.certificate.path, key_file, password=self.key_password)

    def _is_key_encrypted(self) -> bool:
        # "BEGIN ENCRYPTED PRIVATE KEY" of PKCS#8, or "Proc-Type: 4,ENCRYPTED" of the older format.
        return b"ENCRYPTED" in Path(self.key_file or self.certificate.path).read_bytes()


class TLSConnection(ResolvingConnection):
    """Starts TLS on a connected socket, and closes without close_notify.

    Connecting and starting TLS in one step would leave the socket open if it is cancelled in between, because of asyncio;
    and close_notify keeps a connection open until the peer has replied.

    Args:
        new_context: returns the TLS context, for each connection, as files are renewed.
        server_name: the name to send and to verify; empty for the host.
        options: of redis-py.
    """

    def __init__(
        self, *, new_context: Callable[[], ssl.SSLContext], server_name: str, **options: Any
    ) -> None:
        super().__init__(**options)
        self._server_name = server_name
        self._new_context = new_context

    async def _connect(self) -> None:
        # Reading the certificate authorities of the system takes tens of milliseconds.
        context = await anyio.to_thread.run_sync(self._new_context)
        await super()._connect()
        writer = cast("asyncio.StreamWriter", self._writer)
        try:
            await writer.start_tls(context, server_hostname=self._server_name or self.host)
        except BaseException:
            # asyncio closes the transport, uvloop not always; and neither notifies the stream before TLS is established:
            # waiting for it to close would never end.
            writer.transport.abort()
            self._reader = self._writer = None
            raise
        # The server verifies the client certificate only now. If it refuses and closes, a write would fail without the
        # reason, so the alert has to be read first.
        for _ in range(_TURNS_TO_READ):
            await asyncio.sleep(0)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Reset the connection. Called by redis-py too, after a failure or a cancellation."""
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.transport.abort()
        await super().disconnect(*args, **kwargs)
