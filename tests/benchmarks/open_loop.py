"""The open loop: calls that arrive at random moments, whatever the client manages.

Tasks that each await one call after the other fall into step, the best case for whoever merges
calls. Here nobody waits for an answer before the next call comes. Latency counts from the moment
at which the call was due, so that a loop which falls behind cannot hide it.
"""

import asyncio
import contextlib
import gc
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .arrivals import STAMP
from .peers import AsyncPeer
from .samples import FILLED
from .servers import Target
from .workloads import key_names, value_of

PATIENCE = 20.0
"""Seconds after the last arrival in which the rest may still be answered."""


@dataclass(frozen=True, slots=True)
class OpenLoopSample:
    """One peer at one rate in one round; latencies in milliseconds."""

    section: str
    rate: int
    peer: str
    round: int
    arrivals: int
    served: int
    in_time_per_second: float
    """Answers given while calls were still arriving, per second."""
    p50: float
    p99: float
    processor_each: float
    errors: Mapping[str, int]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


class _Arrivals:
    """A task for each call as it comes, and when all of them have been answered."""

    def __init__(self, peer: AsyncPeer, source: int) -> None:
        self.latencies: list[float] = []
        self.errors = Counter[str]()
        self.arrived = 0
        self.ended = asyncio.Event()
        self.on_replies = asyncio.Event()
        self._peer = peer
        self._source = source
        self._keys = key_names(FILLED)
        self._in_flight: dict[int, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()

    def take(self) -> None:
        """Start what has arrived; called by the loop when the pipe can be read."""
        stamps = os.read(self._source, 4096)
        if not stamps:
            self._loop.remove_reader(self._source)
            self.ended.set()
            if not self._in_flight:
                self.on_replies.set()
        for (due,) in STAMP.iter_unpack(stamps):
            call = self._call(self.arrived, due)
            self._in_flight[self.arrived] = self._loop.create_task(call)
            self.arrived += 1

    async def _call(self, number: int, due: float) -> None:
        try:
            await self._peer.retrieve(self._keys[number % FILLED])
            self.latencies.append(time.monotonic() - due)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises belongs in the table
            self.errors[type(error).__name__] += 1
        finally:
            del self._in_flight[number]
            if self.ended.is_set() and not self._in_flight:
                self.on_replies.set()

    async def give_up(self) -> None:
        """Count what was never answered, and leave none of it behind."""
        stranded = list(self._in_flight.values())
        if stranded:
            self.errors["never answered"] += len(stranded)
        for task in stranded:
            task.cancel()
        await asyncio.gather(*stranded, return_exceptions=True)


async def measure_open_loop(
    peer: AsyncPeer, server: Target, rate: int, seconds: float, *, section: str, round_: int
) -> OpenLoopSample:
    """Retrieve 100 B at `rate` arrivals a second for `seconds`."""
    server.flush()
    await peer.fill(dict.fromkeys(key_names(FILLED), value_of(100)))
    gc.collect()
    source, sink = os.pipe()
    script = str(Path(__file__).with_name("arrivals.py"))
    arguments = (str(rate), str(seconds), str(rate + round_))
    process = await asyncio.create_subprocess_exec(sys.executable, script, *arguments, stdout=sink)
    os.close(sink)
    arrivals = _Arrivals(peer, source)
    loop = asyncio.get_running_loop()
    loop.add_reader(source, arrivals.take)
    processor = time.process_time()
    try:
        await arrivals.ended.wait()
        in_time = len(arrivals.latencies)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await arrivals.on_replies.wait()
        processor = time.process_time() - processor
    finally:
        loop.remove_reader(source)
        os.close(source)
        await process.wait()
        await arrivals.give_up()
    latencies = arrivals.latencies
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [math.nan] * 99
    return OpenLoopSample(
        section,
        rate,
        peer.name,
        round_,
        arrivals.arrived,
        len(latencies),
        in_time / seconds,
        cuts[49] * 1000,
        cuts[98] * 1000,
        processor / max(1, len(latencies)),
        dict(arrivals.errors),
    )
