"""Find servers that are left when their tests are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

_SUPPORT = Path(__file__).parents[1]
_THEN_DIE = "\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"


def left_by(program: str, directory: Path) -> list[int]:
    """Run a program that starts servers and prints their pids, and is killed then: these pids.

    Args:
        program: in Python, with `tests/support` on its path.
        directory: for what can be cleaned up by nobody else.
    """
    parent = subprocess.run(
        [sys.executable, "-c", program + _THEN_DIE],
        env=os.environ | {"PYTHONPATH": str(_SUPPORT), "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL
    return list(map(int, parent.stdout.split()))


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one whose end nobody has taken note of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
