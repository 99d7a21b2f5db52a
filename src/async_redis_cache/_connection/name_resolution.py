"""What the name of a server means: looked up in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections import deque
from concurrent.futures import Future
from ipaddress import ip_address
from itertools import zip_longest
from math import inf
from typing import Any, Final

from redis.asyncio.connection import Connection

__all__ = ["AddressList", "ResolvingConnection"]

_Address = tuple[int, Any]
"""A family, and what a socket of it connects to."""
_Connected = tuple[socket.socket, Any]
_IN_PROGRESS: Final = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY}
_DELAY: Final = 0.25
"""Seconds after which the next address is tried beside one that has not answered."""

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
