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

from . import line_up
from .footprint import measure_footprint
from .peers_any_loop import on_any_loop
from .peers_dictionary import near_by_hand
from .peers_loading import Way, loading
from .peers_ours import near_misses
from .peers_response_caches import response_caches
from .peers_responses import responses
from .peers_watched import watched
from .report import (
    is_open_loop_goal_reached,
    print_footprint,
    print_open_loop,
    print_peers,
    print_rows,
    rows_of,
    write_json,
)
from .report_responses import print_response_caches
from .runs import (
    ANY_LOOP,
    ASYNCIO,
    BYTES,
    LOADING,
    NEAR,
    NEAR_BY_HAND,
    NEAR_LOADING,
    NEAR_MISSES,
    NEAR_RESPONSES,
    RESPONSE_CACHES,
    RESPONSES,
    THREADS,
    UVLOOP,
    UVLOOP_THREADS,
    WATCHED,
    Plan,
    Results,
    describe_environment,
    run_tasks,
    run_threads,
)
from .servers import Target, private_server
from .workloads import (
    OURS,
    PROTOCOL,
    any_loop_workloads,
    async_workloads,
    bytes_workloads,
    hand_written_near_workloads,
    loading_workloads,
    near_loading_workloads,
    near_miss_workloads,
    near_response_workloads,
    near_workloads,
    response_cache_workloads,
    response_workloads,
    sync_workloads,
    watched_workloads,
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
    rates=(10_000,),
)
PAGE = replace(FULL, async_rows=QUICK.async_rows, sync_rows=QUICK.sync_rows, rounds=9)
"""What docs/benchmarks.md shows."""
RESPONSE_PLAN = Plan(response_cache_workloads(), (), rounds=9, seconds=0.2)
"""What docs/explanation/http-peers.md shows."""


def main() -> int:
    options = _options()
    plan = QUICK if options.quick else PAGE if options.page else FULL
    if options.responses:
        plan = replace(RESPONSE_PLAN, rounds=3) if options.quick else RESPONSE_PLAN
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
            everything = options.page
            if options.responses:
                for row in plan.async_rows:
                    run_tasks(
                        *(results, server, replace(plan, async_rows=[row]), response_caches()),
                        section=RESPONSE_CACHES,
                        progress=status.update,
                    )
            else:
                _measure(
                    results,
                    server,
                    plan,
                    status.update,
                    uvloop=options.uvloop or everything,
                    peers=options.peers or everything,
                )
                status.update("footprint")
                results.footprint = measure_footprint(server, repeats=2 if options.quick else 5)
    if options.responses:
        print_response_caches(console, results, plan.async_rows)
    goals, reached = _show(console, results, plan)
    write_json(options.json, results)
    elapsed = time.monotonic() - started
    console.print(f"{reached} of {goals} goals reached; {elapsed:.0f} s; {options.json}")
    return 1 if options.strict and reached < goals else 0


def _measure(
    results: Results,
    server: Target,
    plan: Plan,
    progress: Callable[[str], None],
    *,
    uvloop: bool,
    peers: bool,
) -> None:
    closed = replace(plan, rates=())
    run_tasks(results, server, plan, line_up.in_tasks(with_others=peers), progress=progress)
    without = replace(closed, async_rows=bytes_workloads())
    bare = line_up.without_serializer()
    run_tasks(results, server, without, bare, section=BYTES, progress=progress)
    spans = replace(closed, async_rows=watched_workloads())
    run_tasks(results, server, spans, watched(), section=WATCHED, progress=progress)
    for row in response_workloads():
        one = replace(closed, async_rows=[row])
        run_tasks(results, server, one, responses(row), section=RESPONSES, progress=progress)
    for row in near_response_workloads():
        one = replace(closed, async_rows=[row])
        run_tasks(results, server, one, responses(row), section=NEAR_RESPONSES, progress=progress)
    crossing = replace(closed, async_rows=any_loop_workloads())
    run_tasks(results, server, crossing, on_any_loop(), section=ANY_LOOP, progress=progress)
    misses = replace(closed, async_rows=near_miss_workloads())
    ours = near_misses()
    run_tasks(results, server, misses, ours, section=NEAR_MISSES, progress=progress)
    hits = replace(closed, async_rows=hand_written_near_workloads())
    both = near_by_hand()
    run_tasks(results, server, hits, both, section=NEAR_BY_HAND, progress=progress)
    for way in Way:
        hits = replace(closed, async_rows=loading_workloads(way))
        run_tasks(results, server, hits, loading(way), section=LOADING, progress=progress)
        hits = replace(closed, async_rows=near_loading_workloads(way))
        both = loading(way, near=True)
        run_tasks(results, server, hits, both, section=NEAR_LOADING, progress=progress)
    run_threads(results, server, plan, line_up.in_threads(with_others=peers), progress=progress)
    if peers:
        near = replace(closed, async_rows=near_workloads())
        run_tasks(results, server, near, line_up.near(), section=NEAR, progress=progress)
    if uvloop:
        goals_only = replace(
            plan,
            async_rows=with_goals(plan.async_rows),
            sync_rows=with_goals(sync_workloads(uvloop=True)),
        )
        ours = line_up.in_tasks()
        run_tasks(results, server, goals_only, ours, section=UVLOOP, progress=progress)
        threaded = line_up.in_threads_on_uvloop()
        run_threads(
            results, server, goals_only, threaded, section=UVLOOP_THREADS, progress=progress
        )


def _show(console: Console, results: Results, plan: Plan) -> tuple[int, int]:
    """Print every table; gives how many goals there are and how many were reached."""
    titles = {
        ASYNCIO: (f"{OURS} on asyncio", plan.async_rows),
        NEAR: (f"{OURS} with its near cache", near_workloads()),
        NEAR_BY_HAND: ("near hits, against a hand-written one", hand_written_near_workloads()),
        NEAR_MISSES: ("a near cache where nothing is near, against none", near_miss_workloads()),
        LOADING: (
            "hits of calls that could load, against retrieve",
            [row for way in Way for row in loading_workloads(way)],
        ),
        NEAR_LOADING: (
            "near hits of calls that could load, against retrieve",
            [row for way in Way for row in near_loading_workloads(way)],
        ),
        BYTES: (f"{OURS} without a serializer, against a {PROTOCOL}", bytes_workloads()),
        WATCHED: ("a span and a duration for each call, against none", watched_workloads()),
        RESPONSES: ("responses of the ASGI middleware, against retrieve", response_workloads()),
        NEAR_RESPONSES: (
            "near responses of the ASGI middleware, against retrieve",
            near_response_workloads(),
        ),
        ANY_LOOP: (f"{OURS} for any event loop", any_loop_workloads()),
        UVLOOP: (f"{OURS} on uvloop, against redis-py on uvloop", plan.async_rows),
        THREADS: (f"RedisCache of {OURS}, threads", plan.sync_rows),
        UVLOOP_THREADS: (
            f"RedisCache of {OURS}, its private loop uvloop's",
            sync_workloads(uvloop=True),
        ),
    }
    verdicts: list[bool | None] = []
    for section, (title, workloads) in titles.items():
        rows = rows_of(results, section, workloads)
        if rows:
            print_rows(console, title, rows)
            print_peers(console, title, rows)
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
        "--page",
        action="store_true",
        help="the rows with a goal, with the peers and on uvloop: what docs/benchmarks.md shows",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="beside the other clients and caches that a user would pick; they must be installed",
    )
    parser.add_argument(
        "--responses",
        action="store_true",
        help="only stored HTTP responses, beside the caches that docs/explanation/http-peers.md compares",
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
    if (options.uvloop or options.page) and find_spec("uvloop") is None:
        parser.error("uvloop is not installed")
    return options


if __name__ == "__main__":
    sys.exit(main())
