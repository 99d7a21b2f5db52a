"""A Redis cache for asyncio services, with a synchronous API on the same core."""

from importlib import import_module
from typing import TYPE_CHECKING

from ._api.async_cache import AsyncRedisCache
from ._api.batch_loading import CoalescingLoader
from ._api.cache_entry import CacheEntry
from ._api.loaders import Load
from ._api.namespace import Namespace
from ._api.openable import IAsyncCache
from ._common.durations import FOREVER, Forever
from ._common.errors import (
    CacheAuthError,
    CacheConfigError,
    CacheError,
    CacheInputError,
    CacheLoadError,
    CacheLockError,
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

if TYPE_CHECKING:
    from ._api.cached_functions import CachedCoroutine, CachedFunction
    from ._api.decorator import cached
    from ._api.locks import Lock, SyncLock
    from ._api.sync_cache import DefaultRedisFactory, RedisCache
    from ._api.sync_namespace import SyncNamespace

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
    "CacheLockError",
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
    "Lock",
    "Namespace",
    "RedisCache",
    "Serializer",
    "SyncLock",
    "SyncNamespace",
    "cached",
]

_IMPORTED_WHEN_USED = {
    "CachedCoroutine": "._api.cached_functions",
    "CachedFunction": "._api.cached_functions",
    "DefaultRedisFactory": "._api.sync_cache",
    "Lock": "._api.locks",
    "RedisCache": "._api.sync_cache",
    "SyncLock": "._api.locks",
    "SyncNamespace": "._api.sync_namespace",
    "cached": "._api.decorator",
}
"""Public names that not every program needs, and the modules that define them."""

# The module that users import from: pickled errors and tracebacks stay valid when a class moves inside the package.
# The modules that are imported when they are used do this themselves.
for _public in (globals()[name] for name in __all__ if name not in _IMPORTED_WHEN_USED):
    _public.__module__ = __name__

# Type checkers take the names from above, and report others.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _IMPORTED_WHEN_USED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = globals()[name] = getattr(import_module(_IMPORTED_WHEN_USED[name], __name__), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
