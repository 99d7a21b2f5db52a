"""Programs in processes of their own, for what a test cannot observe in its own process, such as exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Literal, NamedTuple, Protocol

from harness.contention import Contention
from harness.run_length import scaled

SUPPORT = Path(__file__).parents[1]
"""A program needs this folder on its path."""
PROGRAMS = SUPPORT / "programs"
PATIENCE_SECONDS = scaled(180.0, 600.0)
POLL_SECONDS = 0.01

PrivateLoop = Literal["asyncio", "uvloop"]


class Ended(NamedTuple):
    """A program that has ended."""

    code: int
    """The exit code; negative for the signal that killed it."""
    seconds: float
    """How long `wait` took, less the time that its threads were ready to run and did not get a core."""
    lines: list[str]
    """The printed lines that were not read before."""
    errors: str
    """Standard error: warnings, tracebacks, exceptions that the interpreter ignored."""


class Program:
    """A running program, killed after `patience` seconds so that no test waits for ever."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `close`
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[str] = self._process.stdin
        self._output: IO[str] = self._process.stdout
        self._watchdog = threading.Timer(patience, self._process.kill)
        self._watchdog.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def line(self) -> str:
        """Read the next line that it prints."""
        line = self._output.readline()
        assert line, f"the program ended, and said: {self._said()}"
        return line.rstrip("\n")

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        self._input.write(f"{line}\n")
        self._input.flush()

    def interrupt(self) -> float:
        """Send SIGINT and return the moment just before, on the monotonic clock."""
        now = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        return now

    def wait(self) -> Ended:
        """Wait for its end."""
        contention = Contention(self.pid)
        started = time.monotonic()
        while not self._has_ended():
            contention.seconds()
            time.sleep(POLL_SECONDS)
        seconds = max(0.0, time.monotonic() - started - contention.seconds())
        code = self._process.wait()
        return Ended(code, seconds, self._output.read().splitlines(), self._said())

    def close(self) -> None:
        """Kill it if it still runs."""
        self._watchdog.cancel()
        self._watchdog.join()
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._input.close()
        self._output.close()
        self._errors.close()

    def _has_ended(self) -> bool:
        """Whether it has ended; on Linux without reaping it, so that /proc still lists its threads."""
        if sys.platform == "linux":
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, how) is not None
        return self._process.poll() is not None

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()


class StartProgram(Protocol):
    """Start tests/support/programs/<name>.py, with the private loop of the test's parameter."""

    def __call__(self, name: str, *arguments: object) -> Program: ...
