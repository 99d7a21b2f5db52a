"""Find what tests leave behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")


def open_descriptors() -> dict[int, str]:
    """The open file descriptors of this process and their targets."""
    found: dict[int, str] = {}
    for entry in DESCRIPTORS.iterdir():
        try:
            link = str(entry.readlink())
        except OSError:
            continue  # The descriptor of this very listing, or a system without links.
        if link != os.devnull:  # uvloop opens it once for the process.
            found[int(entry.name)] = link
    return found


def tasks_left() -> list[asyncio.Task[object]]:
    """The tasks of the running loop other than the current one."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
