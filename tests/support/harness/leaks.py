"""What a test must not leave behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")


def open_descriptors() -> dict[int, str]:
    """The open file descriptors of this process, and what they refer to."""
    found: dict[int, str] = {}
    for entry in DESCRIPTORS.iterdir():
        try:
            link = str(entry.readlink())
        except OSError:
            continue  # The one through which the directory was read, or a system without links.
        if link != os.devnull:  # Which uvloop opens once, for the process.
            found[int(entry.name)] = link
    return found


def tasks_left() -> list[asyncio.Task[object]]:
    """The tasks of the running loop other than the one that asks."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
