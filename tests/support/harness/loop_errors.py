"""Catch what the event loop reports to its exception handler."""

from __future__ import annotations

import asyncio
import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def no_loop_errors() -> Generator[None]:
    """Fail if an exception of a callback, protocol or task reaches the exception handler of the running loop."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    former = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        yield
        # A task reports an exception that was never retrieved when it is collected.
        gc.collect()
    finally:
        loop.set_exception_handler(former)
    assert not complaints, [{**one, "exception": repr(one.get("exception"))} for one in complaints]
