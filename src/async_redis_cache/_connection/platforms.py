"""What differs between the sockets and event loops of platforms: Windows has neither `poll` nor, by default, `add_writer`."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

__all__ = ["RESET_ON_CLOSE", "can_watch_sockets", "unread_check"]

RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER: on, for 0 seconds."""


def unread_check(connected: socket.socket) -> Callable[[], Any]:
    """Return a function that tells at once whether a socket has data to read: by a true value."""
    if not hasattr(select, "poll"):
        return partial(_selected, [connected.fileno()])
    poll = select.poll()
    poll.register(connected.fileno(), select.POLLIN)
    return partial(poll.poll, 0)


def _selected(descriptors: list[int]) -> list[int]:
    return select.select(descriptors, (), (), 0)[0]


def can_watch_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the loop has `add_writer`; the proactor loop of Windows does not."""
    return not isinstance(loop, getattr(asyncio, "ProactorEventLoop", ()))
