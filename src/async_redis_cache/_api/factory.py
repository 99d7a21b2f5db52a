"""Creates the caches from configuration, as the framework's container does."""

from __future__ import annotations

from typing import Final

from async_redis_cache._common.pip_services import Descriptor, Factory

from .async_cache import AsyncRedisCache
from .sync_cache import RedisCache

__all__ = ["DefaultRedisFactory"]


class DefaultRedisFactory(Factory):
    """Creates both caches by their descriptors.

    `RedisCache` for `pip-services:cache:redis:*:1.0`, and `AsyncRedisCache` for
    `pip-services:cache:async-redis:*:1.0`. The framework's `Opener` opens the first. The second is created and configured by the
    framework, but must be opened by a program that awaits it.
    """

    RedisCacheDescriptor: Final = Descriptor("pip-services", "cache", "redis", "*", "1.0")
    AsyncRedisCacheDescriptor: Final = Descriptor(
        "pip-services", "cache", "async-redis", "*", "1.0"
    )

    def __init__(self) -> None:
        super().__init__()
        self.register_as_type(self.RedisCacheDescriptor, RedisCache)
        self.register_as_type(self.AsyncRedisCacheDescriptor, AsyncRedisCache)
