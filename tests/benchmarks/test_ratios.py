"""The pace of this library against redis-py's, with margins that noise does not exhaust.

Half of each goal is asked for, or less where the goal is far from what is reached (`Goal.floor`): a
regression by a factor is caught, a busy machine is not. The full table is `python -m
tests.benchmarks`.
"""

import statistics
from collections.abc import Generator

import pytest

from .peers import AsyncPeer, SyncPeer
from .peers_any_loop import on_any_loop
from .peers_dictionary import near_by_hand
from .peers_loading import Way, loading
from .peers_ours import Ours, OursInThreads, OursNear, near_misses
from .peers_protocol import Protocol
from .peers_redis import RedisPy, RedisPyInThreads
from .peers_responses import responses
from .report import Row, row_of
from .runs import Plan, Results, run_tasks, run_threads
from .servers import Target, private_server
from .workloads import (
    DICTIONARY,
    OURS,
    PLAIN,
    REFERENCE,
    RESPONSE,
    RETRIEVE,
    UNCACHED,
    Api,
    Goal,
    Operation,
    Workload,
    any_loop_workloads,
    async_workloads,
    bytes_workloads,
    hand_written_near_workloads,
    loading_workloads,
    near_loading_workloads,
    near_miss_workloads,
    near_response_workloads,
    near_workloads,
    response_workloads,
    sync_workloads,
    with_goals,
)

ROWS = with_goals(
    async_workloads()
    + near_workloads()
    + hand_written_near_workloads()
    + near_miss_workloads()
    + any_loop_workloads()
    + response_workloads()
    + near_response_workloads()
    + bytes_workloads()
    + [row for way in Way for row in loading_workloads(way) + near_loading_workloads(way)]
    + sync_workloads()
)
OVERLOAD = 1.5
"""How many times what redis-py serves in a closed loop arrives in the open one."""
OPEN_SECONDS = 0.7


@pytest.fixture(scope="module")
def server() -> Generator[Target]:
    with private_server("valkey") as target:
        yield target


def is_kept(goal: Goal, row: Row) -> bool:
    """Return whether the pace is reached, by the clock or by processor time.

    What else runs on the machine slows down threads and processes in proportion to how many of them have to be
    scheduled, which differs between the peers. Their processor time stays.
    """
    ours = row.ratios[OURS]
    return goal.is_reached(max(ours.wall, ours.processor), ours.processor)


def measured(server: Target, workload: Workload, goal: Goal) -> Row:
    """The row after three short rounds or, where those miss, with seven longer ones added.

    The medians are taken over all rounds: a bad moment is outvoted, not thrown away.
    """
    results = Results({})
    _measure(results, server, Plan([workload], [workload], rounds=3, seconds=0.08))
    row = row_of(workload, results.samples)
    if is_kept(goal, row):
        return row
    _measure(results, server, Plan([workload], [workload], rounds=7, seconds=0.3))
    return row_of(workload, results.samples)


def _measure(results: Results, server: Target, plan: Plan) -> None:
    first_round = len(results.samples)
    (workload,) = plan.async_rows
    if workload.api is Api.SYNC:
        threaded: list[SyncPeer] = [OursInThreads(), RedisPyInThreads()]
        run_threads(results, server, plan, threaded, first_round=first_round)
    else:
        run_tasks(results, server, plan, _peers(workload), first_round=first_round)


def _peers(workload: Workload) -> list[AsyncPeer]:
    if workload.note in {RESPONSE, UNCACHED}:
        return responses(workload)
    if workload.reference == RETRIEVE:
        return loading(Way(workload.note), near=workload.operation is Operation.NEAR_HIT)
    for is_asked, peers in (
        (workload.note == "any_loop", on_any_loop),
        (workload.reference == DICTIONARY, near_by_hand),
        (workload.reference == PLAIN, near_misses),
    ):
        if is_asked:
            return peers()
    if workload.operation is Operation.NEAR_HIT:
        return [OursNear(), RedisPy()]
    if workload.is_serialized:
        return [Ours(serializer="raw"), Protocol()]
    return [Ours(), RedisPy()]


@pytest.mark.parametrize(
    "workload", ROWS, ids=[row.name.replace(", ", "-").replace(" ", "_") for row in ROWS]
)
def test_half_of_each_goal_is_kept(server: Target, workload: Workload) -> None:
    """Every pace that is promised is kept by half at least, and no call of ours fails."""
    assert workload.goal is not None
    goal = workload.goal.half
    row = measured(server, workload, goal)
    assert row.errors.get(OURS, {}) == {}
    assert is_kept(goal, row), row.ratios[OURS]


def test_random_arrivals_beyond_what_redis_py_serves_are_answered_sooner(server: Target) -> None:
    """Calls that arrive at random, more than redis-py can serve, are all answered, and sooner.

    The rate is set by what redis-py serves on this machine at this moment.
    """
    results = Results({})
    (closed,) = (row for row in ROWS if row.name == "retrieve, hit, 100 B, 100 tasks")
    peers: list[AsyncPeer] = [RedisPy()]
    run_tasks(results, server, Plan([closed], (), rounds=3, seconds=0.3), peers)
    rate = round(OVERLOAD / statistics.median(sample.wall_each for sample in results.samples))
    plan = Plan((), (), open_loop_rounds=3, open_loop_seconds=OPEN_SECONDS, rates=(rate,))
    run_tasks(results, server, plan, [Ours(), *peers])
    ours = [sample for sample in results.open_loop if sample.peer == OURS]
    theirs = [sample for sample in results.open_loop if sample.peer == REFERENCE]
    assert all(sample.served == sample.arrivals for sample in ours)
    assert statistics.median(sample.p99 for sample in ours) < statistics.median(
        sample.p99 for sample in theirs
    )
