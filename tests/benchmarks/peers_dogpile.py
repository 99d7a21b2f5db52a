"""dogpile.cache."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from .peers import HITS_AND_STORES, decode, encode
from .servers import Target
from .workloads import EXPIRY_MS


class Dogpile:
    """A region over its Redis backend, shared by all threads; it stores a header with each value."""

    name = "dogpile.cache"
    operations = HITS_AND_STORES

    def open(self, server: Target) -> None:
        dogpile: Any = import_module("dogpile.cache")
        region = dogpile.make_region(serializer=encode, deserializer=decode)
        arguments = {
            "host": server.host,
            "port": server.port,
            "redis_expiration_time": EXPIRY_MS // 1000,
        }
        self._no_value = import_module("dogpile.cache.api").NO_VALUE
        self._region: Any = region.configure("dogpile.cache.redis", arguments=arguments)

    def close(self) -> None:
        self._region.backend.writer_client.close()

    def store(self, key: str, value: object) -> object:
        self._region.set(key, value)
        return value

    def retrieve(self, key: str) -> object:
        value = self._region.get(key)
        return None if value is self._no_value else value

    def remove(self, key: str) -> object:
        return self._region.delete(key)

    def retrieve_many(self, keys: Sequence[str]) -> Mapping[str, object]:
        return dict(zip(keys, self._region.get_multi(keys), strict=True))

    def fill(self, values: Mapping[str, object]) -> None:
        self._region.set_multi(dict(values))
