from .CacheEntry import CacheEntry as CacheEntry
from .DefaultCacheFactory import DefaultCacheFactory as DefaultCacheFactory
from .ICache import ICache as ICache
from .MemoryCache import MemoryCache as MemoryCache
from .NullCache import NullCache as NullCache
