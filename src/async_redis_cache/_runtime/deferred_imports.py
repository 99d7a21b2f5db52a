"""Modules that are imported when a cache is opened first, since they would double the time that the package's import takes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import threading
from typing import Final

__all__ = ["import_deferred"]

_MODULES: Final = (
    "anyio._backends._asyncio",
    "async_redis_cache._engine.engine",
    "encodings.idna",
)


async def import_deferred() -> None:
    """Import what anyio and the event loop would import at their first use, on a thread.

    Importing takes tens of milliseconds, in which the event loop could run nothing else.
    """
    if all(name in sys.modules for name in _MODULES):
        return
    loop = asyncio.get_running_loop()
    is_done = loop.create_future()

    def report() -> None:
        if not is_done.done():
            is_done.set_result(None)

    def run() -> None:
        # Whatever fails here fails again where the module is used, and is raised there.
        with contextlib.suppress(Exception):
            for name in _MODULES:
                importlib.import_module(name)
        # The loop is closed if the caller was cancelled.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(report)

    # Not the executor of the loop: its thread would stay.
    threading.Thread(target=run, name="async-redis-cache imports", daemon=True).start()
    await is_done
