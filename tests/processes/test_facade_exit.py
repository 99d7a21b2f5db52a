"""A process that has not closed its cache exits within a second, and silently."""

from __future__ import annotations

import pytest

from harness import Server, StartServer
from harness.figures import in_time, report
from harness.programs import StartProgram

pytest_plugins = ["program_fixtures"]
pytestmark = pytest.mark.depends_on("loop")

LIMIT = 0.3
ENDING_SECONDS = 1.0

QUIET = {
    "unclosed": [],
    "closed": [],
    "reopened": [],
    "child": [],
    "hook before open": ["NOT_OPENED"],
    "hook after open": ["value"],
    "close in hook before open": ["None"],
    "close in hook after open": ["None"],
}
"""What a program prints at its end."""


@pytest.mark.parametrize("how", QUIET)
def test_program_ends_without_close(
    how: str, start_program: StartProgram, any_server: Server
) -> None:
    """23. A program that exits without `close` ends within a second, and calls in exit hooks get their results."""
    program = start_program("exiting", any_server.url, how, 20_000)
    assert program.line() == "exiting"
    ended = program.wait()
    report(23, f"{how}: ended after {ended.seconds * 1e3:.0f} ms", ended.seconds)
    assert (ended.code, ended.lines, ended.errors) == (0, QUIET[how], "")
    assert in_time(ended.seconds, ENDING_SECONDS)


def test_hook_that_opens_a_cache_is_served_or_refused(
    start_program: StartProgram, any_server: Server
) -> None:
    """23. Some versions of Python cannot start a thread at exit; then `open` raises a `CacheError`."""
    program = start_program("exiting", any_server.url, "open in hook", 20_000)
    assert program.line() == "exiting"
    ended = program.wait()
    assert (ended.code, ended.errors) == (0, "")
    assert ended.lines in (["value"], ["NOT_OPENED"])
    assert in_time(ended.seconds, ENDING_SECONDS)


def test_program_that_fails_ends_with_its_error(
    start_program: StartProgram, any_server: Server
) -> None:
    """An error that ends the program is all that is printed."""
    program = start_program("exiting", any_server.url, "error", 20_000)
    assert program.line() == "exiting"
    ended = program.wait()
    assert ended.code == 1
    assert ended.errors.splitlines()[-1] == "LookupError: the end of many programs"
    assert ended.errors.count("Traceback") == 1


WAITING = {
    "frozen": {""},
    # The cache is closed, which ends the call; whether its thread still gets to say so is open.
    "daemon thread": {"", "NOT_OPENED"},
    # The interpreter waits for such threads before anything else, so this call ends by itself.
    "thread": {"TIMEOUT"},
}
"""What may be printed at the end of a program that nobody answers."""


@pytest.mark.parametrize("how", WAITING)
def test_program_ends_while_a_call_waits(
    how: str, start_program: StartProgram, private_server: StartServer
) -> None:
    """23. A call without a reply does not delay the exit beyond the deadline of the call."""
    server = private_server()
    program = start_program("exiting", server.url, how, int(LIMIT * 1000))
    assert program.line() == "waiting"
    server.freeze()
    program.say("go")
    assert program.line() == "exiting"
    ended = program.wait()
    report(23, f"{how}, server frozen: ended after {ended.seconds * 1e3:.0f} ms", ended.seconds)
    assert (ended.code, ended.errors) == (0, "")
    assert "".join(ended.lines) in WAITING[how]
    assert in_time(ended.seconds, ENDING_SECONDS)


def test_program_ends_beside_daemon_threads_that_call(
    start_program: StartProgram, server: Server
) -> None:
    """23. Daemon threads that call until exit neither delay the exit nor crash the process."""
    program = start_program("exiting", server.url, "daemon threads that go on", 20_000)
    assert program.line() == "exiting"
    ended = program.wait()
    report(
        23,
        f"daemon threads that keep calling: ended after {ended.seconds * 1e3:.0f} ms",
        ended.seconds,
    )
    assert (ended.code, ended.errors) == (0, "")
    assert in_time(ended.seconds, ENDING_SECONDS)


def test_embedded_server_ends_with_the_program(start_program: StartProgram) -> None:
    """23. A private server that was not closed ends with its program, without output."""
    program = start_program("exiting", "embedded://", "unclosed", 20_000)
    assert program.line() == "exiting"
    ended = program.wait()
    report(23, f"embedded, unclosed: ended after {ended.seconds * 1e3:.0f} ms", ended.seconds)
    assert (ended.code, ended.errors) == (0, "")
    assert in_time(ended.seconds, ENDING_SECONDS)
