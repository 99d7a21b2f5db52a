"""Storage formats of the caches of `loading_fixtures`."""

from __future__ import annotations

from typing import Any

__all__ = ["LEASE", "PREFIX", "STORAGES"]

PREFIX = "load:"
STORAGES: dict[str, dict[str, Any]] = {
    "bounded": {},
    "unbounded": {"max_size": 0},
    "near": {"near_cache_enabled": True},
}
LEASE = 10_000
"""Milliseconds: a machine that stalls does not end a load."""
