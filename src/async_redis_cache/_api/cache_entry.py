"""A value, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["CacheEntry", "Status"]

T = TypeVar("T")

Status = Literal["hit", "near", "stale", "loaded", "missing"]


@dataclass(frozen=True)
class CacheEntry(Generic[T]):
    """A value, and what is known about it: what an `X-Cache` or an `Age` header needs."""

    value: T | None
    """The value; None where there is none."""
    status: Status
    """Where it came from. `hit`: read from the server; `near`: from the near cache of this process;
    `stale`: past its TTL, returned while it is refreshed or because loading fails; `loaded`: by a
    loader for this call, or for one that it joined; `missing`: there is no value."""
    age: int | None
    """Milliseconds since it was loaded, by the clock of the server; 0 for `loaded`. For a
    remembered `missing`, since it is remembered. None where it is not known: the value was stored
    by `store` without tags, or the server became unreachable."""
    remaining: int | None
    """Milliseconds until it is no longer fresh, negative for `stale`; 0 for a loaded value that was
    not stored. For a remembered `missing`, for how much longer. None where there is no value
    otherwise, where it never expires, or where the server became unreachable."""
