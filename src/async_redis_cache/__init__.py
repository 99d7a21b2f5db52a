"""The Redis cache for asyncio services, and for the synchronous ones beside them."""

from ._batches import CoalescingLoader
from ._cache import AsyncRedisCache
from ._cache_entry import CacheEntry
from ._cached_functions import CachedCoroutine, CachedFunction
from ._common.errors import (
    CacheAuthError,
    CacheConfigError,
    CacheError,
    CacheInputError,
    CacheLoadError,
    CacheLoginError,
    CacheOutcomeUnknown,
    CacheOverloaded,
    CachePermissionError,
    CacheServerError,
    CacheStateError,
    CacheTimeout,
    CacheUnavailable,
    CacheUnsupported,
)
from ._common.option_keywords import CacheOptions
from ._common.stats import CacheStats
from ._contract import IAsyncCache
from ._decorator import cached
from ._engine.load_options import LoadOptions
from ._factory import DefaultRedisFactory
from ._loaders import Load
from ._sync_cache import RedisCache
from ._values.serializers import Serializer

__version__ = "0.1.0"

__all__ = [
    "AsyncRedisCache",
    "CacheAuthError",
    "CacheConfigError",
    "CacheEntry",
    "CacheError",
    "CacheInputError",
    "CacheLoadError",
    "CacheLoginError",
    "CacheOptions",
    "CacheOutcomeUnknown",
    "CacheOverloaded",
    "CachePermissionError",
    "CacheServerError",
    "CacheStateError",
    "CacheStats",
    "CacheTimeout",
    "CacheUnavailable",
    "CacheUnsupported",
    "CachedCoroutine",
    "CachedFunction",
    "CoalescingLoader",
    "DefaultRedisFactory",
    "IAsyncCache",
    "Load",
    "LoadOptions",
    "RedisCache",
    "Serializer",
    "cached",
]
