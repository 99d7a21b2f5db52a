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
    """None where there is none."""
    status: Status
    """`hit`: from the server; `near`: from this process; `stale`: past its life, and given since it
    is being loaded anew, or cannot be; `loaded`: just now; `missing`: there is none."""
    age: int | None
    """Milliseconds since it was loaded; None for what was stored by `store`, which is not told, and where
    the server went away before it could be asked."""
    remaining: int | None
    """Milliseconds that it still is fresh, less than 0 for a stale one; None where there is none, or
    it never expires, or the server went away."""
