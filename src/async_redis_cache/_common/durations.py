"""Durations: units, limits, and the timeouts that callers pass."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final

from .errors import CacheInputError

__all__ = ["HOUR", "LONGEST", "SECOND", "Timeout", "milliseconds"]

Timeout = int | timedelta | None
"""Milliseconds, or a timedelta; None and 0 for the configured default.

Floats, bools, text and numbers of other libraries are refused, even where their value is a whole number.
"""

SECOND: Final = 1000
"""In milliseconds."""
HOUR: Final = 3600 * SECOND
"""In milliseconds: the maximum duration of a load."""
LONGEST: Final = 10 * 365 * 24 * HOUR
"""Ten years in milliseconds, the maximum TTL. Redis rejects what overflows its clock; long before that, a TTL is
a mistake of units."""
_MILLISECOND: Final = timedelta(milliseconds=1)


def milliseconds(timeout: object, *, most: int = LONGEST, name: str = "timeout") -> int:
    """A timeout as a whole number of milliseconds.

    Args:
        timeout: an int in milliseconds, or a timedelta, which is rounded away from zero.
        most: the maximum, in milliseconds.
        name: the argument's name, for the error message.

    Raises:
        CacheInputError: BAD_TIMEOUT.
    """
    if isinstance(timeout, timedelta):
        # Away from zero: rounding a short timeout to 0 would select the default, and rounding a negative one
        # to 0 would accept it.
        exact = timeout / _MILLISECOND
        timeout = math.ceil(exact) if exact > 0 else math.floor(exact)
    if not isinstance(timeout, int) or isinstance(timeout, bool):
        kind = type(timeout).__name__
        problem = f"`{name}` must be an int, in milliseconds, or a timedelta, not `{kind}`"
        raise CacheInputError("BAD_TIMEOUT", problem)
    if not 0 <= timeout <= most:
        limit = "ten years" if most == LONGEST else f"{most} milliseconds"
        problem = f"`{name}` must be between 0 milliseconds and {limit}"
        raise CacheInputError("BAD_TIMEOUT", problem)
    return int(timeout)
