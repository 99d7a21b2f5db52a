"""Django's cache: the backend that Django brings, and django-redis."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from .peers import HITS_AND_STORES, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS

_EXPIRY = EXPIRY_MS // 1000


class MsgspecJson:
    """What both ask of a serializer; django-redis looks it up by its name."""

    def __init__(self, options: object = None) -> None:
        pass

    dumps = staticmethod(encode)
    loads = staticmethod(decode)


class Django:
    """One cache shared by all threads; Django itself gives each thread a cache, and so a pool."""

    name = "Django"
    operations = HITS_AND_STORES
    _backend = "django.core.cache.backends.redis"
    _options: Mapping[str, object] = {"serializer": MsgspecJson}

    def open(self, server: Target) -> None:
        settings: Any = import_module("django.conf").settings
        if not settings.configured:
            settings.configure()
        backend: Any = import_module(self._backend)
        self._cache: Any = backend.RedisCache(server.url, {"OPTIONS": dict(self._options)})

    def close(self) -> None:
        self._cache.close()

    def store(self, key: str, value: object) -> object:
        self._cache.set(key, value, _EXPIRY)
        return value

    def retrieve(self, key: str) -> object:
        return self._cache.get(key)

    def remove(self, key: str) -> object:
        return self._cache.delete(key)

    def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        return dict(self._cache.get_many(keys))

    def fill(self, values: Mapping[str, object]) -> None:
        self._cache.set_many(values, _EXPIRY)


class DjangoRedis(Django):
    name = "django-redis"
    _backend = "django_redis.cache"
    _options: Mapping[str, object] = {"SERIALIZER": f"{__name__}.MsgspecJson"}
