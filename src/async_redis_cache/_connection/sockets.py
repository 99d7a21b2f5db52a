"""Sockets: the name of a server looked up in a thread that nobody has to wait for, and TLS."""

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
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import zip_longest
from math import inf
from typing import Any, Final, NamedTuple, cast

import anyio.to_thread
from redis.asyncio.connection import Connection

from async_redis_cache._common.errors import CacheConfigError
from async_redis_cache._common.options import Options

__all__ = ["AddressList", "ResolvingConnection", "TLSConfig", "TLSConnection"]

_Address = tuple[int, Any]
"""A family, and what a socket of it connects to."""
_Connected = tuple[socket.socket, Any]
_IN_PROGRESS: Final = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY}
_DELAY: Final = 0.25
"""Seconds after which the next address is tried beside one that has not answered."""
_TURNS_TO_READ: Final = 3
"""Of the loop: it looks what has come, reads it, and tells the stream."""

_under_way: Final[dict[tuple[str, int], Future[list[_Address]]]] = {}
"""At most one look-up of a name, however often it is asked for meanwhile."""
# A child has none of the threads that would end them.
os.register_at_fork(after_in_child=_under_way.clear)


class AddressList:
    """Which addresses of a name have connected and not served, as a server that hangs does: they come last.

    Of one `Dialer`, which makes one connection at a time.
    """

    def __init__(self) -> None:
        self._failed: set[Any] = set()
        self._taken: Any = None
        self._left = 0
        self._limit: asyncio.Timeout | None = None

    def begin(self, limit: asyncio.Timeout) -> None:
        """A connection is made, within this time."""
        self._limit, self._taken = limit, None

    def ordered(self, addresses: list[_Address]) -> list[_Address]:
        """In the order in which they are to be tried."""
        self._failed.intersection_update(address for _, address in addresses)
        self._left = len({address for _, address in addresses} - self._failed)
        return sorted(addresses, key=lambda one: one[1] in self._failed)

    def connected(self, address: Any) -> None:
        """One has connected: where there are others, it has half of the time to serve."""
        self._taken = address
        # One that has failed before is taken when no other can be connected to.
        self._left = 0 if address in self._failed else self._left - 1
        if self._left > 0 and self._limit is not None and (end := self._limit.when()) is not None:
            now = asyncio.get_running_loop().time()
            self._limit.reschedule(now + (end - now) / 2)

    def has_others(self) -> bool:
        """Whether there are some to be tried, now that the one that has connected did not serve."""
        if self._taken is None or self._left <= 0:
            self._failed.clear()
            return False
        self._failed.add(self._taken)
        return True


class ResolvingConnection(Connection):
    """Looks its name up anew each time, and takes the first address that answers.

    The event loop's own look-up takes threads of the executor, which may all be busy; and a loop
    that ends, or an interpreter, waits for these, whatever became of the deadline of who asked.
    """

    def __init__(self, *, addresses: AddressList | None = None, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self._addresses = addresses or AddressList()
        self._connected: socket.socket | None = None

    async def _connect(self) -> None:
        found = _interleaved(await _addresses_of(self.host, self.port))
        addresses = self._addresses.ordered(found)
        # The last one has half of the time at least.
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
        return _look_up(host, port)  # Numbers, for which nobody is asked.
    look_up = _under_way.get((host, port)) or _begin(host, port)
    return await asyncio.wrap_future(look_up)


def _look_up(host: str, port: int) -> list[_Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _interleaved(addresses: list[_Address]) -> list[_Address]:
    """In their order, and of each family in turn: a network that lacks one is found out by the first."""
    families: dict[int, list[_Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


async def _first_connected(addresses: list[_Address], delay: float) -> _Connected:
    """A socket that is connected to the first of these addresses that answers, and which that is.

    Each is tried when the one before has failed, or has not answered for so many seconds, and then beside it
    (RFC 8305, "Happy Eyeballs"): an address that swallows everything must not cost all of the time.

    Raises:
        OSError: what the last of them had to say, where all have failed.
    """
    loop = asyncio.get_running_loop()
    waiting = deque(addresses)
    attempts: set[asyncio.Task[_Connected]] = set()
    failure: BaseException = OSError("the name has no address")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(loop.create_task(_connected_to(*waiting.popleft())))
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
    """Close what was connected all the same."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[0].close()


async def _connected_to(family: int, address: Any) -> _Connected:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        await _connect(connecting, address)
    except BaseException:
        connecting.close()
        raise
    return connecting, address


async def _connect(connecting: socket.socket, address: Any) -> None:
    """Connect a socket.

    Not by `loop.sock_connect`: uvloop's looks the address up in threads of libuv, though it is numeric. A forked
    child lacks them, and crashes as it ends.
    """
    connecting.setblocking(False)
    code = connecting.connect_ex(address)
    if code in _IN_PROGRESS:
        loop = asyncio.get_running_loop()
        writable = loop.create_future()
        loop.add_writer(connecting, _set, writable)
        try:
            await writable
        finally:
            loop.remove_writer(connecting)
        code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _begin(host: str, port: int) -> Future[list[_Address]]:
    look_up = Future[list[_Address]]()
    # Who is cancelled does not cancel it for others.
    look_up.set_running_or_notify_cancel()

    def run() -> None:
        try:
            found = _look_up(host, port)
        except Exception as error:  # noqa: BLE001  it is raised where it was asked for
            del _under_way[host, port]
            look_up.set_exception(error)
        else:
            del _under_way[host, port]
            look_up.set_result(found)

    thread = threading.Thread(target=run, name="name look-up", daemon=True)
    _under_way[host, port] = look_up
    try:
        thread.start()
    except RuntimeError:
        # No thread can be started (now).
        del _under_way[host, port]
        raise
    return look_up


class _TLSFile(NamedTuple):
    """A file in PEM form, and the option that names it."""

    option: str
    path: str


@dataclass(frozen=True, slots=True)
class TLSConfig:
    """Whom we trust, and who we are to them.

    Attributes:
        authorities: trusted in place of the system's, where a file is named.
        certificate: ours, where a file is named.
        key_file: its private key, where that is not in the same file.
        check_hostname: whether a certificate must bear the host's name.
        verify: whether certificates are verified at all.
    """

    authorities: _TLSFile
    certificate: _TLSFile
    key_file: str
    check_hostname: bool
    verify: bool

    @classmethod
    def of(cls, options: Options, *, sentinels: bool = False) -> TLSConfig:
        """For the servers with the data; for sentinels the same but for the files of their own."""
        authorities = _TLSFile("tls_ca_file", options.tls_ca_file)
        certificate = _TLSFile("tls_certificate_file", options.tls_certificate_file)
        key_file = options.tls_key_file
        if sentinels and options.sentinel_tls_ca_file:
            authorities = _TLSFile("sentinel_tls_ca_file", options.sentinel_tls_ca_file)
        if sentinels and options.sentinel_tls_certificate_file:
            certificate = _TLSFile(
                "sentinel_tls_certificate_file", options.sentinel_tls_certificate_file
            )
            key_file = options.sentinel_tls_key_file
        return cls(
            authorities, certificate, key_file, options.tls_check_hostname, options.tls_verify
        )

    def context(self) -> ssl.SSLContext:
        """What is asked of a connection; the files are read anew each time, as they are renewed."""
        # The authorities of the system where no others are named.
        context = ssl.create_default_context(cafile=self.authorities.path or None)
        self._show(context)
        context.check_hostname = self.check_hostname and self.verify
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        return context

    def check(self) -> None:
        """Find out now what would later be a connection that failed.

        Raises:
            CacheConfigError: BAD_OPTION, when a file cannot be read.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        file, problem = self.authorities, ""
        try:
            if file.path:
                context.load_verify_locations(file.path)
            file = self.certificate
            self._show(context)
        except ssl.SSLError:
            problem = "and its like do not hold what they should, in PEM form and unencrypted"
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {type(error).__name__}"
        if problem:
            raise CacheConfigError("BAD_OPTION", f"options.{file.option} {problem}")

    def _show(self, context: ssl.SSLContext) -> None:
        if self.certificate.path:
            # A password, or OpenSSL would ask the terminal for one.
            context.load_cert_chain(self.certificate.path, self.key_file or None, password="")


class TLSConnection(ResolvingConnection):
    """Begins TLS on a connection that is there, and ends without a good-bye.

    Where both begin in one step, asyncio forgets to close a connection that is given up just then; and
    a good-bye leaves one open until the peer has answered it.

    Args:
        new_context: reads whom to trust, and who we are; for each connection, as files are renewed.
        options: of redis-py.
    """

    def __init__(self, *, new_context: Callable[[], ssl.SSLContext], **options: Any) -> None:
        super().__init__(**options)
        self._new_context = new_context

    async def _connect(self) -> None:
        # To read the authorities of a system takes tens of milliseconds.
        context = await anyio.to_thread.run_sync(self._new_context)
        await super()._connect()
        writer = cast("asyncio.StreamWriter", self._writer)
        try:
            await writer.start_tls(context, server_hostname=self.host)
        except BaseException:
            # asyncio closes it, and uvloop not always; and neither tells a stream so that has not got its
            # TLS: who waited for the end would do so in vain.
            writer.transport.abort()
            self._reader = self._writer = None
            raise
        # Our certificate is judged after that. Where it is refused, and the connection closed, whoever
        # writes first learns of the closing alone, and not why: what has come is to be read first.
        for _ in range(_TURNS_TO_READ):
            await asyncio.sleep(0)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Called by redis-py, too, for what has failed or was given up."""
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.transport.abort()
        await super().disconnect(*args, **kwargs)
