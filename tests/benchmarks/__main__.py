"""`python -m tests.benchmarks`: measure, show the table, write the file."""

import argparse
import datetime as dt
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from harness import FLAVOURS

from .footprint import measure_footprint
from .peers import AsyncPeer, SyncPeer
from .peers_ours import Ours, OursInThreads
from .peers_published import Published
from .peers_redis import RedisPy, RedisPyInThreads
from .report import (
    is_open_loop_goal_reached,
    print_footprint,
    print_open_loop,
    print_rows,
    rows_of,
    write_json,
)
from .runs import (
    ASYNCIO,
    THREADS,
    UVLOOP,
    Plan,
    Results,
    describe_environment,
    run_tasks,
    run_threads,
)
from .servers import Target, private_server
from .workloads import (
    ON_UVLOOP,
    OURS,
    UNBOUNDED,
    Operation,
    async_workloads,
    sync_workloads,
    with_goals,
)

FULL = Plan(
    async_workloads(),
    sync_workloads(),
    rounds=5,
    seconds=0.15,
    open_loop_rounds=2,
    open_loop_seconds=2.0,
    rates=(8000, 10_000, 16_000),
)
QUICK = Plan(
    with_goals(FULL.async_rows),
    with_goals(FULL.sync_rows),
    rounds=3,
    seconds=0.1,
    open_loop_rounds=1,
    open_loop_seconds=1.0,
    rates=(8000,),
)


def main() -> int:
    options = _options()
    plan = QUICK if options.quick else FULL
    console = Console(width=None if sys.stdout.isatty() else 150)
    started = time.monotonic()
    with private_server(options.server) as server:
        results = Results(describe_environment(server))
        about = results.environment
        console.print(
            f"{about['processor']}, {about['cores']} cores, {about['python']}, {server.software}; "
            f"{plan.rounds} rounds of {plan.seconds:g} s per row and peer, ratios within a round"
        )
        with console.status("") as status:
            _measure(results, server, plan, status.update, uvloop=options.uvloop)
            status.update("footprint")
            results.footprint = measure_footprint(server, repeats=2 if options.quick else 5)
    goals, reached = _show(console, results, plan)
    write_json(options.json, results)
    elapsed = time.monotonic() - started
    console.print(f"{reached} of {goals} goals reached; {elapsed:.0f} s; {options.json}")
    return 1 if options.strict and reached < goals else 0


def _measure(
    results: Results, server: Target, plan: Plan, progress: Callable[[str], None], *, uvloop: bool
) -> None:
    stores = frozenset({Operation.STORE})
    peers: list[AsyncPeer] = [
        Ours(),
        RedisPy(),
        Ours(UNBOUNDED, operations=stores, max_size=0),
    ]
    threaded: list[SyncPeer] = [OursInThreads(), RedisPyInThreads(), Published()]
    run_tasks(results, server, plan, peers, progress=progress)
    if uvloop:
        threaded.append(OursInThreads(ON_UVLOOP, uvloop=True))
    run_threads(results, server, plan, threaded, progress=progress)
    if uvloop:
        goals_only = replace(plan, async_rows=with_goals(plan.async_rows))
        run_tasks(results, server, goals_only, peers, section=UVLOOP, progress=progress)


def _show(console: Console, results: Results, plan: Plan) -> tuple[int, int]:
    """Print every table; gives how many goals there are and how many were reached."""
    titles = {
        ASYNCIO: (f"{OURS} on asyncio", plan.async_rows),
        UVLOOP: (f"{OURS} on uvloop, against redis-py on uvloop", plan.async_rows),
        THREADS: (f"RedisCache of {OURS}, threads", plan.sync_rows),
    }
    verdicts: list[bool | None] = []
    for section, (title, workloads) in titles.items():
        rows = rows_of(results, section, workloads)
        if rows:
            print_rows(console, title, rows)
            verdicts += [row.is_reached for row in rows]
        arrivals = [sample for sample in results.open_loop if sample.section == section]
        if arrivals:
            print_open_loop(console, f"open loop, {section}", arrivals)
            rates = {sample.rate for sample in arrivals}
            verdicts += [is_open_loop_goal_reached(rate, arrivals) for rate in rates]
    if results.footprint is not None:
        print_footprint(console, results.footprint)
    judged = [verdict for verdict in verdicts if verdict is not None]
    return len(judged), sum(judged)


def _options() -> argparse.Namespace:
    today = dt.datetime.now(dt.UTC).date().isoformat()
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the rows with a goal, in half a minute"
    )
    parser.add_argument(
        "--server", choices=FLAVOURS, default="valkey", help="what the peers talk to"
    )
    parser.add_argument(
        "--uvloop",
        action="store_true",
        help="the rows with a goal once more on uvloop, and RedisCache's private loop on it too",
    )
    parser.add_argument("--strict", action="store_true", help="end with 1 when a goal is missed")
    parser.add_argument(
        "--json", type=Path, default=Path(f"bench-{today}.json"), help="where the file goes"
    )
    options = parser.parse_args()
    if options.uvloop and find_spec("uvloop") is None:
        parser.error("uvloop is not installed")
    return options


if __name__ == "__main__":
    sys.exit(main())
