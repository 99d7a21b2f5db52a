"""Invariants of a process once all faults are gone, and of the whole simulation at its end."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from harness.simulated_calls import KEYS
from harness.simulated_history import ViolationError, Witness
from harness.simulated_loads import Source

if TYPE_CHECKING:
    from harness.simulated_clients import Clients
    from harness.simulated_loop import SimulatedLoop
    from harness.simulated_network import Network
    from harness.simulated_processes import Process
    from harness.simulated_store import Store

__all__ = ["at_rest", "nothing_left", "nothing_left_of"]

_REARMED: Final = 0.5
"""Seconds within which a link that has come of age is made anew."""


async def at_rest(clients: Clients, store: Store, process: Process) -> None:
    """It is idle, is served, and has nothing near but what is on the server.

    Raises:
        ViolationError: it is not so.
    """
    _idle(process)
    for key in KEYS:
        read = partial(process.cache.retrieve, None, key)
        call, value = await clients.made(process, "retrieve", (key,), read)
        if call.error is not None:
            raise ViolationError(f"{process.name}: {call} though all is well again")
        clients.judge(process, call, call.keys[0], value)
    # Also where somebody has died who held the right to load.
    source = Source(clients, process, takes=0)
    load = partial(process.cache.retrieve_or_load_many, None, KEYS, source.many)
    call, values = await clients.made(process, "retrieve_or_load_many", KEYS, load, loads=True)
    if call.error is not None:
        raise ViolationError(f"{process.name}: {call} though all is well again")
    for key, wire_key in zip(KEYS, call.keys, strict=True):
        clients.judge(process, call, wire_key, values.get(key))
    # Until the watch has seen that no call is overdue.
    await asyncio.sleep(process.options["command_timeout"] / 1000)
    _idle(process)
    near = process.engine._near
    if near is None:
        return
    end = clients.loop.time() + _REARMED
    while not near.is_connected():
        if clients.loop.time() > end:
            raise ViolationError(
                f"{process.name}: the near cache is not connected though all is well"
            )
        await asyncio.sleep(0.02)
    for key, entry in near._entries.items():
        held = store.data.get(key)
        if clients.loop.time() < entry.expires and entry.data != held:
            raise ViolationError(f"{process.name}: near is {entry.data!r}, on the server {held!r}")


def nothing_left_of(process: Process, network: Network, loop: SimulatedLoop) -> None:
    """Its cache is closed: its callers know it, and nothing goes on.

    Raises:
        ViolationError: something does.
    """
    connections = [one for one in network.connections if one.process == process.name]
    if left := [*process.calls, *connections, *loop.left_of(process)]:
        raise ViolationError(f"{process.name} is closed, and there is still {left}")


def nothing_left(network: Network, witness: Witness, loop: SimulatedLoop) -> None:
    """All caches are closed, and nothing is left of them.

    Raises:
        ViolationError: something is, or what failed for sure has been done.
    """
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        raise ViolationError(f"tasks are left: {tasks}")
    if network.connections:
        raise ViolationError(f"connections are left: {network.connections}")
    if unheeded := loop.unheeded():
        raise ViolationError(f"nobody has looked at {unheeded}")
    for number, origin in witness.origins.items():
        if origin.never and number in witness.first_seen:
            raise ViolationError(f"{origin} was stored though its store has failed for sure")


def _idle(process: Process) -> None:
    engine = process.engine
    loading, batcher, near = engine.single_flight, engine._batcher, engine._near
    left: dict[str, list[Any]] = {
        "flights": [*loading._in_flight, *loading._running, *loading._tasks._tasks],
        "debts": [*engine._pending.keys, *engine._pending.flushes],
        "probes": [engine._servers._node._breaker._next],
        "calls": [*batcher._queue._requests, *batcher._in_flight],
        "timer": [batcher._timer],
        "leases": [] if near is None else [*near._pending_fills, *near._watchers],
    }
    left = {name: [one for one in what if one is not None] for name, what in left.items()}
    if any(left.values()):
        raise ViolationError(f"{process.name}: at rest there is still {left}")
