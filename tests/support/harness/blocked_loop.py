"""Block the private event loop of a cache at a certain point."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from harness.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    import threading

    from async_redis_cache._engine.engine import Engine


def block_after_next_store(engine: Engine | None, gate: threading.Event) -> None:
    """Block the event loop once it has sent the next store, before it reads the reply, until the gate is set."""
    assert engine is not None
    writes: Any = engine.writes
    store = writes.store

    def store_and_block(*args: Any) -> Any:
        writes.store = store
        asyncio.get_running_loop().call_soon(gate.wait, PATIENCE_SECONDS)
        return store(*args)

    writes.store = store_and_block
