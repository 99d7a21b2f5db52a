"""The size of tests: short by default, in full with `ARC_LONG=1`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("ARC_LONG") == "1"


def scaled(short: T, full: T) -> T:
    """`full` in the long form, else `short`."""
    return full if LONG else short
