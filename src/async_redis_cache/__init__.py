"""A Redis cache for asyncio services, with a synchronous API on the same core."""

from ._api.async_cache import AsyncRedisCache
from ._api.batch_loading import CoalescingLoader
from ._api.cache_entry import CacheEntry
from ._api.cached_functions import CachedCoroutine, CachedFunction
from ._api.decorator import cached
from ._api.loaders import Load
from ._api.namespace import Namespace
from ._api.openable import IAsyncCache
from ._api.sync_cache import DefaultRedisFactory, RedisCache
from ._api.sync_namespace import SyncNamespace
from ._common.durations import FOREVER, Forever
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
from ._engine.load_options import LoadOptions
from ._values.serializers import Serializer

__version__ = "0.1.0"

__all__ = [
    "FOREVER",
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
    "Forever",
    "IAsyncCache",
    "Load",
    "LoadOptions",
    "Namespace",
    "RedisCache",
    "Serializer",
    "SyncNamespace",
    "cached",
]

# The module that users import from: pickled errors and tracebacks stay valid when a class moves inside the package.
for _public in map(globals().__getitem__, __all__):
    _public.__module__ = __name__
