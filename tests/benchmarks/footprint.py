"""What a cache costs before its first call: the time of its import, the memory it holds when idle.

Each figure comes from a fresh interpreter, so that nothing is imported or allocated already.
"""

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from .peers_ours import Ours, OursInThreads
from .peers_redis import RedisPy, RedisPyInThreads
from .servers import Target

IMPORTS = {
    "import async_redis_cache": "async_redis_cache",
    "import redis.asyncio": "redis.asyncio",
    "import pip_services4_redis.cache": "pip_services4_redis.cache",
}
IDLE = {
    "AsyncRedisCache": "ours",
    "RedisCache": "ours in threads",
    "redis.asyncio.Redis": "redis.asyncio",
    "redis.Redis": "redis",
}

_TIMED_IMPORT = """
import sys, time
before = len(sys.modules)
started = time.perf_counter()
import {module}
elapsed = time.perf_counter() - started
print((b'{{"seconds": %f, "modules": %d}}' % (elapsed, len(sys.modules) - before)).decode())
"""


@dataclass(frozen=True, slots=True)
class ImportCost:
    seconds: float
    modules: int


@dataclass(frozen=True, slots=True)
class IdleCost:
    """Of one more opened cache, its connection included; the server's share is not in it."""

    kilobytes: float
    threads: float


@dataclass(frozen=True, slots=True)
class Footprint:
    imports: Mapping[str, ImportCost]
    idle: Mapping[str, IdleCost]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def measure_footprint(server: Target, *, repeats: int, caches: int = 50) -> Footprint:
    imports: dict[str, ImportCost] = {}
    for name, module in IMPORTS.items():
        source = _TIMED_IMPORT.format(module=module)
        runs = [
            msgspec.json.decode(_run("-c", source), type=ImportCost) for _ in range(repeats + 1)
        ][1:]
        imports[name] = ImportCost(statistics.median(run.seconds for run in runs), runs[0].modules)
    idle = {
        name: msgspec.json.decode(
            _run(
                "-m",
                f"{__package__}.footprint",
                kind,
                server.url,
                server.host,
                str(server.port),
                str(caches),
            ),
            type=IdleCost,
        )
        for name, kind in IDLE.items()
    }
    return Footprint(imports, idle)


def _run(*arguments: str) -> bytes:
    # The child finds what this process found, whichever way that was started.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    root = Path(__file__).parents[(__package__ or "").count(".") + 1]
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, env=environment, cwd=root
    ).stdout


def _resident_kilobytes() -> float:
    """Resident memory; where there is no /proc, its peak, which for these scripts is the same."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1024 if sys.platform == "darwin" else peak
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


async def _idle_async(kind: str, server: Target, caches: int) -> IdleCost:
    peers = [Ours() if kind == "ours" else RedisPy() for _ in range(caches + 5)]
    for peer in peers[:5]:
        await peer.open(server)
    before = _resident_kilobytes(), threading.active_count()
    for peer in peers[5:]:
        await peer.open(server)
    cost = _each(before, caches)
    for peer in peers:
        await peer.close()
    return cost


def _idle_sync(kind: str, server: Target, caches: int) -> IdleCost:
    peers = [
        OursInThreads() if kind == "ours in threads" else RedisPyInThreads()
        for _ in range(caches + 5)
    ]
    for peer in peers[:5]:
        peer.open(server)
    before = _resident_kilobytes(), threading.active_count()
    for peer in peers[5:]:
        peer.open(server)
    cost = _each(before, caches)
    for peer in peers:
        peer.close()
    return cost


def _each(before: tuple[float, int], caches: int) -> IdleCost:
    # What an opening leaves to be done (a reply of the server, a thread that starts) is done.
    time.sleep(0.2)
    kilobytes, threads = before
    return IdleCost(
        (_resident_kilobytes() - kilobytes) / caches, (threading.active_count() - threads) / caches
    )


def main() -> None:
    kind, url, host, port, caches = sys.argv[1:]
    server = Target(url, host, int(port), "")
    if kind in {"ours", "redis.asyncio"}:
        cost = asyncio.run(_idle_async(kind, server, int(caches)))
    else:
        cost = _idle_sync(kind, server, int(caches))
    sys.stdout.buffer.write(msgspec.json.encode(cost))


if __name__ == "__main__":
    main()
