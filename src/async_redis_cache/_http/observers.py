"""What is called for each response of a cache, such as to count it in a monitoring system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from async_redis_cache import AsyncRedisCache

from .cache_status import CacheStatus

__all__ = ["OBSERVERS", "Observe"]

Observe: TypeAlias = Callable[[str, str, CacheStatus], None]
"""Called with the namespace and the route of a response, and how it was handled, before the response is sent."""

OBSERVERS: Final[WeakKeyDictionary[AsyncRedisCache, Observe]] = WeakKeyDictionary()
"""The observer of each cache that has one."""
