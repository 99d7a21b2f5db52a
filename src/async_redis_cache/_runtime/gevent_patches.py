"""What a cache needs where gevent has replaced threads by greenlets (`gevent.monkey`)."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from async_redis_cache._common.errors import CacheUnsupported
from async_redis_cache._common.pip_services import Context

__all__ = ["are_threads_patched", "refuse_partial_patches", "refuse_private_loop"]


def are_threads_patched() -> bool:
    """Return whether the threads of this process are greenlets."""
    return _is_patched("threading")


def refuse_partial_patches(context: Context) -> None:
    """Refuse to open a cache where gevent has replaced only a part of what an event loop and its threads use.

    They would wait for each other forever: greenlets do not run while a real lock or `select` waits.

    Raises:
        CacheUnsupported: threads are patched and `select` is not, or `queue` is patched and threads are not.
    """
    if are_threads_patched():
        missing = "" if _is_patched("select") else "select"
    else:
        missing = "thread" if _is_patched("queue") else ""
    if missing:
        problem = (
            f"gevent has patched a part of this program: call gevent.monkey.patch_all() without {missing}=False, "
            "or not at all"
        )
        raise CacheUnsupported("UNSUPPORTED", problem).traced(context)


def refuse_private_loop(thread_state: object, context: Context) -> None:
    """Refuse to start a private event loop where gevent cannot run it.

    Args:
        thread_state: a thread-local object that was created when this package was imported.
        context: of the call.

    Raises:
        CacheUnsupported: see `refuse_partial_patches`; or gevent has patched threads after this package was imported,
            or an event loop runs already: all greenlets are one thread to asyncio, and a thread has one running loop.
    """
    refuse_partial_patches(context)
    if not are_threads_patched():
        return
    if not isinstance(thread_state, threading.local):
        problem = (
            "gevent has patched threads after async_redis_cache was imported: call gevent.monkey.patch_all() "
            "before all other imports"
        )
        raise CacheUnsupported("UNSUPPORTED", problem).traced(context)
    if _is_loop_running():
        problem = (
            "all threads of this program are one to asyncio, since gevent has patched them, and an event loop runs "
            "already: that of asyncio.run or of another RedisCache. Open one RedisCache, outside of asyncio.run, and "
            "use namespaces of it"
        )
        raise CacheUnsupported("UNSUPPORTED", problem).traced(context)


def _is_patched(module: str) -> bool:
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
