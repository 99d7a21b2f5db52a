"""`CacheEntry`: a value with its status, age and remaining time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

__all__ = ["CacheEntry", "Status"]

T = TypeVar("T")

Status = Literal["hit", "near", "stale", "loaded", "missing"]


@dataclass(frozen=True)
class CacheEntry(Generic[T]):
    """A value with its status, age and remaining time, for headers such as `X-Cache` and `Age`."""

    value: T | None
    """The value; None if there is none."""
    status: Status
    """Where it came from. `hit`: read from the server; `near`: from the near cache of this process;
    `stale`: past its TTL, returned while it is refreshed or because loading fails; `loaded`: by a
    loader, for this call or for one that it has joined; `missing`: there is no value."""
    age: int | None
    """Milliseconds since the value was loaded, by the server's clock; 0 for `loaded`. For a negatively cached
    `missing`, since it was cached. None if it is not known: the value was stored by `store` without tags, or
    the server became unreachable."""
    remaining: int | None
    """Milliseconds until the value becomes stale, negative for `stale`; 0 for a loaded value that was not
    stored. For a negatively cached `missing`, until that expires. None if there is no value otherwise, if
    the value does not expire, or if the server became unreachable."""
