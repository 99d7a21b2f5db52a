"""Processes whose wall clocks differ by an hour agree when a value is fresh, due for refresh and stale."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from harness.figures import in_time, report
from harness.programs import PROGRAMS, SUPPORT, Program
from harness.run_length import scaled

if TYPE_CHECKING:
    from harness import Server

pytestmark = pytest.mark.depends_on()

Between = tuple[float, float]
HOUR = 3600.0
SHIFTS = [HOUR, -HOUR, 0.0]
LIFE_SECONDS = 0.4
LIMIT_SECONDS = 0.100
ROUNDS = scaled(3, 15)
MOST_ROUNDS = 25
KINDS = ["ageing", "gone", "stale", "ends", "stored"]


def started(stack: ExitStack, server: Server, prefix: str, shift: float, near: bool) -> Program:
    """A process whose wall clock is so many seconds ahead."""
    life = int(LIFE_SECONDS * 1000)
    arguments = [server.url, prefix, str(shift), str(life), str(int(near))]
    path = os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(PROGRAMS / "loading_clock.py"), *arguments]
    program = Program(command, environment)
    stack.callback(program.close)
    return program


def asked(program: Program, *request: str) -> None:
    program.say(json.dumps(request))


def told(program: Program) -> dict[str, Between]:
    answer: dict[str, Between] = json.loads(program.line())
    return answer


def since(between: Between, event: Between) -> Between:
    """How long after an event something was, both of which are known to have been between two moments."""
    return between[0] - event[1], between[1] - event[0]


def surely_apart(one: Between, other: Between) -> float:
    """What lies at least between two moments each of which is known to be between two others."""
    return max(0.0, max(one[0], other[0]) - min(one[1], other[1]))


def at_most_apart(one: Between, other: Between) -> float:
    """What lies at most between them."""
    return max(one[1] - other[0], other[1] - one[0])


@pytest.mark.parametrize("near", [False, True], ids=["far", "near"])
def test_freshness_agrees(server: Server, key_prefix: str, *, near: bool) -> None:
    """Within 100 ms, by value, status, age and TTL.

    A process tells between which two of its calls a value became stale, say. On a busy machine a call may take
    long, and then that is not known well, nor is the server's clock to who has asked for it. So in no round may it
    be sure that two of them are further apart, what they may be wrong about that clock aside; and in one round it
    must be sure that they are not. On such a machine there are more rounds, until it is.
    """
    closest = dict.fromkeys(KINDS, float("inf"))
    furthest = dict.fromkeys(KINDS, 0.0)
    with ExitStack() as stack:
        programs = [started(stack, server, key_prefix, shift, near) for shift in SHIFTS]
        for program, shift in zip(programs, SHIFTS, strict=True):
            for clock in json.loads(program.line()):
                assert abs(clock - time.time() - shift) < HOUR / 10
        for number in range(MOST_ROUNDS):
            if number >= ROUNDS and in_time(max(closest.values()), LIMIT_SECONDS):
                break
            key = f"key{number}"
            own = [f"{key} of {process}" for process in range(len(programs))]
            # Each in its turn: when it was stored is not a matter of whose clock is right either.
            loader = programs[number % len(programs)]
            asked(loader, "load", key, *own)
            loaded = told(loader)
            for program, its_own in zip(programs, own, strict=True):
                asked(program, "watch", key, its_own)
            answers = [told(program) for program in programs]
            for answer, its_own in zip(answers, own, strict=True):
                # Of keys that were loaded one after the other.
                answer["ageing"] = since(answer["ageing"], loaded[its_own])
            for kind in KINDS:
                apart = 0.0
                for one, other in combinations(answers, 2):
                    doubt = one["doubt"][1] + other["doubt"][1]
                    surely = surely_apart(one[kind], other[kind]) - doubt
                    furthest[kind] = max(furthest[kind], surely)
                    apart = max(apart, at_most_apart(one[kind], other[kind]))
                closest[kind] = min(closest[kind], apart)
    milliseconds = {kind: f"{seconds * 1000:.1f} ms" for kind, seconds in closest.items()}
    report(29, f"clocks an hour apart: {milliseconds} apart at most")
    # What the processes saw proves no more than that: their own calls took longer on a busy machine.
    assert in_time(max(furthest.values()), LIMIT_SECONDS), furthest
    # Where times are not judged: clocks that are an hour apart would show in hours.
    assert max(furthest.values()) < 10 * LIMIT_SECONDS, furthest
    assert in_time(max(closest.values()), LIMIT_SECONDS), closest
