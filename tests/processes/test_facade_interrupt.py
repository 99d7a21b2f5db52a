"""Ctrl-C during a call raises within 100 ms, and the cache stays usable."""

from __future__ import annotations

import pytest

from harness import StartServer
from harness.contention import Contention
from harness.figures import in_time, report
from harness.programs import StartProgram
from harness.run_length import scaled

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")


@pytest.mark.parametrize("how", ["call", "open", "run"])
def test_interrupt_is_raised_at_once(
    how: str, start_program: StartProgram, private_server: StartServer
) -> None:
    """23. Ctrl-C while `RedisCache` waits or opens, and in `asyncio.run`, is raised within 100 ms."""
    server = private_server()
    with server.client() as raw:
        raw.set("p:key", "7")
    times = scaled(3, 30)
    latest = 0.0
    program = start_program("interrupted", server.url, how, times)
    for _ in range(times):
        assert program.line() == "ready"
        server.freeze()
        program.say("go")
        assert program.line() == "waiting"
        contention = Contention(program.pid)
        sent = program.interrupt()
        seconds = float(program.line()) - sent
        latest = max(latest, seconds - contention.seconds())
        if how == "run":
            assert program.line() == "False"
        server.thaw()
        program.say("go")
        assert program.line() == "7"
    ended = program.wait()
    report(23, f"Ctrl-C in {how}: raised after {latest * 1e3:.0f} ms at the latest", latest)
    assert (ended.code, ended.lines, ended.errors) == (0, ["[]"], "")
    assert in_time(latest, 0.1)
