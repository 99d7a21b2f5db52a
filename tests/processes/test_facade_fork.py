"""The synchronous API before and after a fork: no wrong values and no stalls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness import Server, StartServer
from harness.figures import in_time, report
from harness.programs import PrivateLoop, StartProgram
from harness.run_length import scaled

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")


def figures(start_program: StartProgram, program: str, *arguments: object) -> dict[str, Any]:
    """What a program found out that ends well and complains about nothing."""
    ended = start_program(program, *arguments).wait()
    assert (ended.code, ended.errors) == (0, "")
    found: dict[str, Any] = json.loads(ended.lines[-1])
    return found


def test_children_may_exit_in_every_way(
    start_program: StartProgram, server: Server, key_prefix: str
) -> None:
    """22. A parent and 4 children call at the same time: 0 wrong results, and no call of the parent takes 50 ms."""
    found = figures(start_program, "forking", server.url, server.pid, key_prefix, scaled(1, 20))
    report(
        22,
        f"{found['children']} children, {found['calls']} calls of the parent, "
        f"{found['wrong']} wrong, slowest {found['slowest'] * 1e3:.1f} ms",
        found["slowest"],
    )
    assert found["problems"] == []
    assert (found["wrong"], found["errors"]) == (0, 0)
    assert in_time(found["slowest"], 0.05)


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
def test_pool_of_processes_gets_right_answers(
    kind: str, start_program: StartProgram, server: Server, key_prefix: str
) -> None:
    """22. multiprocessing workers, with every start method, and their parent: 0 wrong results."""
    found = figures(start_program, "process_pool", server.url, key_prefix, kind)
    report(22, f"pool by {kind}: {found['wrong']} wrong")
    assert found == {"wrong": 0, "inherited": kind == "fork"}


def test_loop_that_forks_is_not_stalled(
    start_program: StartProgram, private_loop: PrivateLoop, server: Server, key_prefix: str
) -> None:
    """22. Children that collect an inherited AsyncRedisCache, or use it, do not stall the parent."""
    rounds = scaled(2, 20)
    found = figures(
        start_program, "forking_loop", server.url, server.pid, key_prefix, private_loop, rounds
    )
    slowest = found["slowest"]
    report(22, f"{3 * rounds} children of a loop, slowest call {slowest * 1e3:.1f} ms", slowest)
    assert found["codes"] == [0] * 3 * rounds
    assert in_time(found["slowest"], 0.05)


def test_child_keeps_the_deadline(start_program: StartProgram, private_server: StartServer) -> None:
    """22. The first calls of a child process end by the deadline, on every thread, although the server is stopped."""
    limit, threads = 0.3, 4
    server = private_server()
    program = start_program("forking_frozen", server.url, int(limit * 1000), threads)
    assert program.line() == "open"
    server.freeze()
    program.say("go")
    ends: list[tuple[str, float]] = json.loads(program.line())
    latest = max(seconds for _, seconds in ends)
    report(
        22,
        f"first calls of a child, server frozen: last call ended after {latest * 1e3:.0f} ms",
        latest,
    )
    assert [name for name, _ in ends] == ["CacheTimeout"] * threads
    assert in_time(latest, limit + 0.05)
    server.thaw()
    ended = program.wait()
    assert (ended.code, ended.errors) == (0, "")


@pytest.mark.parametrize("where", ["loader", "serializer"])
def test_call_that_forks_ends_in_the_child(
    where: str, start_program: StartProgram, server: Server, key_prefix: str
) -> None:
    """A fork inside of a call: the child's half of it raises NOT_OPENED, the next call is answered."""
    ended = start_program("forking_inside", server.url, key_prefix, where).wait()
    assert (ended.code, ended.errors) == (0, "")
    child, parent = map(json.loads, ended.lines)
    assert child == ["NOT_OPENED", 1]
    assert parent == [{"loader": "forked", "serializer": "fork"}[where], 1]


def test_child_asks_the_credential_provider(
    start_program: StartProgram, private_server: StartServer
) -> None:
    """A blocking provider is called in a thread of the child, as those of the parent do not exist there."""
    server = private_server(acl={"shop": "on >s3cret ~* +@all", "default": "off"})
    found = figures(start_program, "forking_login", server.login_url("", ""), "shop", "s3cret")
    assert found == {"parent": 1, "child": 1, "value": "of the child"}
