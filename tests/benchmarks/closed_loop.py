"""Closed loops: so many tasks or threads, each of which makes one call after the other."""

import asyncio
import gc
import itertools
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable

from .peers import AsyncPeer, SyncPeer
from .samples import GRACE, Finished, Tally, check_answer, filling, lanes, step_of
from .servers import Target
from .workloads import Operation, Workload


async def measure_tasks(
    peer: AsyncPeer, workload: Workload, server: Target, seconds: float
) -> Tally:
    """Let tasks call for about `seconds`, after one call of each that is not counted."""
    server.flush()
    step, fill, tally = step_of(peer, workload), filling(workload), Tally()
    if fill:
        await peer.fill(fill)
    check_answer(peer.name, workload, await step(0))
    if workload.operation is Operation.REMOVE:
        # A key can be removed once: so many bursts as fill the time, each on a full cache.
        while tally.wall < seconds and not tally.errors:
            await peer.fill(fill)
            await _tasks(step, lanes(workload), math.inf, tally)
        return tally
    if workload.operation is Operation.NEAR_HIT:
        # The first time brings each value near, unless the filling's own invalidation came after.
        for index in [*range(workload.keys)] * 3:
            await step(index)
    await _tasks(step, (lane[:1] for lane in lanes(workload)), math.inf, Tally())
    await _tasks(step, map(itertools.cycle, lanes(workload)), seconds, tally)
    return tally


async def _tasks(
    step: Callable[[int], Awaitable[object]],
    indices: Iterable[Iterable[int]],
    seconds: float,
    tally: Tally,
) -> None:
    clock = time.perf_counter
    start = asyncio.Event()
    deadline = math.inf

    async def call(lane: Iterable[int]) -> Finished:
        calls = 0
        await start.wait()
        try:
            for index in lane:
                await step(index)
                calls += 1
                if clock() >= deadline:
                    break
        except Exception as error:  # noqa: BLE001 - whatever a peer raises belongs in the table
            return Finished(calls, clock(), type(error).__name__)
        return Finished(calls, clock())

    tasks = [asyncio.create_task(call(lane)) for lane in indices]
    await asyncio.sleep(0)
    gc.collect()
    processor, started = time.process_time(), clock()
    deadline = started + seconds
    start.set()
    done, stranded = await asyncio.wait(tasks, timeout=GRACE + min(seconds, GRACE))
    processor = time.process_time() - processor
    for task in stranded:
        task.cancel()
    await asyncio.gather(*stranded, return_exceptions=True)
    tally.add([task.result() for task in done], len(stranded), started, processor)


def measure_threads(peer: SyncPeer, workload: Workload, server: Target, seconds: float) -> Tally:
    """Let threads call for about `seconds`, after one call of each that is not counted."""
    server.flush()
    step, fill, tally = step_of(peer, workload), filling(workload), Tally()
    if fill:
        peer.fill(fill)
    check_answer(peer.name, workload, step(0))
    if workload.operation is Operation.REMOVE:
        while tally.wall < seconds and not tally.errors:
            peer.fill(fill)
            _threads(step, lanes(workload), math.inf, tally)
        return tally
    _threads(step, (lane[:1] for lane in lanes(workload)), math.inf, Tally())
    _threads(step, map(itertools.cycle, lanes(workload)), seconds, tally)
    return tally


def _threads(
    step: Callable[[int], object],
    indices: Iterable[Iterable[int]],
    seconds: float,
    tally: Tally,
) -> None:
    clock = time.perf_counter
    finished: list[Finished] = []
    started = deadline = processor = math.inf

    def start_the_clock() -> None:
        nonlocal started, deadline, processor
        gc.collect()
        processor, started = time.process_time(), clock()
        deadline = started + seconds

    def call(lane: Iterable[int]) -> None:
        calls = 0
        start.wait()
        try:
            for index in lane:
                step(index)
                calls += 1
                if clock() >= deadline:
                    break
        except Exception as error:  # noqa: BLE001 - whatever a peer raises belongs in the table
            finished.append(Finished(calls, clock(), type(error).__name__))
        else:
            finished.append(Finished(calls, clock()))

    threads = [threading.Thread(target=call, args=(lane,), daemon=True) for lane in indices]
    start = threading.Barrier(len(threads), action=start_the_clock)
    for thread in threads:
        thread.start()
    give_up = clock() + GRACE + min(seconds, GRACE)
    for thread in threads:
        thread.join(max(0.0, give_up - clock()))
    processor = time.process_time() - processor
    tally.add(finished, len(threads) - len(finished), started, processor)
