"""Durations: units, limits, and the timeouts that callers pass."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Final

from .errors import CacheInputError

__all__ = ["HOUR", "LONGEST", "SECOND", "Timeout", "Ttl", "milliseconds", "ttl_milliseconds"]

Timeout = int | timedelta | None
"""Milliseconds, or a timedelta; None and 0 for the configured default.

Floats, bools, text and numbers of other libraries are refused, even where their value is a whole number.
"""

Ttl = float | timedelta | None
"""Seconds, as an int or a float, or a timedelta; None for the default. The methods of namespaces take it."""

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


def ttl_milliseconds(ttl: Ttl) -> int | None:
    """A TTL of a namespace as a whole number of milliseconds, at least 1; None for the default.

    Raises:
        CacheInputError: BAD_TIMEOUT.
    """
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        exact = ttl / _MILLISECOND
    elif isinstance(ttl, (int, float)) and not isinstance(ttl, bool):  # type: ignore[redundant-expr]  # pyright: ignore[reportUnnecessaryIsInstance]
        exact = ttl * SECOND
    else:
        kind = type(ttl).__name__
        problem = f"`ttl` must be a number of seconds or a timedelta, not `{kind}`"
        raise CacheInputError("BAD_TIMEOUT", problem)
    # False for NaN too.
    if not 0 < exact <= LONGEST:
        problem = "`ttl` must be more than 0 seconds and at most ten years"
        raise CacheInputError("BAD_TIMEOUT", problem)
    return math.ceil(exact)
