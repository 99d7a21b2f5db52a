"""What the name of a server means: looked up in a thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any, Final

from redis.asyncio.connection import Connection

__all__ = ["NamedConnection"]

_Place = tuple[str, int]
"""An address and a port."""

_under_way: Final[dict[tuple[str, int], Future[list[_Place]]]] = {}
"""At most one look-up of a name, however often it is asked for meanwhile."""
# A child has none of the threads that would end them.
os.register_at_fork(after_in_child=_under_way.clear)


class NamedConnection(Connection):
    """Looks its name up anew each time, and tries the addresses in their order.

    The event loop's own look-up takes threads of the executor, which may all be busy; and a loop
    that ends, or an interpreter, waits for these, whatever became of the deadline of who asked.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self._place: _Place = "", 0

    async def _connect(self) -> None:
        *others, last = await _places_of(self.host, self.port)
        for place in others:
            with contextlib.suppress(OSError):
                return await self._connect_to(place)
        return await self._connect_to(last)

    async def _connect_to(self, place: _Place) -> None:
        self._place = place
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> dict[str, Any]:
        host, port = self._place
        return {"host": host, "port": port}


async def _places_of(host: str, port: int) -> list[_Place]:
    with contextlib.suppress(ValueError):
        return [(str(ip_address(host)), port)]
    look_up = _under_way.get((host, port)) or _begin(host, port)
    return await asyncio.wrap_future(look_up)


def _begin(host: str, port: int) -> Future[list[_Place]]:
    look_up = Future[list[_Place]]()
    # Who is cancelled does not cancel it for others.
    look_up.set_running_or_notify_cancel()

    def run() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001  it is raised where it was asked for
            del _under_way[host, port]
            look_up.set_exception(error)
        else:
            del _under_way[host, port]
            look_up.set_result([(str(place[0]), int(place[1])) for *_, place in found])

    thread = threading.Thread(target=run, name="name look-up", daemon=True)
    _under_way[host, port] = look_up
    try:
        thread.start()
    except RuntimeError:
        # No thread can be started (now).
        del _under_way[host, port]
        raise
    return look_up
